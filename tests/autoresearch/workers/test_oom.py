"""A kill for want of memory is told from other deaths by the kernel's own count, where it can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoresearch.workers.oom import oom_kills, was_for_memory


def test_the_first_counter_that_can_be_read_counts(tmp_path: Path) -> None:
    vmstat, events = tmp_path / "vmstat", tmp_path / "memory.events"
    assert oom_kills([vmstat, events]) is None
    events.write_text("low 0\noom 5\noom_kill 3\noom_group_kill 1\n")
    assert oom_kills([vmstat, events]) == 3
    vmstat.write_text("pgfault 12\n")
    assert oom_kills([vmstat, events]) == 3, "an old kernel's has no such line"
    vmstat.write_text("pgfault 12\noom_kill 7\n")
    assert oom_kills([vmstat, events]) == 7


@pytest.mark.parametrize(
    ("exit_code", "processes", "before", "after", "for_memory"),
    [
        (-9, 1, 4, 5, True),
        (-9, 1, 4, 4, False),  # a person's kill -9
        (-9, 1, None, None, True),
        (-11, 1, 4, 5, False),
        (1, 1, None, None, False),
        (1, 2, 4, 5, True),  # torchrun's, when one of its processes is killed
        (1, 2, 4, 4, False),
    ],
)
def test_a_death_for_want_of_memory(
    exit_code: int, processes: int, before: int | None, after: int | None, for_memory: bool
) -> None:
    assert was_for_memory(exit_code, processes, before, after) is for_memory
