"""What a study's runs say of its recipes: each recipe with all its runs, whichever trials they belong to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, permutations
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy import special

from autoresearch import words
from autoresearch.cost import Cost, cost
from autoresearch.decide import INTERVAL, Noise, Runs, pool_noise
from autoresearch.metric import Metric
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import Recipe, Run, Trial

# Trials of an imported study may share a recipe; their seeds are then told apart, for they do not pair.
SEEDS_PER_TRIAL = 100_000
# Up to so many recipes all orders are looked at: 5,040.
MOST_ORDERED = 7
DRAWN_ORDERS = 9_999


@dataclass(frozen=True)
class Gain:
    """How much lower one recipe's bits per byte are than another's, and half of the 95 % interval of that."""

    value: float
    half_interval: float

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves 0 out."""
        return abs(self.value) > self.half_interval


@dataclass(frozen=True)
class BestRun:
    """The lowest val_bpb of any one run, and the trial that it belongs to."""

    val_bpb: float
    trial: Trial


@dataclass(frozen=True)
class Luck:
    """How much of the lowest number is luck: how far it is below the mean of its recipe's other runs, what it would
    lose if it were run again; and half of the 95 % interval of that."""

    others_mean: float
    value: float
    half_interval: float


@dataclass(frozen=True)
class Standing:
    """A recipe's scores in bits per byte with half of their 95 % intervals; None: not measured."""

    trial: int
    val_bpb: float | None
    val_bpb_half_interval: float | None
    n_runs: int
    test_bpb: float | None
    test_bpb_half_interval: float | None
    n_test_runs: int
    recipe: Recipe


class Evidence:
    """All trials and runs of a study, read once."""

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder
        self.study: dict[str, Any] = folder.store.study()
        self.trials: list[Trial] = folder.store.trials()
        self.runs: dict[int, list[Run]] = {trial.number: [] for trial in self.trials}
        for run in folder.store.runs():
            self.runs[run.trial].append(run)
        self.asking = folder.store.asking_energy()

    @cached_property
    def source(self) -> dict[str, Any] | None:
        """What the study was imported from; None: it was run here."""
        return json.loads(self.study["source"]) if self.study["source"] else None

    @property
    def imported(self) -> bool:
        return self.source is not None

    @cached_property
    def metric(self) -> Metric:
        """What the study's runs are scored by."""
        return self.folder.metric

    @property
    def budget(self) -> Mapping[str, float] | None:
        """Of one run; None where the source of an import does not tell it."""
        return None if self.source and not self.source["budget_known"] else self.folder.settings.whole_budget

    @cached_property
    def joules(self) -> float | None:
        """Of all runs of the search, also those repeated to compare devices, and of asking a language model; None where
        nobody wrote any energy down."""
        found = [run.energy_joules for runs in self.runs.values() for run in runs if run.energy_joules is not None]
        found += [energy.joules for energy in self.asking.values()]
        return sum(found) + self.folder.store.repeats_joules() if found else None

    @cached_property
    def tokens(self) -> tuple[int, int]:
        """Read and written by language models, as far as their servers count them."""
        totals = self.folder.store.totals()
        return totals["prompt_tokens"], totals["completion_tokens"]

    @cached_property
    def cost(self) -> Cost:
        """Of that energy and these tokens."""
        return cost(self.folder.settings, self.joules, *self.tokens)

    @cached_property
    def energy_sources(self) -> list[str]:
        found = {run.energy_source for runs in self.runs.values() for run in runs if run.energy_source}
        return sorted(found.union(*(energy.source.split("+") for energy in self.asking.values())) - {""})

    @cached_property
    def spent(self) -> list[float]:
        """For each trial in order: the joules of its runs, of asking for it, and of all before it."""
        each = (
            sum(run.energy_joules or 0.0 for run in self.runs[trial.number]) + self.asked_joules(trial)
            for trial in self.trials
        )
        return [*accumulate(each)]

    def asked_joules(self, trial: Trial) -> float:
        """What a language model took for the trial, as far as that is known."""
        return self.asking[trial.number].joules if trial.number in self.asking else 0.0

    @property
    def joules_a_trial(self) -> tuple[float, int] | None:
        """The mean of the trials whose energy is known, and how many those are."""
        n = sum(any(run.energy_joules is not None for run in runs) for runs in self.runs.values())
        return (self.joules / n, n) if self.joules is not None and n else None

    def seconds(self, trial: Trial) -> float | None:
        """Of all its runs, those side by side too."""
        found = [run.total_seconds for run in self.runs[trial.number] if run.total_seconds is not None]
        return sum(found) if found else None

    def tokens_per_second(self, trial: Trial) -> float | None:
        """The mean of its runs."""
        rates = [run.tokens_per_second for run in self.runs[trial.number] if run.tokens_per_second is not None]
        return fmean(rates) if rates else None

    @property
    def n_ended(self) -> int:
        """Runs that have ended, one way or another."""
        return sum(run.finished_at is not None for runs in self.runs.values() for run in runs)

    def best_run(self, without: str | None = None) -> BestRun | None:
        """The lowest single number, which owes some of its lead to luck; `without` leaves out one recipe's runs."""
        found = [
            BestRun(run.val_bpb, trial)
            for trial in self.trials
            for run in self.runs[trial.number]
            if run.val_bpb is not None and run.purpose != "confirmation"
            if self.key(trial) in self.scores and self.key(trial) != without
        ]
        return min(found, key=lambda best: best.val_bpb, default=None)

    def luck(self, best: BestRun) -> Luck | None:
        """Of the lowest run; None where its recipe has no other.

        The interval holds the truth in 95 % of cases, in 93 % where one recipe has nearly all runs: that all others are
        above the lowest makes their mean a little worse than their recipe, by the share 1 / (n - 1) of the luck there.
        """
        runs = self.scores[self.key(best.trial)].values()
        n = len(runs) - 1
        if not n:
            return None
        mean = (sum(runs) - best.val_bpb) / n
        return Luck(mean, mean - best.val_bpb, self.noise.half_width(n))

    def before(self, trial: Trial) -> Recipe:
        """The recipe that the trial changed; empty for the baseline."""
        return self.trials[trial.parent].recipe if trial.parent is not None else {}

    def change(self, trial: Trial) -> str:
        """What it changed, in words; empty for the baseline."""
        return words.change(trial.changes, self.before(trial))

    @cached_property
    def siblings(self) -> dict[str, list[Trial]]:
        """Recipe -> the trials with that recipe that have a score, in their order; see `key`."""
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            if trial.val_bpb is not None:
                found.setdefault(self.key(trial), []).append(trial)
        return found

    @staticmethod
    def key(trial: Trial) -> str:
        """The recipe's key; a trial whose source does not tell its recipe has one that nobody shares."""
        return trial.recipe_key or f"trial {trial.number}"

    @cached_property
    def scores(self) -> dict[str, Runs]:
        """Recipe -> seed -> val_bpb, over the complete runs of all trials with that recipe."""
        found: dict[str, dict[int, float]] = {}
        for key, trials in self.siblings.items():
            found[key] = {}
            for trial in trials:
                first = trial.number * SEEDS_PER_TRIAL if len(trials) > 1 else 0
                runs = self.runs[trial.number]
                found[key] |= {
                    first + run.seed: run.val_bpb
                    for run in runs
                    if run.val_bpb is not None and run.purpose != "confirmation"
                }
        return {key: runs for key, runs in found.items() if runs}

    def runs_behind(self, trial: Trial) -> tuple[int, int]:
        """Complete runs of its own and of its reference when the trial was judged; 1 where nobody tells."""
        over, pair = trial.finished_at or "", (self.runs[trial.number], self.runs[trial.reference or 0])
        n, m = (sum(run.val_bpb is not None and (run.finished_at or "") <= over for run in runs) for runs in pair)
        return max(1, n), max(1, m)

    @property
    def heeds_seeds(self) -> bool:
        """False where all runs of the baseline, which are several, gave one score to the last digit."""
        scores = [run.val_bpb for run in self.runs[0] if run.val_bpb is not None]
        return len(scores) < 2 or len(set(scores)) > 1

    @cached_property
    def measured_deviation(self) -> tuple[float | None, int]:
        """The run-to-run deviation from repeated recipes alone, and its degrees of freedom; (None, 0) without any."""
        squares, dof = 0.0, 0
        for runs in self.scores.values():
            mean = fmean(runs.values())
            squares += sum((value - mean) ** 2 for value in runs.values())
            dof += len(runs) - 1
        return ((squares / dof) ** 0.5, dof) if dof else (None, 0)

    @cached_property
    def noise(self) -> Noise:
        """The run-to-run deviation that every interval shown to a person comes from."""
        rule = self.folder.settings.decision
        if self.imported and self.measured_deviation[1] >= 2:
            rule = rule.model_copy(update={"prior_runs": 0.0})  # our presets know nothing of another's trainer
        return pool_noise(self.scores.values(), rule)

    def mean(self, trial: Trial) -> float | None:
        """val_bpb of the trial's recipe over all its runs."""
        runs = self.scores.get(self.key(trial))
        return fmean(runs.values()) if runs else None

    def n_runs(self, trial: Trial) -> int:
        return len(self.scores.get(self.key(trial), ()))

    @cached_property
    def bests(self) -> list[int]:
        """For each trial in order: the number of the trial whose recipe stood when it was over.

        In our own studies that is the latest one merged. A stranger's keeps need not build on one another: of them
        the one whose recipe has the lowest mean over all its runs.
        """
        found, standing = [], 0
        for trial in self.trials:
            if trial.decision == "keep" and (trial.merge_commit or (self.imported and self._beats(trial, standing))):
                standing = trial.number
            found.append(standing)
        return found

    def _beats(self, trial: Trial, standing: int) -> bool:
        mine, other = self.mean(trial), self.mean(self.trials[standing])
        return mine is not None and (other is None or mine < other)

    @property
    def baseline(self) -> Trial:
        return self.trials[0]

    @property
    def incumbent(self) -> Trial:
        return self.trials[self.bests[-1] if self.imported else int(self.study["incumbent"])]

    def half_interval(self, trial: Trial) -> float | None:
        """Half of the 95 % interval of the trial's own val_bpb; None where it has none."""
        return self.noise.half_width(trial.n_runs) if trial.val_bpb is not None and trial.n_runs else None

    def standing(self, trial: Trial) -> Standing:
        """Where a trial's recipe stands, over the runs of every trial with that recipe."""
        mean, n = self.mean(trial), self.n_runs(trial)
        group = self.siblings.get(self.key(trial), [])
        tests = [run.test_bpb for each in group for run in self.runs[each.number] if run.test_bpb is not None]
        return Standing(
            trial=trial.number,
            val_bpb=mean,
            val_bpb_half_interval=self.noise.half_width(n) if n else None,
            n_runs=n,
            test_bpb=fmean(tests) if tests else None,
            test_bpb_half_interval=self.noise.half_width(len(tests)) if tests else None,
            n_test_runs=len(tests),
            recipe=trial.recipe,
        )

    @cached_property
    def is_confirmed(self) -> bool:
        """Whether the headline is made from runs that no decision has read."""
        return self.confirming_runs >= 2

    @property
    def confirming_runs(self) -> int:
        """Seeds that baseline and incumbent were both measured anew with."""
        return len(self._confirming("val_bpb")[0])

    def gain(self) -> Gain | None:
        """How much lower the incumbent's val_bpb is than the baseline's; None where there is nothing to compare.

        From the runs that confirm the night's result where there are such; else from those that decided, whose luck is
        in the choice: then it is too high by some part of a deviation."""
        if self.is_confirmed:
            return self._confirmed("val_bpb")
        baseline, incumbent = self.standing(self.baseline), self.standing(self.incumbent)
        return self._gain(
            baseline.val_bpb, incumbent.val_bpb, baseline.val_bpb_half_interval, incumbent.val_bpb_half_interval
        )

    def test_gain(self) -> Gain | None:
        """The same on the test text, which no decision has read."""
        if self.is_confirmed:
            return self._confirmed("test_bpb")
        baseline, incumbent = self.standing(self.baseline), self.standing(self.incumbent)
        return self._gain(
            baseline.test_bpb, incumbent.test_bpb, baseline.test_bpb_half_interval, incumbent.test_bpb_half_interval
        )

    def _confirming(self, score: str) -> tuple[Runs, Runs]:
        """Seed -> score of the runs that confirm the incumbent and the baseline, as far as both have the seed."""
        incumbent, baseline = (
            {
                run.seed: getattr(run, score)
                for run in self.runs[trial.number]
                if run.purpose == "confirmation" and getattr(run, score) is not None
            }
            for trial in (self.incumbent, self.baseline)
        )
        shared = incumbent.keys() & baseline.keys() if self.incumbent is not self.baseline else set()
        return {seed: incumbent[seed] for seed in shared}, {seed: baseline[seed] for seed in shared}

    def _confirmed(self, score: str) -> Gain | None:
        """Student's t of the differences seed by seed: nothing of the study is in it, which kept what looked good, and
        it holds however far the two recipes scatter and seeds move them together."""
        incumbent, baseline = self._confirming(score)
        gains = [baseline[seed] - incumbent[seed] for seed in sorted(incumbent)]
        n = len(gains)
        if n < 2:
            return None
        return Gain(fmean(gains), float(special.stdtrit(n - 1, 0.5 + INTERVAL / 2)) * stdev(gains) / n**0.5)

    def _gain(self, before: float | None, after: float | None, *half_intervals: float | None) -> Gain | None:
        if before is None or after is None or self.incumbent is self.baseline:
            return None
        return Gain(before - after, combined(half_intervals))


def combined(half_intervals: Iterable[float | None]) -> float:
    """Half of the interval of a sum or a difference of independent means, from half of theirs."""
    return sum((half or 0.0) ** 2 for half in half_intervals) ** 0.5


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's, 1 for the same order and -1 for the reverse; None where one of them is all the same."""
    from scipy import stats  # it takes a second to load

    varies = len(set(one)) > 1 and len(set(other)) > 1
    return float(stats.spearmanr(one, other).statistic) if varies else None


def order_by_chance(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """How often chance alone makes the two orders agree as well or better, and as badly or worse: shares of all orders,
    beyond MOST_ORDERED of a fixed draw of them, this one included. So p is below any limit at most that often."""
    from scipy import stats

    ranks, others = stats.rankdata(one), stats.rankdata(other)
    if len(ranks) <= MOST_ORDERED:
        orders = np.array([*permutations(others)])
    else:
        draws = np.random.Generator(np.random.PCG64(0)).permuted(np.tile(others, (DRAWN_ORDERS, 1)), axis=1)
        orders = np.vstack([others, draws])
    agreed, seen = orders @ ranks, others @ ranks
    slack = 1e-9 * seen
    return float(np.mean(agreed >= seen - slack)), float(np.mean(agreed <= seen + slack))
