"""Measures a recipe at many shapes in one warm worker: speed, memory, power, and what reading text costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from time import monotonic

from autoresearch.config import Settings
from autoresearch.trial import Recipe
from autoresearch.workers.crew import Crew, Ended, Task
from autoresearch.workers.local import LocalLauncher
from autoresearch.workers.machine import Machine
from autoresearch.workers.process import WORKER
from rails import clean
from trainer.protocol import RunRequest, RunResult


@dataclass(frozen=True)
class Grid:
    """What to measure: every combination of the three, in a preset's recipe, on one device."""

    settings: Settings
    recipe: Recipe
    machine: Machine
    batch_sizes: tuple[int, ...]
    seq_lens: tuple[int, ...]
    precisions: tuple[str, ...]
    steps: int
    rounds: int
    data: bool

    @property
    def compile(self) -> bool:
        return self.settings.compiles(self.machine.kind, self.machine.compile_fault is None)

    @property
    def points(self) -> list[Recipe]:
        """A recipe for each combination."""
        every = product(self.precisions, self.seq_lens, self.batch_sizes)
        return [{**self.recipe, "batch_size": b, "seq_len": s, "precision": p} for p, s, b in every]


@dataclass(frozen=True)
class Row:
    """One point, as in the CSV file. None: not measured, because a run failed or --data was not asked for.

    Speeds are of the steps after the first; of several rounds the median, and the lowest and the highest.
    """

    preset: str
    backend: str
    compile: bool
    repeatable: bool
    device: str
    versions: str
    steps: int
    rounds: int
    batch_size: int
    seq_len: int
    precision: str
    outcome: str  # ok, or why a run failed: out_of_memory, error, timed_out, ...
    reason: str  # one line; empty where all went well
    tokens_per_second: float | None = None
    tokens_per_second_low: float | None = None
    tokens_per_second_high: float | None = None
    step_seconds: float | None = None
    peak_memory_bytes: int | None = None
    mfu: float | None = None
    peak_flops: float | None = None
    peak_flops_source: str | None = None
    watts: float | None = None  # mean over the run, building the model included
    watts_source: str | None = None
    real_tokens_per_second: float | None = None  # on text that is read from disk
    data_share: float | None = None  # of a step on text: waiting for the batch
    slowdown: float | None = None  # 1 - real / random tokens per second; below 0 where noise is larger than the cost
    slowdown_low: float | None = None  # over the rounds
    slowdown_high: float | None = None

    @property
    def name(self) -> str:
        return f"batch {self.batch_size}, sequence {self.seq_len}, {self.precision}"


@dataclass(frozen=True)
class Measured:
    """One complete run and its mean power."""

    result: RunResult
    watts: float
    watts_source: str

    @property
    def speed(self) -> float:
        """Tokens per second."""
        assert self.result.tokens_per_second is not None, "a complete run has a speed"
        return self.result.tokens_per_second

    @property
    def step_seconds(self) -> float:
        assert self.result.tokens and self.result.steps, "a complete run has made steps"
        return self.result.tokens / self.result.steps / self.speed

    @property
    def data_share(self) -> float:
        return self.result.step_seconds["data"] / sum(self.result.step_seconds.values())


class RunFailed(Exception):
    """A run that is no measurement: (failure, reason)."""


class Bench:
    """One warm worker that does one run after the other. Use as a context manager."""

    def __init__(self, grid: Grid, data_dir: Path, runs: Path, worker: Sequence[str] = WORKER) -> None:
        self._grid, self._data_dir, self._runs = grid, data_dir, runs
        runs.mkdir(parents=True)
        device = grid.machine.worker_devices(grid.settings.device, 1)
        log, uuids = runs / "worker.log", grid.machine.uuids
        self._launcher = LocalLauncher(device, grid.settings.energy, log, command=worker, uuids=uuids)
        # That a recipe costs the worker its life is a finding, not bad luck.
        self._crew: Crew[str] = Crew(self._launcher, max_attempts=1)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *error: object) -> None:
        self._launcher.close()

    def warm_up(self, recipe: Recipe) -> None:
        """One step that is in no figure: it loads, compiles and allocates what the point's runs find ready.

        Raises RunFailed; but not for a worker that died, maybe of what was before: the next run has a new one.
        """
        try:
            self._run("warm-up", recipe, random_tokens=True, steps=1)
        except RunFailed as failed:
            if failed.args[0] != "worker_died":
                raise

    def run(self, recipe: Recipe, *, random_tokens: bool, round: int) -> Measured:
        """Raises RunFailed for a run that does not end well."""
        tokens = "random" if random_tokens else "real"
        return self._run(f"{tokens}-{round}", recipe, random_tokens, self._grid.steps)

    def _run(self, kind: str, recipe: Recipe, random_tokens: bool, steps: int) -> Measured:
        grid = self._grid
        name = f"b{recipe['batch_size']}-s{recipe['seq_len']}-{recipe['precision']}-{kind}"
        path = self._runs / name
        path.mkdir()
        request = RunRequest(
            run_id=name,
            recipe=recipe,
            seed=grid.settings.seed,
            budget={"steps": steps},
            data_dir=str(self._data_dir),
            result_path=str(path / "result.json"),
            backend=grid.settings.backend,
            score=False,
            random_tokens=random_tokens,
            compile=grid.compile,
            memory_bytes=grid.machine.memory_cap(grid.settings.device, 1),
            repeatable=grid.settings.repeatable,
        )
        limit_seconds, began = grid.settings.limits.run_seconds, monotonic()
        self._crew.submit(Task(name, request, limit_seconds))
        while not isinstance(ended := self._crew.next_event(), Ended):
            pass
        seconds, result = monotonic() - began, ended.result
        if result.failure == "timed_out":
            raise RunFailed("timed_out", f"took longer than {limit_seconds:g} s")
        if result.failure:
            raise RunFailed(result.failure, clean(result.message, 300))
        return Measured(result, ended.energy.joules / seconds, ended.energy.source)


def measure(grid: Grid, bench: Bench, recipe: Recipe) -> Row:
    """One point. With grid.data random tokens and text take turns, so that a machine's drift hits both alike."""
    row = Row(
        grid.settings.preset, grid.settings.backend, grid.compile, grid.settings.repeatable, grid.machine.name, "",
        grid.steps, grid.rounds, int(recipe["batch_size"]), int(recipe["seq_len"]), str(recipe["precision"]), "ok", "",
    )  # fmt: skip
    random: list[Measured] = []
    real: list[Measured] = []
    try:
        bench.warm_up(recipe)
        for round in range(1, grid.rounds + 1):
            turns = [(random, True), (real, False)] if grid.data else [(random, True)]
            for runs, random_tokens in turns if round % 2 else reversed(turns):
                runs.append(bench.run(recipe, random_tokens=random_tokens, round=round))
    except RunFailed as failed:
        outcome, reason = failed.args
        return replace(row, outcome=outcome, reason=reason)
    result, speed = random[0].result, median(run.speed for run in random)
    row = replace(
        row,
        versions=", ".join(f"{name} {version}" for name, version in result.versions.items()),
        tokens_per_second=speed,
        tokens_per_second_low=min(run.speed for run in random),
        tokens_per_second_high=max(run.speed for run in random),
        step_seconds=median(run.step_seconds for run in random),
        peak_memory_bytes=result.peak_memory_bytes,
        mfu=replace(result, tokens_per_second=speed).mfu,
        peak_flops=result.peak_flops,
        peak_flops_source=result.peak_flops_source,
        watts=median(run.watts for run in random),
        watts_source=random[0].watts_source,
    )
    if not real:
        return row
    real_speed = median(run.speed for run in real)
    shares = [1 - there.speed / here.speed for here, there in zip(random, real, strict=True)]
    return replace(
        row,
        real_tokens_per_second=real_speed,
        data_share=median(run.data_share for run in real),
        slowdown=1 - real_speed / speed,
        slowdown_low=min(shares),
        slowdown_high=max(shares),
    )
