"""Energy of one run in joules, from the best counter there is: NVML's, else RAPL's, else an estimate that says so."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pynvml

from autoresearch.config import EnergySettings
from autoresearch.workers import nvml
from trainer.protocol import RunResult

RAPL = Path("/sys/class/powercap")
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Energy:
    """joules and where they come from: nvml, rapl or estimate."""

    joules: float
    source: str


@dataclass(frozen=True)
class _Reading:
    nvml_joules: float | None
    rapl_joules: float | None
    machine_busy_seconds: float
    worker_cpu_seconds: float
    monotonic: float


class EnergyMeter:
    """Reads the counters when a run starts and when it ends.

    nvml: the counters of the run's GPUs; one worker a GPU, so all of it is the run's. rapl: the processor packages,
    shared out by processor time, since several runs share them. estimate: processor time x `watts_per_core`, or wall
    time x `gpu_watts` on a GPU without a counter.
    """

    def __init__(self, settings: EnergySettings, rapl: Path = RAPL) -> None:
        self.settings = settings
        self._gpus = nvml.handles()
        self._packages = [zone for zone in sorted(rapl.glob("intel-rapl:[0-9]*")) if _is_package(zone)]
        self._started: dict[str, _Reading] = {}

    @property
    def sources(self) -> list[str]:
        """The sources that this machine offers, best first."""
        found = ["nvml"] if self._gpus else []
        return [*found, *(["rapl"] if self._rapl_joules() is not None else []), "estimate"]

    def start(self, run: str, pid: int | None, gpus: Sequence[int]) -> None:
        self._started[run] = self._read(pid, gpus)

    def stop(self, run: str, pid: int | None, gpus: Sequence[int], cpu_seconds: float | None) -> Energy:
        """Energy since `start`. Without a start (the runner was killed meanwhile) it is an estimate."""
        before = self._started.pop(run, None)
        if before is None:
            return Energy((cpu_seconds or 0.0) * self.settings.watts_per_core, "estimate")
        after = self._read(pid, gpus)
        wall = after.monotonic - before.monotonic
        if before.nvml_joules is not None and after.nvml_joules is not None and after.nvml_joules >= before.nvml_joules:
            return Energy(after.nvml_joules - before.nvml_joules, "nvml")
        if gpus:
            return Energy(wall * self.settings.gpu_watts * len(gpus), "estimate")
        used = (
            cpu_seconds if cpu_seconds is not None else max(0.0, after.worker_cpu_seconds - before.worker_cpu_seconds)
        )
        used = used or wall  # a worker that died took its counter along; it was busy until then
        if before.rapl_joules is not None and after.rapl_joules is not None and after.rapl_joules >= before.rapl_joules:
            busy = max(after.machine_busy_seconds - before.machine_busy_seconds, used)
            return Energy((after.rapl_joules - before.rapl_joules) * used / busy if busy else 0.0, "rapl")
        return Energy(used * self.settings.watts_per_core, "estimate")

    def _read(self, pid: int | None, gpus: Sequence[int]) -> _Reading:
        times = psutil.cpu_times()
        worker = 0.0
        if pid is not None:
            with suppress(psutil.Error):
                used = psutil.Process(pid).cpu_times()
                worker = used.user + used.system
        busy = times.user + times.system + getattr(times, "nice", 0.0)  # under nice(1) all of a worker's time is there
        return _Reading(self._nvml_joules(gpus), self._rapl_joules(), busy, worker, time.monotonic())

    def _nvml_joules(self, gpus: Sequence[int]) -> float | None:
        if not gpus or max(gpus) >= len(self._gpus):
            return None
        try:
            return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._gpus[gpu]) for gpu in gpus) / 1e3
        except pynvml.NVMLError:
            return None  # cards before Volta have no counter

    def _rapl_joules(self) -> float | None:
        try:
            total = sum(int((package / "energy_uj").read_text()) for package in self._packages) / 1e6
        except (OSError, ValueError):
            return None  # readable by root only on most kernels
        return total if self._packages else None


def _is_package(zone: Path) -> bool:
    """Neither a part of a package (intel-rapl:0:0) nor the whole platform (psys), which has the packages in it."""
    with suppress(OSError):
        return zone.name.count(":") == 1 and (zone / "name").read_text().startswith("package")
    return False


def estimate(settings: EnergySettings, result: RunResult) -> Energy:
    """The energy of a run that nobody metered, from what its worker reported."""
    watts, seconds = settings.watts_per_core, result.cpu_seconds
    if result.device.startswith("cuda"):
        watts, seconds = settings.gpu_watts, result.total_seconds
    return Energy((seconds or 0.0) * watts * result.processes, "estimate")
