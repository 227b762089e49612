"""The memory of one run, in a process that does many: the most that it held, the most that it may."""

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

RESET_HIGH_WATER_MARK = "5"  # man 5 proc, clear_refs

# mallopt(3): glibc's numbers for these settings, and what they are set to.
KEEPING = {"M_MMAP_THRESHOLD": (-3, 8 * 2**20), "M_TRIM_THRESHOLD": (-1, -1), "M_TOP_PAD": (-2, 64 * 2**20)}


class MemoryPeak:
    """Counts from its making: memory that torch allocated on a GPU; on a CPU the process's resident memory, all of it.

    Where the kernel keeps no mark that can be reset, the peak is the highest of the samples.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._highest_sample_bytes = 0
        self._has_mark = False
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            return_freed_memory()
            self._has_mark = _reset_high_water_mark()
        self.sample()

    def sample(self) -> None:
        """Looks at the memory in use now, where that is the only way."""
        if self._device.type == "cpu" and not self._has_mark:
            import psutil  # here, since on most machines the trainer needs nothing beyond torch and numpy

            self._highest_sample_bytes = max(self._highest_sample_bytes, psutil.Process().memory_info().rss)

    def bytes(self) -> int:
        """The peak so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _high_water_bytes() if self._has_mark else self._highest_sample_bytes

    def bytes_if_told(self) -> int | None:
        """The same; None where a GPU says no more, after an error that stays with the process."""
        try:
            return self.bytes()
        except RuntimeError:
            return None


def limit_memory(device: torch.device, allowed_bytes: int | None) -> None:
    """Has torch refuse, as out of memory, to take more of a GPU than this; None: than it has. Nothing on a CPU."""
    if device.type == "cuda":
        total_bytes = torch.cuda.get_device_properties(device).total_memory
        fraction = 1.0 if allowed_bytes is None else min(1.0, allowed_bytes / total_bytes)
        torch.cuda.set_per_process_memory_fraction(fraction, device)


def release_memory() -> None:
    """Gives all that a run has left behind back, so that the next one finds what this one found. Never raises."""
    gc.collect()
    return_freed_memory()
    if torch.cuda.is_available():
        # A GPU error that stays with the process comes up in each later call: the run's result still has to be written,
        # and whether the worker is of any more use is asked after that.
        with suppress(RuntimeError):
            torch.cuda.empty_cache()


def keep_freed_memory() -> None:
    """Makes this process hold on to what it frees until `return_freed_memory`, but for tensors of 8 MiB or more.

    Otherwise each step returns its tensors' memory to the system and faults it in again for the next, page by page: a
    seventh of a small model's step. Large ones would leave large holes.
    """
    if (mallopt := _glibc("mallopt")) is not None:
        for setting, value in KEEPING.values():
            mallopt(setting, value)


def return_freed_memory() -> None:
    """Gives freed memory back to the system, so that it is not counted as the next run's and others can have it."""
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


def _glibc(name: str) -> Any:
    """A function of the C library; None where it is another one, such as musl."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def _reset_high_water_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text(RESET_HIGH_WATER_MARK)
        return _high_water_bytes() > 0
    except OSError:
        return False


def _high_water_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
