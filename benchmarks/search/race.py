"""Runs every arm's nights on every surrogate, on all cores; a race that was cut off goes on where it ended."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits

from .arms import ARMS
from .night import Standing
from .surrogate import Surrogate
from .table import TABLE

ROOT = Path(__file__).parents[2]
MARKS = (50, 100, 200, 400)  # runs after which a night's hand-over is looked at


@dataclass(frozen=True)
class Job:
    """One night of one arm on one surrogate."""

    arm: str
    world: str
    night: int
    runs: int


@dataclass(frozen=True)
class Night:
    """What came of it. All lists have an entry a run."""

    job: Job
    truth: list[float]  # val_bpb that the recipe handed over after the run truly has
    told: list[float | None]  # what its own runs say
    worker_seconds: list[float]
    changes: int  # how often the recipe handed over became another one
    for_worse: int  # of these, to one that is truly worse
    busy: float = 1.0  # share of the workers' time in which they ran something


class Race:
    """The nights that are wanted. Those known of the same code and table are not run again."""

    def __init__(self, worlds: Sequence[Surrogate], folder: Path) -> None:
        self._worlds = worlds
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def nights(self, jobs: Sequence[Job]) -> list[Night]:
        """In the jobs' order. Progress goes to the terminal."""
        known = {job: night for arm in {job.arm for job in jobs} for job, night in self._known(arm)}
        missing = [job for job in jobs if job not in known]
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        pool = ProcessPoolExecutor(os.cpu_count(), initializer=_set_worlds, initargs=(self._worlds,))
        with pool, Progress(*columns) as bar:
            shown = bar.add_task("nights", total=len(jobs), completed=len(jobs) - len(missing))
            for night in _ended(pool, missing):
                self._add(night)
                known[night.job] = night
                bar.advance(shown)
        return [known[job] for job in jobs]

    def _known(self, arm: str) -> Iterator[tuple[Job, Night]]:
        path = self._file(arm)
        for line in path.read_text("utf-8").splitlines() if path.exists() else []:
            fields = json.loads(line)
            job = Job(**fields.pop("job"))
            yield job, Night(job, **fields)

    def _add(self, night: Night) -> None:
        with self._file(night.job.arm).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(night)) + "\n")

    def _file(self, arm: str) -> Path:
        name = "".join(letter if letter.isalnum() else "-" for letter in arm)
        return self._folder / f"{name}-{_fingerprint(ARMS[arm].in_loop)}.jsonl"


def _ended(pool: ProcessPoolExecutor, jobs: Iterable[Job]) -> Iterator[Night]:
    """As they end; what was begun is finished when the reader stops."""
    waiting: set[Future[Night]] = {pool.submit(_run, job) for job in jobs}
    try:
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (each.result() for each in done)
    finally:
        pool.shutdown(cancel_futures=True)


_worlds: dict[str, Surrogate] = {}  # of one process of the pool


def _set_worlds(worlds: Sequence[Surrogate]) -> None:
    threadpool_limits(1)  # a process a core: threads of their own would only wait for one another
    _worlds.update({world.name: world for world in worlds})


def _run(job: Job) -> Night:
    world = _worlds[job.world]
    standings = ARMS[job.arm].night(world, world.space, job.night, job.runs)
    return summed_up(job, world, standings)


def summed_up(job: Job, world: Surrogate, standings: Sequence[Standing]) -> Night:
    """A search that ended early hands over the same for the rest of the night."""
    whole = [*standings, *[standings[-1]] * (job.runs - len(standings))]
    truth = [world.truth(standing.recipe) for standing in whole]
    changed = [(before, after) for before, after in pairwise(whole) if before.recipe != after.recipe]
    worse = [after for before, after in changed if world.truth(after.recipe) > world.truth(before.recipe)]
    return Night(
        job,
        [round(value, 6) for value in truth],
        [None if standing.told is None else round(standing.told, 6) for standing in whole],
        [round(standing.worker_seconds, 1) for standing in whole],
        len(changed),
        len(worse),
        round(whole[-1].busy, 4),
    )


@cache
def _fingerprint(in_loop: bool) -> str:
    """Of the code and the table that an arm's nights come from."""
    folders = ["benchmarks/search", *(["autoresearch", "rails"] if in_loop else [])]
    files = [TABLE, *(path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))]
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
