"""`autoresearch promote`: the baseline and a study's best recipes, trained again at a longer budget on fresh seeds."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.text import Text

from autoresearch import words
from autoresearch.errors import UserError
from autoresearch.evidence import Evidence
from autoresearch.evidence.longer_runs import recipe_label, scaled
from autoresearch.metric import Metric
from autoresearch.study.folder import StudyFolder
from autoresearch.study.requests import end_workers, machine_of_runs, make_request, start_workers
from autoresearch.terminal.bars import PrepareProgress, RunBars
from autoresearch.terminal.signals import polite_signals
from autoresearch.trial import Trial, window_of
from autoresearch.workers import launcher as events
from autoresearch.workers.crew import Crew, Ended, Lost, Task, left_behind
from autoresearch.workers.launcher import Launcher
from autoresearch.workers.machine import Machine
from rails import clean
from trainer.protocol import RunResult

# A study's own runs count their seeds from 0; these are far from where any of them comes.
FIRST_SEED = 1000
MOST_TIMES = 1e6


def promote(
    folder: StudyFolder,
    console: Console,
    *,
    top: int = 3,
    budget_factor: float = 16.0,
    seeds: int = 3,
    launcher: Launcher | None = None,
) -> str:
    """Trains what is not in the table of promotions yet; returns how it ended. The caller holds the runner's lock.

    top: recipes besides the baseline, see `best_recipes`. budget_factor: times the study's budget, to six digits.
    seeds: runs of each recipe, on seeds that no run of the study had and that all recipes share. launcher: None
    starts workers on this machine; it is closed in the end. Raises UserError for a study that cannot be promoted.
    """
    factor = _checked(folder, top, budget_factor, seeds)
    trials = best_recipes(Evidence(folder), top)
    with PrepareProgress(console) as progress:
        data_dir = folder.prepare_data(progress)
    machine = machine_of_runs(folder, console.print)
    launcher = launcher or start_workers(folder, machine)
    wanted = [LongRun(trial, factor, seed) for seed in fresh_seeds(folder, seeds) for trial in trials]
    try:
        return Promotion(folder, launcher, machine, data_dir, wanted, console).run()
    finally:
        end_workers(folder, launcher)


def best_recipes(evidence: Evidence, top: int) -> list[Trial]:
    """The baseline, then the `top` best other recipes: kept ones first, then those that were only measured, each by
    its mean val_bpb over all of its runs, be it a single one: whether that was luck is what a promotion asks.

    Raises UserError if there is nothing to compare.
    """
    name, baseline = evidence.folder.name, evidence.baseline
    evidence.folder.require_own()
    if evidence.mean(baseline) is None:
        raise UserError(f"the baseline of study {name} is not measured yet: `autoresearch run {name}` comes first")
    kept = {trial.recipe_key for trial in evidence.trials if trial.decision == "keep"}
    others = [evidence.siblings[key][0] for key in evidence.scores if key != baseline.recipe_key]
    if not others:
        raise UserError(f"study {name} has no complete trial yet: `autoresearch run {name}` comes first")
    others.sort(key=lambda trial: (trial.recipe_key not in kept, evidence.mean(trial)))
    return [baseline, *others[:top]]


def fresh_seeds(folder: StudyFolder, n: int) -> list[int]:
    """The first n seeds that no run of the study had; always the same ones, so that a promotion can go on."""
    used = {run.seed for run in folder.store.runs()}
    return list(islice((seed for seed in count(FIRST_SEED) if seed not in used), n))


def _checked(folder: StudyFolder, top: int, budget_factor: float, seeds: int) -> float:
    for option, number in {"--top": top, "--seeds": seeds}.items():
        if number < 1:
            raise UserError(f"{option} {number}: it must be 1 or more")
    if not (math.isfinite(budget_factor) and 1 < budget_factor <= MOST_TIMES):
        raise UserError(f"--budget-factor {budget_factor:g}: it must be above 1 and at most {MOST_TIMES:,.0f}")
    factor = float(f"{budget_factor:g}")  # the same number in the table, in folders' names and in what is printed
    if scaled(folder.settings.whole_budget, factor) == folder.settings.whole_budget:
        raise UserError(f"--budget-factor {budget_factor:g}: the budget in whole numbers stays as it is; ask for more")
    return factor


@dataclass(frozen=True)
class LongRun:
    """One run to be done; its id is also its folder in promotions/."""

    trial: Trial
    factor: float
    seed: int

    @property
    def id(self) -> str:
        return f"x{self.factor:g}/{self.trial.number:04d}-{self.seed}"

    @property
    def name(self) -> str:
        return words.run(self.trial.number, self.seed)


class Promotion:
    """The runs of one promotion, from those that are wanted to rows in the store."""

    def __init__(
        self,
        folder: StudyFolder,
        launcher: Launcher,
        machine: Machine,
        data_dir: Path,
        wanted: Sequence[LongRun],  # of the baseline first
        console: Console,
    ) -> None:
        self.folder, self.machine, self.data_dir = folder, machine, data_dir
        self.crew: Crew[LongRun] = Crew(launcher)
        self.wanted = wanted
        self.show = _Show(console, wanted, folder.metric)
        self._waiting: deque[LongRun] = deque()
        self._signal: str | None = None

    def run(self) -> str:
        self._take_stock()
        with self.show, polite_signals(self._hear):
            while self.crew.in_flight or (self._waiting and not self._signal):
                for run in self.crew.hand_out(self._next_task):
                    self.show.begun(run)
                match self.crew.next_event():
                    case events.Progress() as event:
                        self.show.progress(event)
                    case events.Note(text):
                        self.show.say(text)
                    case Lost(run, message):
                        self._waiting.appendleft(run)
                        self.show.lost(run, message)
                    case Ended() as ended:
                        self._write_down(ended)
        if self._waiting:
            return (
                f"ended by {self._signal}: {len(self._waiting)} of {words.count(len(self.wanted), 'run')} left; "
                "the same command goes on with them"
            )
        return f"{words.count(len(self.wanted), 'run')} done, as asked"

    def _take_stock(self) -> None:
        """What the table has is not run again; what a killed promotion finished but did not write down is taken in."""
        known = {(run.trial, run.factor, run.seed) for run in self.folder.store.promoted_runs()}
        for run in self.wanted:
            if (run.trial.number, run.factor, run.seed) in known:
                self.show.known(run)
            elif ended := left_behind(run, self._path(run) / "result.json", self.folder.settings.energy):
                self._write_down(ended)
            else:
                self._waiting.append(run)

    def _path(self, run: LongRun) -> Path:
        return self.folder.path / "promotions" / run.id

    def _next_task(self) -> Task[LongRun] | None:
        if not self._waiting or self._signal:
            return None
        run, settings = self._waiting.popleft(), self.folder.settings
        request = make_request(
            self.folder,
            self.machine,
            self.data_dir,
            run_id=run.id,
            recipe=run.trial.recipe,
            seed=run.seed,
            budget=scaled(settings.whole_budget, run.factor),
            place=self._path(run),
            score_test=True,
        )
        return Task(run, request, settings.limits.run_seconds * run.factor)

    def _write_down(self, ended: Ended[LongRun]) -> None:
        run = ended.run
        self.folder.store.add_promoted_run(run.trial.number, run.factor, run.seed, ended.result, ended.energy)
        self.show.ended(run, ended.result)

    def _hear(self, name: str) -> None:
        self._signal = name
        self.show.say(f"{name}: finishing the runs in flight; once more to end at once (a run cut off is done again)")


class _Show:
    """Lines as runs begin and end; in a terminal, bars besides. Use as a context manager."""

    def __init__(self, console: Console, wanted: Sequence[LongRun], metric: Metric) -> None:
        self._metric = metric
        self._console, self._total, self._done = console, len(wanted), 0
        self._baseline = wanted[0].trial.recipe
        self._runs = RunBars(console)

    def __enter__(self) -> None:
        if self._console.is_terminal:
            self._runs.bars.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._runs.bars.stop()

    def known(self, run: LongRun) -> None:
        self._done += 1
        self.say(f"{run.name}: done before ({self._done} of {self._total})")

    def begun(self, run: LongRun) -> None:
        if self._console.is_terminal:
            self._runs.begin(run.id, f"{run.name:<20}")
        else:
            self.say(f"{run.name}: {recipe_label(run.trial.recipe, self._baseline)}")

    def progress(self, event: events.Progress) -> None:
        self._runs.progress(event)

    def lost(self, run: LongRun, message: str) -> None:
        self._runs.end(run.id)
        self.say(f"{run.name}: {message}")

    def ended(self, run: LongRun, result: RunResult) -> None:
        self._runs.end(run.id)
        self._done += 1
        ending = words.ending(result.val_bpb, result.failure or result.state, result.message, self._metric)
        if result.window_bpb not in (None, result.val_bpb):
            ending += f" ({words.bpb(result.window_bpb)} in windows of {window_of(self._baseline)} tokens)"
        self.say(f"{run.name}: {ending} ({self._done} of {self._total})")

    def say(self, text: str) -> None:
        self._console.print(Text(clean(text, 400)), soft_wrap=True)
