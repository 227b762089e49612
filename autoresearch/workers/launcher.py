"""The seam where runs are done: submit a request, get events; a cluster plugs in here beside this machine's workers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from autoresearch.workers.energy import Energy
from rails import clean
from trainer.protocol import RunRequest, RunResult

LONGEST_MESSAGE = 1000


@dataclass(frozen=True)
class Progress:
    """A sign of life from a run."""

    run_id: str
    phase: str
    step: int
    steps: int
    loss: float | None


@dataclass(frozen=True)
class Finished:
    """A run that has ended, one way or another."""

    run_id: str
    result: RunResult
    energy: Energy


@dataclass(frozen=True)
class Note:
    """What a person should hear of the workers."""

    text: str


Event = Progress | Finished | Note


def read_result(path: str | Path) -> RunResult:
    """A run's result file, its words made safe to show: another program may have written them. Raises as
    RunResult.read does."""
    result = RunResult.read(path)
    return replace(result, message=clean(result.message, LONGEST_MESSAGE), device=clean(result.device, 80))


class Launcher(Protocol):
    """Takes up to `capacity` runs at once, which may change with each event, down to none. Never raises for a run that
    fails: that is a result."""

    @property
    def capacity(self) -> int: ...

    def submit(self, request: RunRequest, timeout_seconds: float) -> None: ...

    def cancel(self, run_id: str) -> None:
        """Asks a run to end; does nothing for one that is not in flight.

        It finishes as any other: cancelled, with its curve so far and its worker still warm, or as it has ended
        meanwhile. One that does not heed it is killed, and cancelled too: whatever becomes of its worker is no failure.
        """

    def next_event(self, timeout_seconds: float) -> Event | None: ...

    def close(self) -> None: ...
