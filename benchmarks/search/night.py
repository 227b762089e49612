"""A simulated night: the shipped study loop, with a launcher that answers from a surrogate, and no disk to wait for."""

from __future__ import annotations

import heapq
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from autoresearch.config import LimitSettings
from autoresearch.night.limits import StopRule
from autoresearch.night.loop import StudyLoop
from autoresearch.proposers import Proposer
from autoresearch.study import git_objects
from autoresearch.study.folder import StudyFolder, create_study
from autoresearch.study.workspace import Workspace
from autoresearch.trial import History, Proposal, Recipe
from autoresearch.workers.energy import Energy
from autoresearch.workers.launcher import Event, Finished
from autoresearch.workers.machine import Machine
from rails import Value
from rails.patch import unified_diff
from trainer.protocol import RunRequest, RunResult

from .ground import PRESET

MACHINE = Machine("cpu", "simulated", 2, 2**40, ("fp32", "bf16"))
MEMORY = Path("/dev/shm")  # a file system that no disk waits for
DIGEST = "sha1"


class World(Protocol):
    """What stands in for the trainer."""

    def run(self, recipe: Mapping[str, Value], seed: int, night: int) -> RunResult:
        """One run: the same arguments give the same result. night: which draw of all luck."""


@dataclass(frozen=True)
class Standing:
    """What would be handed over if the night ended here."""

    runs: int
    worker_seconds: float
    recipe: Recipe
    told: float | None  # the mean val_bpb of its runs; None where none came to an end
    busy: float = 1.0  # share of the workers' time so far in which they ran something


@dataclass(order=True)
class _InFlight:
    ends: float
    number: int  # of two that end at once the first one submitted comes first
    began: float = field(compare=False)
    run_id: str = field(compare=False)
    result: RunResult = field(compare=False)


@dataclass
class SimulatedLauncher:
    """Ends runs in the order in which so many workers would, on a clock of its own."""

    world: World
    capacity: int
    night: int
    incumbent: Callable[[], tuple[Recipe, float | None]]
    standings: list[Standing] = field(default_factory=list)
    now: float = 0.0
    ended: int = 0
    worker_seconds: float = 0.0
    _in_flight: list[_InFlight] = field(default_factory=list)
    _submitted: int = 0

    def submit(self, request: RunRequest, timeout_seconds: float) -> None:
        result = self.world.run(request.recipe, request.seed, self.night)
        self._submitted += 1
        ends = self.now + (result.total_seconds or 0.0)
        heapq.heappush(self._in_flight, _InFlight(ends, self._submitted, self.now, request.run_id, result))

    def cancel(self, run_id: str) -> None:
        for run in self._in_flight:
            if run.run_id == run_id:
                run.ends, run.result = self.now, RunResult(run_id, run.result.seed, "cancelled", message="cancelled")
        heapq.heapify(self._in_flight)

    def next_event(self, timeout_seconds: float) -> Event | None:
        self.note()
        if not self._in_flight:
            return None
        run = heapq.heappop(self._in_flight)
        self.now = run.ends
        self.ended += 1
        self.worker_seconds += run.ends - run.began
        return Finished(run.run_id, run.result, Energy(0.0, "estimate"))

    def close(self) -> None: ...

    def note(self) -> None:
        """What stands after the last run; to be called when all that it led to is decided."""
        if len(self.standings) < self.ended:
            under_way = sum(self.now - run.began for run in self._in_flight)
            busy = (self.worker_seconds + under_way) / (self.capacity * self.now) if self.now else 1.0
            self.standings.append(Standing(self.ended, self.worker_seconds, *self.incumbent(), busy))


class AtOnce:
    """A proposer that is waited for."""

    def __init__(self, proposer: Proposer) -> None:
        self.name, self._proposer = proposer.name, proposer

    def propose(self, history: History) -> Proposal:
        return self._proposer.propose(history)


class PaperRepository(Workspace):
    """The study's repository without git's processes: the same commits by the same ids, held in memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        base = self.incumbent
        self._recipes = {base: self.read(base, "recipe.toml")}
        self._menu = git_objects.blob(self.read(base, "menu.toml"), DIGEST).id

    def diff(self, base: str, recipe_text: str) -> str:
        return unified_diff(tomllib.loads(self._recipes[base]), tomllib.loads(recipe_text))

    def commit(
        self, base: str, recipe_text: str, message: str, when: datetime, script: Mapping[str, str] | None = None
    ) -> str:
        return self._add(recipe_text, [base], message, when)

    def merge(self, incumbent: str, candidate: str, message: str, when: datetime) -> str:
        return self._add(self._recipes[candidate], [incumbent, candidate], message, when)

    def move_incumbent(self, commit: str, from_here: str | None = None) -> list[str]:
        return []

    def hold(self, number: int, commit: str) -> None: ...

    def release(self, number: int) -> None: ...

    def tag(self, number: int, commit: str, message: str, when: datetime) -> None: ...

    def _add(self, recipe_text: str, parents: list[str], message: str, when: datetime) -> str:
        recipe = git_objects.blob(recipe_text, DIGEST).id
        tree = git_objects.tree({"menu.toml": self._menu, "recipe.toml": recipe}, DIGEST).id
        made = git_objects.commit(tree, parents, message, when, DIGEST).id
        self._recipes[made] = recipe_text
        return made


class _Clock:
    """A second passes each time that it is asked: the same night has the same times."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now


class _Ends(StopRule):
    """After so many runs, or when the proposer has nothing left."""

    def __init__(self, folder: StudyFolder, launcher: SimulatedLauncher, runs: int) -> None:
        super().__init__(folder, LimitSettings())
        self._launcher, self._runs = launcher, runs

    def reason(self) -> str | None:
        return "enough" if self._launcher.ended >= self._runs else self._requested


def simulate(
    world: World,
    proposer: Proposer,
    night: int,
    runs: int,
    workers: int,
    launched_by: type[SimulatedLauncher] = SimulatedLauncher,
) -> list[Standing]:
    """One night of the shipped study loop: what stands after each of its runs. The incumbent is what is handed over."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as home:
        folder = create_study(Path(home), "night", PRESET, MACHINE, {"seed": night}, now=_Clock())
        try:
            return simulate_in(folder, world, proposer, night, runs, workers, launched_by)
        finally:
            folder.store.close()


def simulate_in(
    folder: StudyFolder,
    world: World,
    proposer: Proposer,
    night: int,
    runs: int,
    workers: int,
    launched_by: type[SimulatedLauncher] = SimulatedLauncher,
) -> list[Standing]:
    """The same in a study of one's own, which is left open."""
    folder.store.clock = _Clock()
    folder.store.db.execute("PRAGMA synchronous = OFF")
    folder.workspace = PaperRepository(folder.path / "recipe")

    def incumbent() -> tuple[Recipe, float | None]:
        trial = folder.store.trial(int(folder.store.study()["incumbent"]))
        assert trial is not None
        return trial.recipe, trial.val_bpb

    launcher = launched_by(world, workers, night, incumbent)
    StudyLoop(folder, launcher, proposer, MACHINE, folder.path, _Ends(folder, launcher, runs)).run()
    launcher.note()
    return launcher.standings[:runs]
