"""What the study's numbers promise, held against nights whose truth is known: `python benchmarks/promises.py`.

Simulates whole nights with the shipped decision and evidence code: a baseline of three seeds, then changes judged one
by one against the incumbent of the moment, which gets runs of its own as the study loop asks for them. Says how often a
change that does nothing is kept, by the length of the night; how often the intervals of the headline and of kept trials
hold the truth; how surely a gain is found, and for how many runs. Unit: one run-to-run deviation, 0.7 % of val_bpb.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from autoresearch.config import DecisionRule
from autoresearch.decide import contradiction, decide, pool_noise
from autoresearch.evidence import Evidence
from autoresearch.evidence.evidence import Gain
from autoresearch.trial import Purpose, Run, Trial

LEVEL = 2.8
DEVIATION = 0.007 * LEVEL
# Of a run's luck on the text that decides with its luck on the test text: both are of one trained model.
VAL_WITH_TEST = 0.9
MOST_APART = 6.0  # deviations of two recipes, where they differ
TAILS_DOF = 3  # of Student's t, where luck has heavy tails
DRIFT = 1.0  # deviations over a night, where the machine drifts


@dataclass(frozen=True)
class World:
    """What changes are worth, in deviations, and how luck falls.

    helps, harms: shares of changes that are better by 1 to 4, and worse by 3 on average; the rest does nothing.
    gain: all changes are better by so much instead.
    """

    name: str
    helps: float = 0.0
    harms: float = 0.0
    gain: float | None = None
    correlation: float = 0.0  # of runs that share a seed
    deviations_differ: bool = False
    heavy_tails: bool = False
    drifts: bool = False
    prior: float = 1.0  # the rule's prior deviation over the true one

    def worth(self, rng: np.random.Generator) -> float:
        if self.gain is not None:
            return self.gain
        kind = rng.random()
        if kind < self.helps:
            return float(rng.uniform(1.0, 4.0))
        return -float(rng.exponential(3.0)) if kind < self.helps + self.harms else 0.0


@dataclass
class Recipe:
    """One recipe of a night: the truth and the runs."""

    value: float
    deviation: float
    runs: dict[int, float] = field(default_factory=dict)
    tests: dict[int, float] = field(default_factory=dict)  # of the runs that score the test text
    confirming: dict[int, float] = field(default_factory=dict)

    def by_purpose(self) -> list[tuple[Purpose, dict[int, float]]]:
        return [("candidate", self.runs), ("confirmation", self.confirming)]


@dataclass(frozen=True)
class Judged:
    """One trial's end."""

    kept: bool
    gain: float  # true, over the recipe that it was judged against
    interval_holds: bool
    runs: int  # its own, confirmation left out
    reference_runs: int  # that the reference got for it


@dataclass(frozen=True)
class Told:
    """A night's trials; and whether the headline's intervals hold the truth, None where nothing was kept in the end.

    stood: true gain, in deviations, of what was kept before the fresh runs were read; stands: of what is after it.
    """

    trials: list[Judged]
    stood: float
    stands: float
    taken_back: bool
    val_holds: bool | None
    test_holds: bool | None


class Luck:
    """How far single runs are off, in bits per byte."""

    def __init__(self, world: World, rng: np.random.Generator, trials: int) -> None:
        self._world, self._rng, self._seeds = world, rng, dict[int, float]()
        self._expected_runs, self._done = 3.0 * trials + 10, 0

    def run(self, recipe: Recipe, seed: int, purpose: Purpose) -> None:
        self._done += 1
        world = self._world
        shared = self._seeds.setdefault(seed, self._draw())
        luck = world.correlation**0.5 * shared + (1 - world.correlation) ** 0.5 * self._draw()
        drift = DRIFT * DEVIATION * self._done / self._expected_runs if world.drifts else 0.0
        runs = recipe.confirming if purpose == "confirmation" else recipe.runs
        runs[seed] = recipe.value + recipe.deviation * luck + drift
        if purpose != "candidate":
            on_test = VAL_WITH_TEST * luck + (1 - VAL_WITH_TEST**2) ** 0.5 * self._draw()
            recipe.tests[seed] = recipe.value + recipe.deviation * on_test + drift

    def deviation(self) -> float:
        if not self._world.deviations_differ:
            return DEVIATION
        return DEVIATION * MOST_APART ** float(self._rng.uniform(-0.5, 0.5))

    def _draw(self) -> float:
        if self._world.heavy_tails:
            return float(self._rng.standard_t(TAILS_DOF)) / (TAILS_DOF / (TAILS_DOF - 2)) ** 0.5
        return float(self._rng.normal())


def night(world: World, trials: int, seed: int) -> Told:
    """One night of so many trials; the same arguments give the same night."""
    rng = np.random.Generator(np.random.PCG64([seed, trials]))
    rule = DecisionRule(prior_deviation=0.007 * world.prior)
    luck = Luck(world, rng, trials)
    baseline = incumbent = Recipe(LEVEL, luck.deviation())
    for number in range(rule.baseline_runs):
        luck.run(baseline, number, "reference")
    recipes, judged = [baseline], list[Judged]()
    for _ in range(trials):
        candidate = Recipe(incumbent.value - world.worth(rng) * DEVIATION, luck.deviation())
        recipes.append(candidate)
        reference_runs = 0
        luck.run(candidate, 0, "candidate")
        while True:
            noise = pool_noise((recipe.runs for recipe in recipes), rule)
            decision = decide(candidate.runs, incumbent.runs, noise, rule)
            if decision.action != "replicate":
                break
            for _ in range(decision.reference_runs):
                luck.run(incumbent, len(incumbent.runs), "reference")
            reference_runs += decision.reference_runs
            for _ in range(decision.candidate_runs):
                luck.run(candidate, len(candidate.runs), "candidate")
        gain, kept = incumbent.value - candidate.value, decision.action == "keep"
        low, high = decision.comparison.interval
        judged.append(Judged(kept, gain, low <= gain <= high, len(candidate.runs), reference_runs))
        if kept:
            incumbent = candidate
    if incumbent is not baseline:
        first = max(*baseline.runs, *incumbent.runs) + 1
        for seed, recipe in product(range(first, first + rule.confirmation_runs), (baseline, incumbent)):
            luck.run(recipe, seed, "confirmation")
    stood = (baseline.value - incumbent.value) / DEVIATION
    taken_back = contradiction(incumbent.confirming, baseline.confirming) is not None and incumbent is not baseline
    if taken_back:
        incumbent = baseline
    evidence = _Evidence(recipes, recipes.index(incumbent), rule)
    true_gain = baseline.value - incumbent.value
    stands = true_gain / DEVIATION
    return Told(
        judged, stood, stands, taken_back, _holds(evidence.gain(), true_gain), _holds(evidence.test_gain(), true_gain)
    )


def _holds(told: Gain | None, truth: float) -> bool | None:
    return None if told is None else abs(told.value - truth) <= told.half_interval


class _Evidence(Evidence):
    """The shipped sums, over a night that no disk holds."""

    def __init__(self, recipes: list[Recipe], incumbent: int, rule: DecisionRule) -> None:
        self.folder: Any = SimpleNamespace(settings=SimpleNamespace(decision=rule))
        self.study = {"source": None, "incumbent": incumbent}
        self.trials = [_trial(number, recipe) for number, recipe in enumerate(recipes)]
        self.runs = {
            number: [
                _run(number, recipe, seed, runs[seed], purpose)
                for purpose, runs in recipe.by_purpose()
                for seed in runs
            ]
            for number, recipe in enumerate(recipes)
        }


def _filled(kind: type, **known: Any) -> Any:
    """A record of which only this is known."""
    return kind(**dict.fromkeys(each.name for each in fields(kind)) | known)


def _trial(number: int, recipe: Recipe) -> Trial:
    mean, n = float(np.mean(list(recipe.runs.values()))), len(recipe.runs)
    return _filled(Trial, number=number, recipe_key=str(number), state="complete", val_bpb=mean, n_runs=n)


def _run(number: int, recipe: Recipe, seed: int, score: float, purpose: Purpose) -> Run:
    scores = {"val_bpb": score, "test_bpb": recipe.tests.get(seed)}
    return _filled(Run, trial=number, seed=seed, state="complete", purpose=purpose, **scores)


# --- what is asked ---

IDENTICAL = World("as expected")
FEW = World("a tenth helps, the rest harms", helps=0.1, harms=0.9)
HALF = World("a tenth helps, half does nothing", helps=0.1, harms=0.4)
NULLS = (
    *((IDENTICAL, length) for length in (1, 12, 28, 60, 100, 1000)),
    (World("seeds shared (0.5)", correlation=0.5), 28),
    (World("twice the prior's deviation", prior=0.5), 28),
    (World("half the prior's deviation", prior=2.0), 28),
    (World("deviations differ up to six times", deviations_differ=True), 28),
    (World("heavy tails", heavy_tails=True), 28),
)
COVERED = (
    FEW,
    HALF,
    World("nothing helps"),
    replace(HALF, name="half nothing, deviations differ up to six times", deviations_differ=True),
    replace(HALF, name="half nothing, heavy tails", heavy_tails=True),
    replace(HALF, name="half nothing, seeds shared (0.5)", correlation=0.5),
    replace(HALF, name="half nothing, the machine drifts", drifts=True),
)
COVERED_TRIALS = 28  # of a night: a CPU's, or a night of long runs
HARMFUL = (World("half harm by 3 on average", harms=0.5), World("all harm by 0.6", gain=-0.6))
HARMFUL_TRIALS = (28, 100, 1000)
WORSE_BY = 0.5  # deviations
GAINS = (0.5, 1.0, 1.7, 2.0, 2.6, 3.0)
POWER_TRIALS = (1, 28)


@dataclass(frozen=True)
class Share:
    """So many of so many, with half of the 95 % interval (Wald)."""

    some: int
    of: int

    @classmethod
    def of_facts(cls, facts: Iterable[bool]) -> Share:
        known = list(facts)
        return cls(sum(known), len(known))

    def __str__(self) -> str:
        if not self.of:
            return "-"
        share = self.some / self.of
        half = 1.96 * max(share * (1 - share), 1 / self.of) ** 0.5 / self.of**0.5
        return f"{100 * share:.2f} % ± {100 * half:.2f}" if share < 0.1 else f"{100 * share:.1f} % ± {100 * half:.1f}"


Table = tuple[str, tuple[str, ...], list[list[str]]]


def false_keeps(nights: Nights, trials: int) -> Table:
    """Of identical recipes: how often one is kept, by the length of the night."""
    rows = []
    for world, length in NULLS:
        told = nights(world, length, max(20, trials // length))
        kept = [trial.kept for each in told for trial in each.trials]
        at_least_one = Share.of_facts(any(trial.kept for trial in each.trials) for each in told)
        rows.append([world.name, f"{length}", str(Share.of_facts(kept)), str(at_least_one), f"{len(told)}"])
    heading = ("luck", "trials a night", "kept, of all trials", "nights with at least one", "nights")
    return "Changes that do nothing", heading, rows


def coverage(nights: Nights, count: int) -> Table:
    """How often 95 % intervals hold the truth."""
    rows = []
    for world in COVERED:
        told = nights(world, COVERED_TRIALS, count)
        kept = [trial for each in told for trial in each.trials if trial.kept]
        val = Share.of_facts(each.val_holds for each in told if each.val_holds is not None)
        test = Share.of_facts(each.test_holds for each in told if each.test_holds is not None)
        trial = Share.of_facts(trial.interval_holds for trial in kept)
        empty = Share.of_facts(trial.gain <= 0 for trial in kept)
        rows.append([world.name, str(val), str(test), str(trial), str(empty), f"{val.of} of {len(told)}"])
    heading = ("changes and luck", "headline", "on the test text", "kept trials", "keeps without gain", "with a keep")
    return f"95 % intervals, nights of {COVERED_TRIALS} trials", heading, rows


def harm(nights: Nights, trials: int) -> Table:
    """Where nothing helps: how often what stands in the morning is truly worse than the baseline."""
    rows = []
    for world, length in product(HARMFUL, HARMFUL_TRIALS):
        told = nights(world, length, max(100, trials // length // 10))
        shares = (
            [any(trial.kept for trial in each.trials) for each in told],
            [each.taken_back for each in told],
            [each.stood < -WORSE_BY for each in told],
            [each.stands < -WORSE_BY for each in told],
        )
        rows.append([world.name, f"{length}", *(str(Share.of_facts(facts)) for facts in shares), f"{len(told)}"])
    worse = f"worse by more than {WORSE_BY:g}"
    heading = (
        "changes",
        "trials a night",
        "with a keep",
        "taken back",
        f"{worse}, before",
        f"{worse}, after",
        "nights",
    )
    return "Nights in which nothing helps", heading, rows


def power(nights: Nights, trials: int) -> Table:
    """How surely a gain is found, and for how many runs, the reference's own counted."""
    rows = []
    for length, gain in product(POWER_TRIALS, GAINS):
        told = nights(World(f"{gain:g}", gain=gain), length, trials // length)
        judged = [trial for each in told for trial in each.trials]
        kept = Share.of_facts(trial.kept for trial in judged)
        runs = sum(trial.runs + trial.reference_runs for trial in judged)
        figures = f"{runs / len(judged):.1f}", f"{runs / max(1, kept.some):.1f}"
        rows.append([f"{gain:g}", f"{length}", str(kept), *figures])
    heading = ("deviations", "trials a night", "kept", "runs a trial", "runs a kept gain")
    return "Real gains, each over the incumbent of its moment", heading, rows


class Nights:
    """Simulates on all cores; what is asked decides the nights, not how many cores there are."""

    def __init__(self, pool: ProcessPoolExecutor, seed: int) -> None:
        self._pool, self._seed = pool, seed

    def __call__(self, world: World, trials: int, count: int) -> list[Told]:
        seeds = range(self._seed, self._seed + count)
        chunk = max(1, min(50, count // (4 * CORES)))
        return list(self._pool.map(partial(night, world, trials), seeds, chunksize=chunk))


CORES = os.cpu_count() or 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000, help="at least, behind each share of trials")
    parser.add_argument("--nights", type=int, default=1_000, help="behind each share of nights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="the tables for other programs")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of each process
    found: list[Table] = []
    with ProcessPoolExecutor(CORES) as pool:
        nights = Nights(pool, chosen.seed)
        asked: list[Callable[[], Table]] = [
            partial(false_keeps, nights, chosen.trials),
            partial(coverage, nights, chosen.nights),
            partial(harm, nights, chosen.trials),
            partial(power, nights, chosen.trials),
        ]
        for table in asked:
            found.append(table())
            _print(*found[-1])
    if chosen.json:
        chosen.json.write_text(json.dumps([dict(zip(("title", "heading", "rows"), t, strict=True)) for t in found]))


def _print(title: str, heading: tuple[str, ...], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    print(f"{title}\n")
    for row in (heading, tuple("-" * width for width in widths), *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |", flush=True)
    print()


if __name__ == "__main__":
    main()
