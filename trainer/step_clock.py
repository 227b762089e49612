"""Where the time of a training step goes: data, forward, backward, optimizer."""

import time
from typing import Any

import torch

PHASES = ("data", "forward", "backward", "optimizer")


class StepClock:
    """Told at the end of each phase. On a GPU it reads events of the device's own queue, so that nothing waits.

    The first step is left out of all means: it loads, compiles and allocates what later steps find ready.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._steps = 0
        self._unread: list[tuple[str, Any, Any]] = []
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._last = self._now()

    def phase_ended(self, phase: str) -> None:
        """All since the last call was this phase."""
        now = self._now()
        self._unread.append((phase, self._last, now))
        self._last = now

    def step_ended(self) -> None:
        self._steps += 1
        if self._steps == 1:
            self._unread.clear()

    def read(self) -> None:
        """Adds up what was noted; what was done since then is no part of a step.

        On a GPU: to be called when the device has finished, so that every event has its time.
        """
        for phase, start, end in self._unread:
            self._seconds[phase] += start.elapsed_time(end) / 1000 if self._device.type == "cuda" else end - start
        self._unread.clear()
        self._last = self._now()

    @property
    def step_seconds(self) -> dict[str, float]:
        """The mean of each phase over the steps after the first; empty if there was only one."""
        later = self._steps - 1
        return {phase: seconds / later for phase, seconds in self._seconds.items()} if later > 0 else {}

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
