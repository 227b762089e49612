"""Which recipes are recorded, with which seeds: the whole menu, joint and single changes, and around what is good."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from scipy.stats import qmc

from autoresearch.proposers.space import move, value_at
from rails import Knob, Limits, Menu, Value, recipe_key, violations

Recipe = dict[str, Value]
Score = Callable[["Planned"], float | None]  # val_bpb of a run that is recorded; None: it failed

SEED = 20261121
BASELINE_SEEDS = 8
SINGLE_POINTS = 6  # of a range; every choice of a list
SPACE_POINTS = 200
JOINT_POINTS = 160
GOOD_ROUNDS, GOOD_PARENTS, GOOD_CHILDREN = 2, 18, 6
REPEATED_BEST, REPEATED_REST = 40, 60
STEP = 0.12  # deviation of a small move, as a share of a knob's range


@dataclass(frozen=True)
class Planned:
    """One run to be recorded."""

    kind: str  # why the recipe is there: baseline, single, space, joint, good
    recipe: Recipe
    seed: int


class Design:
    """Rounds of runs; later ones follow from the scores of earlier ones alone, whatever has been recorded since."""

    def __init__(self, menu: Menu, limits: Limits) -> None:
        self._menu, self._limits = menu, limits
        self._base = menu.defaults()
        self._planned: dict[str, Planned] = {}  # the first run of each recipe

    def rounds(self, score: Score) -> Iterator[list[Planned]]:
        """Each is to be run whole before the next is asked for."""
        before: list[Planned] = []
        for planned in self._rounds(lambda: _best(before, score)):
            before.extend(planned)
            yield planned

    def _rounds(self, best: Callable[[], list[str]]) -> Iterator[list[Planned]]:
        yield self._new("baseline", [self._base]) + _again(Planned("baseline", self._base, 0), range(1, BASELINE_SEEDS))
        singles = self._new("single", [self._base | {name: value} for name, value in self._single_values()])
        yield singles
        yield self._new("space", self._space())
        yield [repeat for run in singles for repeat in _again(run, [1])]
        yield self._new("joint", self._joint())
        for number in range(GOOD_ROUNDS):
            yield self._good(number, best())
        yield self._repeats(best())

    def _good(self, number: int, order: list[str]) -> list[Planned]:
        """The neighbourhood of the best recipes so far: one to three knobs moved, near or anywhere."""
        rng = random.Random(f"{SEED}/good/{number}")
        children: list[Recipe] = []
        for key in order[:GOOD_PARENTS]:
            parent, known = self._planned[key].recipe, len(children)
            while len(children) < known + GOOD_CHILDREN:
                child = dict(parent)
                for name in rng.sample(list(self._menu.knobs), rng.randint(1, 3)):
                    child[name] = move(self._menu.knobs[name], parent[name], rng, STEP)
                if self._is_new(child, children):
                    children.append(child)
        return self._new("good", children)

    def _repeats(self, order: list[str]) -> list[Planned]:
        """Two further seeds of the best, one of recipes spread evenly over the other ranks."""
        rest = order[REPEATED_BEST:]
        spread = rest[:: max(1, len(rest) // REPEATED_REST)]
        best = [repeat for key in order[:REPEATED_BEST] for repeat in _again(self._planned[key], [1, 2])]
        return best + [repeat for key in spread for repeat in _again(self._planned[key], [1])]

    def _new(self, kind: str, recipes: Sequence[Recipe]) -> list[Planned]:
        runs = []
        for recipe in recipes:
            # Seeds go round, so that what a seed does can be told from what a recipe does.
            run = Planned(kind, recipe, len(self._planned) % BASELINE_SEEDS)
            self._planned[recipe_key(recipe)] = run
            runs.append(run)
        return runs

    def _is_new(self, recipe: Recipe, others: Sequence[Recipe]) -> bool:
        return (
            recipe_key(recipe) not in self._planned
            and recipe not in others
            and not violations(recipe, self._menu, self._limits)
        )

    def _single_values(self) -> Iterator[tuple[str, Value]]:
        for name, knob in self._menu.knobs.items():
            for value in _spread(knob):
                if value != self._base[name] and not violations(self._base | {name: value}, self._menu, self._limits):
                    yield name, value

    def _space(self) -> list[Recipe]:
        sampler = qmc.Sobol(len(self._menu.knobs), seed=SEED)
        found: list[Recipe] = []
        while len(found) < SPACE_POINTS:
            for point in sampler.random(256):
                recipe = {
                    name: value_at(knob, float(share))
                    for (name, knob), share in zip(self._menu.knobs.items(), point, strict=True)
                }
                if len(found) < SPACE_POINTS and self._is_new(recipe, found):
                    found.append(recipe)
        return found

    def _joint(self) -> list[Recipe]:
        rng = random.Random(f"{SEED}/joint")
        found: list[Recipe] = []
        while len(found) < JOINT_POINTS:
            names = rng.sample(list(self._menu.knobs), rng.randint(2, 5))
            recipe = self._base | {name: value_at(self._menu.knobs[name], rng.random()) for name in names}
            if self._is_new(recipe, found):
                found.append(recipe)
        return found


def _again(run: Planned, after: Iterable[int]) -> list[Planned]:
    """The same recipe with the seeds so many places on."""
    return [Planned(run.kind, run.recipe, (run.seed + places) % BASELINE_SEEDS) for places in after]


def _best(runs: Sequence[Planned], score: Score) -> list[str]:
    """Keys of the recipes with a complete run, by their mean, best first."""
    scores: dict[str, list[float]] = {}
    for run in runs:
        if (value := score(run)) is not None:
            scores.setdefault(recipe_key(run.recipe), []).append(value)
    means = {key: statistics.fmean(values) for key, values in scores.items()}
    return sorted(means, key=lambda key: (means[key], key))


def _spread(knob: Knob) -> list[Value]:
    if knob.choices:
        return list(knob.choices)
    if knob.type == "int" and int(knob.high or 0) - int(knob.low or 0) < 2 * SINGLE_POINTS:
        return list(range(int(knob.low or 0), int(knob.high or 0) + 1))
    return [value_at(knob, point / (SINGLE_POINTS - 1)) for point in range(SINGLE_POINTS)]
