"""The most memory that one run held, in a process that does many."""

import ctypes
import sys
from pathlib import Path

import psutil
import torch

RESET_HIGH_WATER_MARK = "5"  # man 5 proc, clear_refs


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
            _return_freed_memory()
            self._has_mark = _reset_high_water_mark()
        self.sample()

    def sample(self) -> None:
        """Looks at the memory in use now, where that is the only way."""
        if self._device.type == "cpu" and not self._has_mark:
            self._highest_sample_bytes = max(self._highest_sample_bytes, psutil.Process().memory_info().rss)

    def bytes(self) -> int:
        """The peak so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _high_water_bytes() if self._has_mark else self._highest_sample_bytes


def _return_freed_memory() -> None:
    """Gives the last run's freed memory back to the system, so that it is not counted as this run's."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl has not
        if trim is not None:
            trim(0)


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
