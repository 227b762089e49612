"""Energy of one run in joules, from the best source there is: NVML's, else RAPL's, else an estimate that says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from autoresearch.config import EnergySettings
from autoresearch.workers import nvml
from autoresearch.workers.gpu_energy import GpuEnergy
from trainer.protocol import RunResult

QUESTION = "a question"  # beside the ids of runs
RAPL = Path("/sys/class/powercap")
JOULES_PER_KWH = 3.6e6
# Between two readings of a GPU's power: drivers renew it, or average it over, about as often. Between two looks, too,
# whether a model that is asked has been loaded meanwhile.
SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Energy:
    """joules and where they come from: nvml, nvml power, rapl or estimate."""

    joules: float
    source: str


@dataclass(frozen=True)
class _Reading:
    rapl_joules: float | None
    machine_busy_seconds: float
    worker_cpu_seconds: float
    monotonic: float


class EnergyMeter:
    """Reads the counters when a run starts and when it ends. One for all workers of a machine.

    nvml: the counters of the run's GPUs; nvml power: their power, read every second by a thread, where a card has no
    counter. Runs that share a GPU divide it evenly, moment by moment. rapl: the processor packages, shared out by
    processor time, since several runs share them. estimate: processor time x `watts_per_core`, or the run's part of
    wall time x `gpu_watts` on a GPU that tells nothing.

    A question to a model that runs on this machine counts as one more run on each GPU, also one of no worker, where a
    process computes that this one has not started. On the processor it is not metered. There is one at a time.

    uuids: of cuda:0, cuda:1, ... as torch has them.
    """

    def __init__(self, settings: EnergySettings, uuids: Sequence[str] = (), rapl: Path = RAPL) -> None:
        self.settings = settings
        self._uuids = tuple(uuids)
        self._gpus: dict[int | str, GpuEnergy] = dict(enumerate(map(GpuEnergy, uuids)))  # by UUID where no worker's
        self._asked: list[int | str] | None = None  # GPUs that the question is on; None: nothing is asked
        self._packages = [zone for zone in sorted(rapl.glob("intel-rapl:[0-9]*")) if _is_package(zone)]
        self._started: dict[str, _Reading] = {}
        self._change = threading.Condition()  # of what runs on the GPUs
        self._sampler: threading.Thread | None = None

    def source(self, gpus: Sequence[int | str] = ()) -> str:
        """Where the energy of a run on these GPUs, or without any on the processor, comes from."""
        if not gpus:
            return "estimate" if self._rapl_joules() is None else "rapl"
        sources = {self._gpu(gpu).source for gpu in gpus}
        if None in sources:
            return "estimate"
        return "nvml power" if "nvml power" in sources else "nvml"

    def start(self, run: str, pid: int | None, gpus: Sequence[int]) -> None:
        self._started[run] = self._read(pid)
        with self._change:
            for gpu in gpus:
                self._gpu(gpu).begin(run, time.monotonic())
            self._wake_sampler()

    def stop(self, run: str, pid: int | None, gpus: Sequence[int], cpu_seconds: float | None) -> Energy:
        """Energy since `start`. Without a start (the runner was killed meanwhile) it is an estimate."""
        before = self._started.pop(run, None)
        if before is None:
            return Energy((cpu_seconds or 0.0) * self.settings.watts_per_core, "estimate")
        if gpus:
            return self._of_gpus(run, gpus)
        after = self._read(pid)
        wall = after.monotonic - before.monotonic
        used = (
            cpu_seconds if cpu_seconds is not None else max(0.0, after.worker_cpu_seconds - before.worker_cpu_seconds)
        )
        used = used or wall  # a worker that died took its counter along; it was busy until then
        if before.rapl_joules is not None and after.rapl_joules is not None and after.rapl_joules >= before.rapl_joules:
            busy = max(after.machine_busy_seconds - before.machine_busy_seconds, used)
            return Energy((after.rapl_joules - before.rapl_joules) * used / busy if busy else 0.0, "rapl")
        return Energy(used * self.settings.watts_per_core, "estimate")

    def begin(self) -> None:
        """A question is asked. Any thread may say so."""
        with self._change:
            self._asked = []
            self._join()
            self._wake_sampler()

    def end(self) -> Energy | None:
        """What the question took since `begin`; None where no GPU of this machine had to do with it."""
        with self._change:
            gpus, self._asked = self._asked, None
            self._change.notify_all()
            return self._of_gpus(QUESTION, gpus) if gpus else None

    def _join(self) -> None:
        """The question is on each GPU where others compute, from now on if it was not yet."""
        if self._asked is None or not (computing := nvml.computing()):
            return
        ours = {child.pid for child in psutil.Process().children(recursive=True)}
        for uuid, pids in computing.items():
            gpu = self._uuids.index(uuid) if uuid in self._uuids else uuid
            if pids - ours and gpu not in self._asked:
                self._gpu(gpu).begin(QUESTION, time.monotonic())
                self._asked.append(gpu)

    def _of_gpus(self, run: str, gpus: Sequence[int | str]) -> Energy:
        with self._change:
            shares = [self._gpu(gpu).end(run, time.monotonic()) for gpu in gpus]
            self._change.notify_all()
        joules = [share.joules for share in shares if share.joules is not None]
        if len(joules) == len(shares):
            return Energy(sum(joules), self.source(gpus))
        return Energy(sum(share.seconds for share in shares) * self.settings.gpu_watts, "estimate")

    def _gpu(self, gpu: int | str) -> GpuEnergy:
        if gpu not in self._gpus:
            self._gpus[gpu] = GpuEnergy(gpu if isinstance(gpu, str) else None)
        return self._gpus[gpu]

    @property
    def _wanting(self) -> list[GpuEnergy]:
        return [gpu for gpu in self._gpus.values() if gpu.wants_samples]

    def _wake_sampler(self) -> None:
        if self._sampler is None and (self._wanting or self._asked is not None):
            self._sampler = threading.Thread(target=self._sample, name="power", daemon=True)
            self._sampler.start()

    def _sample(self) -> None:
        """Until no run is left on a GPU that wants it, and nothing is asked."""
        with self._change:
            while (busy := self._wanting) or self._asked is not None:
                for gpu in busy:
                    gpu.settle(time.monotonic())
                self._join()
                self._change.wait(SAMPLE_SECONDS)
            self._sampler = None

    def _read(self, pid: int | None) -> _Reading:
        times = psutil.cpu_times()
        worker = 0.0
        if pid is not None:
            with suppress(psutil.Error):
                used = psutil.Process(pid).cpu_times()
                worker = used.user + used.system
        busy = times.user + times.system + getattr(times, "nice", 0.0)  # under nice(1) all of a worker's time is there
        return _Reading(self._rapl_joules(), busy, worker, time.monotonic())

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
