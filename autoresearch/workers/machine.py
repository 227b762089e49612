"""What this machine is: its GPUs or cores, how many runs fit at once, and which precisions it can do."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache

import psutil
import pynvml

from autoresearch.errors import UserError
from autoresearch.workers import nvml


@dataclass(frozen=True)
class Machine:
    """One kind of device, `devices` of them (GPUs, or CPU cores), with the memory that one run may take."""

    kind: str  # cuda or cpu
    name: str
    devices: int
    memory_bytes: int
    precisions: tuple[str, ...]

    def worker_devices(self, device: str, workers: int | None, processes: int = 1) -> list[str]:
        """The (first) device of each worker, which takes as many devices as a run has processes.

        As many workers as there are devices for, by default; more of them share in turn. Raises UserError if there
        are too few GPUs for one.
        """
        if self.kind == "cpu":
            return ["cpu"] * (workers or max(1, self.devices // processes))
        first = int(device.partition(":")[2]) if ":" in device else 0
        last = first + processes if ":" in device else self.devices
        pool = [f"cuda:{i}" for i in range(first, last - processes + 1, processes)]
        if not pool or last > self.devices:
            raise UserError(
                f"tensor_parallel x data_parallel is {processes}, but device {device!r} leaves "
                f"{max(0, self.devices - first)} GPUs for it: lower one of them"
            )
        return [pool[i % len(pool)] for i in range(workers or len(pool))]


def look(device: str = "auto", backend: str = "torch") -> Machine:
    """The machine as `device` (auto, cpu, cuda, cuda:N) asks for it, with the precisions that the backend can do there.

    Raises UserError where there is no such GPU.
    """
    gpus = [] if device == "cpu" else nvidia_gpus()
    index = int(device.removeprefix("cuda:")) if device.startswith("cuda:") else 0
    if index >= len(gpus):
        if device.startswith("cuda"):
            raise UserError(
                f"device is {device!r}, but this machine shows {len(gpus)} NVIDIA GPUs: try device = 'auto'"
            )
        return _cpu()
    name, memory_bytes = gpus[index]
    return Machine("cuda", name, len(gpus), memory_bytes, _proven_precisions(index, backend))


@lru_cache
def _proven_precisions(index: int, backend: str) -> tuple[str, ...]:
    """Asked of torch in a process of its own, by training a step in each: torch takes seconds and memory to load."""
    command = [sys.executable, "-m", "trainer.capability", f"cuda:{index}", backend]
    environment = {**os.environ, **nvml.ENVIRONMENT}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        problem = (done.stderr.strip() or "no message").splitlines()[-1].removeprefix("error: ")
        raise UserError(f"there is an NVIDIA GPU, but torch cannot use it ({problem}): install torch's CUDA build")
    return tuple(json.loads(done.stdout))


def _cpu() -> Machine:
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    name = platform.processor() or platform.machine()
    return Machine("cpu", name, cores, psutil.virtual_memory().total // cores, ("fp32", "bf16"))


def nvidia_gpus() -> list[tuple[str, int]]:
    """(name, memory in bytes) of cuda:0, cuda:1, ...; empty where there is no driver."""
    found = []
    for handle in nvml.handles():
        try:
            memory_bytes = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
        except pynvml.NVMLError_NotSupported:
            memory_bytes = psutil.virtual_memory().total  # a GB10 shares the machine's memory and reports none
        found.append((str(pynvml.nvmlDeviceGetName(handle)), memory_bytes))
    return found
