"""The one loop that keeps runs in flight, has a lost one tried again, and takes in what a killed night left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from autoresearch.config import EnergySettings
from autoresearch.workers.energy import Energy, estimate
from autoresearch.workers.launcher import Launcher, Note, Progress, read_result
from trainer.protocol import RunRequest, RunResult

POLL_SECONDS = 0.5
# Times that a run is handed out in one night before a worker's death is the run's failure. What an earlier night
# handed out does not count: that its runner was killed says nothing against the run.
MAX_ATTEMPTS = 2

# The caller's own record of a run.
R = TypeVar("R")


@dataclass(frozen=True)
class Task(Generic[R]):
    """A run to be handed out, and what the worker is told."""

    run: R
    request: RunRequest
    timeout_seconds: float


@dataclass(frozen=True)
class Ended(Generic[R]):
    """A run with its result: complete, failed or cancelled."""

    run: R
    result: RunResult
    energy: Energy


@dataclass(frozen=True)
class Lost(Generic[R]):
    """A run whose worker died under it: it comes to no harm if the caller has it handed out again."""

    run: R
    message: str


class Crew(Generic[R]):
    """Hands out the caller's runs through a launcher; `in_flight` has those that are with a worker, by run id."""

    def __init__(self, launcher: Launcher, max_attempts: int = MAX_ATTEMPTS) -> None:
        self.in_flight: dict[str, R] = {}
        self._launcher, self._max_attempts = launcher, max_attempts
        self._attempts: dict[str, int] = {}

    @property
    def capacity(self) -> int:
        """Runs at once."""
        return self._launcher.capacity

    def hand_out(self, next_task: Callable[[], Task[R] | None]) -> Iterator[R]:
        """Asks for runs until every worker has one, or there is none to begin just now; yields each once it has begun.

        A run that was lost is asked for like any other: whose turn it is, the caller knows.
        """
        while len(self.in_flight) < self._launcher.capacity and (task := next_task()):
            self.submit(task)
            yield task.run

    def submit(self, task: Task[R]) -> None:
        """Hands out one run, which a worker must be free for."""
        run_id = task.request.run_id
        self._attempts[run_id] = 1 + self._attempts.get(run_id, 0)
        self.in_flight[run_id] = task.run
        self._launcher.submit(task.request, task.timeout_seconds)

    def cancel(self, run_id: str) -> None:
        """Asks a run to end; see Launcher."""
        self._launcher.cancel(run_id)

    def next_event(self, timeout_seconds: float = POLL_SECONDS) -> Progress | Note | Ended[R] | Lost[R] | None:
        """What happens next; None where nothing does in that time."""
        event = self._launcher.next_event(timeout_seconds)
        if event is None or isinstance(event, Progress | Note):
            return event
        run = self.in_flight.pop(event.run_id)
        if event.result.failure == "worker_died" and self._attempts[event.run_id] < self._max_attempts:
            return Lost(run, f"{event.result.message}; it is tried once more")
        return Ended(run, event.result, event.energy)


def left_behind(run: R, result_path: Path, settings: EnergySettings) -> Ended[R] | None:
    """The end of a run whose result a killed night left, its energy estimated; None where it left none."""
    try:
        result = read_result(result_path)
    except (OSError, ValueError):
        return None
    return Ended(run, result, estimate(settings, result))
