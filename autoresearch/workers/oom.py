"""Whether the kernel ended a worker because memory ran out: such a run is not tried a second time."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# The first counts for the whole machine, containers included; where it is hidden, a container's own may be there.
COUNTERS = (
    Path("/proc/vmstat"),
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
)


def oom_kills(counters: Sequence[Path] = COUNTERS) -> int | None:
    """Processes that the kernel has killed for want of memory; None where it does not say."""
    for counter in counters:
        with suppress(OSError, ValueError):
            for line in counter.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return None


def was_for_memory(exit_code: int | None, processes: int, before: int | None, after: int | None) -> bool:
    """Whether a worker that nobody here killed died for want of memory. exit_code: as subprocess has it; before and
    after: `oom_kills` then. Without a counter a SIGKILL is taken for one, since hardly anybody else sends it.

    A worker of several processes ends with torchrun's own exit code when one of them is killed.
    """
    killed = exit_code == -signal.SIGKILL
    if before is None or after is None:
        return killed
    return after > before and (killed or (processes > 1 and exit_code != 0))
