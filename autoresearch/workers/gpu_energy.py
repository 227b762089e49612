"""The energy of one GPU, divided evenly among the runs that are on it at each moment."""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch.workers import nvml


@dataclass
class Share:
    """What one run has of a GPU. joules: None once a reading has failed. seconds: its part of the GPU's time."""

    joules: float | None = 0.0
    seconds: float = 0.0


class GpuEnergy:
    """Moments are seconds of a clock that only goes forward.

    source: "nvml", the card's own counter; "nvml power", its power, integrated by the trapezoid rule between readings,
    for which `settle` is to be called often; None where the card, or the slice of it, has neither.
    """

    def __init__(self, uuid: str | None) -> None:
        handle = None if uuid is None else nvml.whole_gpu(uuid)
        self._handle, self.source = handle, None if handle is None else _source(handle)
        self._shares: dict[str, Share] = {}
        self._moment = 0.0
        self._reading: float | None = None  # joules so far, or watts just then

    @property
    def wants_samples(self) -> bool:
        """While a run is on it: power has no memory."""
        return self.source == "nvml power" and bool(self._shares)

    def begin(self, run: str, moment: float) -> None:
        self.settle(moment)
        self._shares[run] = Share()

    def end(self, run: str, moment: float) -> Share:
        self.settle(moment)
        return self._shares.pop(run)

    def settle(self, moment: float) -> None:
        """Divides what was taken since the last time."""
        seconds, before = moment - self._moment, self._reading
        self._moment, self._reading = moment, self._read()
        taken = self._taken(before, self._reading, seconds)
        for share in self._shares.values():
            share.seconds += seconds / len(self._shares)
            if taken is None or share.joules is None:
                share.joules = None
            else:
                share.joules += taken / len(self._shares)

    def _read(self) -> float | None:
        if self._handle is None or self.source is None:
            return None
        return nvml.joules(self._handle) if self.source == "nvml" else nvml.watts(self._handle)

    def _taken(self, before: float | None, after: float | None, seconds: float) -> float | None:
        if before is None or after is None:
            return None
        if self.source == "nvml":
            return after - before if after >= before else None  # a counter that was reset
        return (before + after) / 2 * seconds


def _source(handle: object) -> str | None:
    if nvml.joules(handle) is not None:
        return "nvml"
    return None if nvml.watts(handle) is None else "nvml power"
