"""NVML with two cards, whose counters, power and processes a test sets."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest

UUIDS = ("aaaa-0", "bbbb-1")  # as torch tells them, of cuda:0 and cuda:1


class Cards:
    """Joules and watts by card, None: the card has none; handles are the cards' numbers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.joules: dict[int, float | None] = {0: 1000.0, 1: 5000.0}
        self.watts: dict[int, float | None] = {0: None, 1: None}
        self.sliced: set[int] = set()
        self.processes: dict[int, set[int]] = {0: set(), 1: set()}
        self.looks = 0  # for processes
        for name, answer in {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByUUID": self.by_uuid,
            "nvmlDeviceGetHandleByIndex": lambda card: card,
            "nvmlDeviceGetUUID": lambda card: f"GPU-{UUIDS[card]}",
            "nvmlDeviceGetMigMode": self.mig_mode,
            "nvmlDeviceGetTotalEnergyConsumption": self.millijoules,
            "nvmlDeviceGetPowerUsage": self.milliwatts,
            "nvmlDeviceGetComputeRunningProcesses": self.computing,
        }.items():
            monkeypatch.setattr(pynvml, name, answer)

    def by_uuid(self, uuid: str) -> int:
        if uuid.removeprefix("GPU-") not in UUIDS:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return UUIDS.index(uuid.removeprefix("GPU-"))

    def mig_mode(self, card: int) -> list[int]:
        if card == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [int(card in self.sliced), 0]

    def millijoules(self, card: int) -> int:
        return thousandths(self.joules[card])

    def milliwatts(self, card: int) -> int:
        return thousandths(self.watts[card])

    def computing(self, card: int) -> list[SimpleNamespace]:
        self.looks += 1
        return [SimpleNamespace(pid=pid) for pid in self.processes[card]]


def thousandths(value: float | None) -> int:
    if value is None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return int(value * 1000)
