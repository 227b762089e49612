"""What this machine is: its GPUs or cores, how many runs fit at once, and what torch is proven to do on them."""

from __future__ import annotations

import os
import platform
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import psutil

from autoresearch.config import Settings
from autoresearch.errors import UserError
from autoresearch.workers import nvml
from autoresearch.workers.probe import ProbeFailed, ask

# Left to the system where a GPU has no memory of its own: such a machine does not run out, it stands still, and then
# nobody can end the run. The runner, a report and the text in the page cache fit into it.
RESERVE_BYTES = 4 * 2**30
# What a worker holds beside torch's own allocations: the GPU's context, kernels and, where memory is one, libraries.
CONTEXT_BYTES = 2**30
CPU_FACTS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """One kind of device, `devices` of them (GPUs, or CPU cores), with the memory that one run alone on it may take.

    uuids: of the GPUs, in torch's order. is_integrated: the GPU's memory is the machine's. compile_fault: why
    torch.compile cannot be used; None where it can, or nobody has asked.
    """

    kind: str  # cuda or cpu
    name: str
    devices: int
    memory_bytes: int
    precisions: tuple[str, ...]
    uuids: tuple[str, ...] = ()
    is_integrated: bool = False
    compile_fault: str | None = None

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

    def memory_cap(self, device: str, workers: int | None, processes: int = 1) -> int | None:
        """Bytes that each worker may take of a GPU that it shares, with other workers or with the system.

        None where the GPU is the worker's own, and on a CPU.
        """
        if self.kind == "cpu":
            return None
        return self._cap(max(Counter(self.worker_devices(device, workers, processes)).values()))

    def places(self, settings: Settings) -> list[str]:
        """The (first) device of each worker on this machine, as study.toml asks for them. Raises UserError for one that
        is not here."""
        asked, processes = settings.workers, settings.tensor_parallel * settings.data_parallel
        if not asked.devices:
            return self.worker_devices(settings.device, asked.most, processes)
        for name in asked.devices:
            kind, _, first = name.partition(":")
            if kind != self.kind or int(first or 0) + processes > self.devices:
                raise UserError(
                    f"workers.devices names {name}, but here are {self.devices} x {self.name} ({self.kind})"
                )
        return asked.devices[: asked.most]

    def run_cap(self, settings: Settings) -> int | None:
        """Bytes that each process of a run may take of its GPU; None: all of it, or there is none."""
        if self.kind == "cpu":
            return None
        if settings.workers.launcher == "ray":
            return self._cap(max(1.0, 1 / settings.workers.gpus))
        return self._cap(max(Counter(self.places(settings)).values()))

    def _cap(self, sharers: float) -> int | None:
        if sharers == 1 and not self.is_integrated:
            return None
        share = int(self.memory_bytes // sharers)
        return max(share - CONTEXT_BYTES, share // 2)


def look(device: str = "auto", backend: str = "torch", compile: Literal["auto"] | bool = False) -> Machine:
    """The machine as `device` (auto, cpu, cuda, cuda:N) asks for it, with the precisions that the backend can do there.

    compile: as in study.toml. Whether it works is tried with "auto" only where it would be used, on a GPU with plain
    PyTorch. Raises UserError where there is no such GPU, or no precision can be trained, or compile is True and fails.
    """
    if device == "cpu" or not nvml.is_there():
        if device.startswith("cuda"):
            raise UserError(f"device is {device!r}, but this machine shows no NVIDIA GPU: try device = 'auto'")
        machine = _cpu()
    else:
        machine = _gpu(device, backend)
    if compile is True or (compile == "auto" and machine.kind == "cuda" and backend == "torch"):
        fault = _compile_fault("cpu" if machine.kind == "cpu" else _torch_name(device), backend)
        if fault is not None and compile is True:
            raise UserError(f'compile is true, but cannot be done here ({fault}): mend that, or set compile = "auto"')
        machine = replace(machine, compile_fault=fault)
    return machine


def _gpu(device: str, backend: str) -> Machine:
    try:
        found = ask(_torch_name(device), backend)
    except ProbeFailed as problem:
        raise UserError(
            f"there is an NVIDIA GPU, but torch cannot use it ({problem}): install torch's CUDA build, look at "
            "CUDA_VISIBLE_DEVICES, or set device = 'cpu'"
        ) from None
    gpu = found["gpus"][int(_torch_name(device).removeprefix("cuda:"))]
    if not found["precisions"]:
        why = next(iter(found["refused"].values()))
        raise UserError(f"{gpu['name']} trains in no precision with backend {backend!r}: {why}")
    memory_bytes = gpu["memory_bytes"]
    if gpu["is_integrated"]:
        free = min(memory_bytes, psutil.virtual_memory().available)
        memory_bytes = max(free - RESERVE_BYTES, free // 2)
    return Machine(
        "cuda",
        gpu["name"],
        len(found["gpus"]),
        memory_bytes,
        tuple(found["precisions"]),
        tuple(gpu["uuid"] for gpu in found["gpus"]),
        gpu["is_integrated"],
    )


def _compile_fault(device: str, backend: str) -> str | None:
    try:
        return ask(device, backend, "compile")["compile_fault"]
    except ProbeFailed as problem:
        return str(problem)


def _torch_name(device: str) -> str:
    return device if ":" in device else "cuda:0"


def _cpu() -> Machine:
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    return Machine("cpu", _cpu_name(), cores, psutil.virtual_memory().total // cores, ("fp32", "bf16"))


def _cpu_name() -> str:
    """Its model where the system tells it, as Linux does; else the architecture."""
    with suppress(OSError):
        for line in CPU_FACTS.read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
