"""The seam where runs are done: submit a request, get events; a cluster plugs in here beside this machine's workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from autoresearch.workers.energy import Energy
from trainer.protocol import RunRequest, RunResult

POLL_SECONDS = 0.5
# Times that a run is handed out before a worker's death is the run's failure.
MAX_ATTEMPTS = 2


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


Event = Progress | Finished


class Launcher(Protocol):
    """Takes up to `capacity` runs at once. Never raises for a run that fails: that is a result."""

    capacity: int

    def submit(self, request: RunRequest, timeout_seconds: float) -> None: ...

    def next_event(self, timeout_seconds: float) -> Event | None: ...

    def close(self) -> None: ...
