"""The embedded default: Bayesian optimization over whole recipes, taught by every run of every trial."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from operator import ne
from statistics import fmean

import numpy as np

from autoresearch import words
from autoresearch.proposers.gaussian_process import Array, Process, expected_improvement
from autoresearch.proposers.space import Space
from autoresearch.trial import History, Proposal, Recipe, Trial
from rails import RailsError, Value, gate

STARTS = 10  # recipes before the first model, or fewer where there are fewer knobs
DRAWS = 64  # until one passes the rails; then it goes to them as it is
CANDIDATES, PARENTS = 300, 5
MOST_LEARNED = 800  # recipes: the cost grows with their cube; beyond it the best half and the latest
MOVED = 2  # knobs of a good recipe at once, at most
FAILED = ("failed", "timed_out")


class _Places:
    """Recipes of trials as one menu takes them, with their points in its cube, each worked out once."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._known: dict[str, tuple[Recipe, list[float]] | None] = {}

    def of(self, trial: Trial) -> tuple[Recipe, list[float]] | None:
        """None where the menu does not take the recipe: the menu or the study is another's."""
        if not (key := trial.recipe_key):  # an import that does not tell it
            return self._place(trial.recipe)
        if key not in self._known:
            self._known[key] = self._place(trial.recipe)
        return self._known[key]

    def _place(self, recipe: Mapping[str, Value]) -> tuple[Recipe, list[float]] | None:
        try:
            admitted = {name: knob.admit(recipe[name]) for name, knob in self.space.knobs.items()}
        except (RailsError, KeyError):
            return None
        return admitted, self.space.point(admitted)


@dataclass
class _Known:
    """What the trajectory says of recipes that the menu still has."""

    points: list[list[float]] = field(default_factory=list)
    recipes: list[Recipe] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    failed: list[list[float]] = field(default_factory=list)
    in_flight: list[list[float]] = field(default_factory=list)

    @classmethod
    def of(cls, history: History, places: _Places) -> _Known:
        known = cls()
        for trial in history.trials:
            if (place := places.of(trial)) is None:
                continue
            recipe, point = place
            score, runs = trial.val_bpb, trial.n_runs
            if trial.state == "running" and (so_far := history.scores.get(trial.number)):
                score, runs = fmean(so_far.values()), len(so_far)
            if score is not None and runs:
                known.points.append(point)
                known.recipes.append(recipe)
                known.scores.append(score)
                known.runs.append(runs)
            elif trial.state in FAILED:
                known.failed.append(point)
            elif trial.state == "running":
                known.in_flight.append(point)
        known._forget()
        return known

    def _forget(self) -> None:
        """Of very many recipes the best half and the latest are learned."""
        n, half = len(self.scores), MOST_LEARNED // 2
        if n <= MOST_LEARNED:
            return
        best = sorted(range(n), key=lambda place: self.scores[place])[:half]
        kept = sorted({*best, *range(n - half, n)})
        self.points, self.recipes = [self.points[i] for i in kept], [self.recipes[i] for i in kept]
        self.scores, self.runs = [self.scores[i] for i in kept], [self.runs[i] for i in kept]


class BayesProposer:
    """Expected improvement of a Gaussian process over mutations of the best recipes, as changes to the incumbent.

    The model is made anew of the trajectory each time, so any process at any time proposes the same. Runs in flight
    count as what the model expects of them; near what failed less is expected.
    """

    name = "gp"
    _places: _Places | None = None

    def propose(self, history: History) -> Proposal:
        space = Space(history.menu, history.limits)
        stands = _standing(history)
        known = _Known.of(history, self._places_on(space))
        rng = random.Random(f"gp/{history.seed}/{history.number}")
        most = min(history.menu.max_changes, len(space.knobs))
        ended = len(known.scores) + len(known.failed)
        if ended < min(STARTS, 2 + len(space.knobs)) or len(known.scores) < 2:
            return self._at_random(history, space, stands, rng, most)
        model = Process(np.array(known.points), np.array(known.scores), np.array(known.runs, float), history.deviation)
        fitted = model.fitted()
        model.believe(np.array(known.in_flight))
        best = [known.recipes[i] for i in np.argsort(fitted, kind="stable")[:PARENTS]]
        candidates = _candidates(space, stands, best, rng, most)
        if not candidates:
            return self._at_random(history, space, stands, rng, most)
        points = np.array([space.point(candidate) for candidate in candidates])
        mean, deviation = model.predict(points)
        gains = expected_improvement(mean, deviation, float(fitted.min())) * _survives(model, points, known)
        at_present = model.predict(np.array([space.point(stands)]))[0][0]
        for which in np.argsort(-gains, kind="stable"):
            promised = words.plus_minus(float(mean[which]), 1.96 * float(deviation[which]))
            reason = f"Of {len(candidates)} recipes near the best, after {words.count(ended, 'recipe')}: {promised}."
            raw = _answer(stands, candidates[which], reason, float(mean[which] - at_present))
            if _passes(raw, history):
                return Proposal(raw=raw, proposer=self.name)
        return self._at_random(history, space, stands, rng, most)

    def _places_on(self, space: Space) -> _Places:
        if self._places is None or self._places.space.menu is not space.menu:
            self._places = _Places(space)
        return self._places

    def _at_random(self, history: History, space: Space, stands: Recipe, rng: random.Random, most: int) -> Proposal:
        """A mutation of the incumbent; where the rails let nothing through they say why."""
        raw = ""
        for _ in range(DRAWS):
            candidate = space.near(stands, rng.randint(1, min(MOVED, most)), rng) or space.draw(rng)
            raw = _answer(stands, candidate, "Drawn at random near what stands: too little is known for a model.")
            if _passes(raw, history):
                break
        return Proposal(raw=raw, proposer=self.name)


def _candidates(space: Space, stands: Recipe, best: list[Recipe], rng: random.Random, most: int) -> list[Recipe]:
    """Recipes that are allowed: mutations of the best ones that the incumbent can become by so many changes. Whether
    one was tried before is for the rails to see."""
    within = [recipe for recipe in best if _apart(stands, recipe) <= most] or [stands]
    return space.neighbours(
        within, CANDIDATES, min(MOVED, most), rng, lambda recipe: 1 <= _apart(stands, recipe) <= most
    )


def _survives(model: Process, points: Array, known: _Known) -> Array:
    """How likely each is not to fail: by the share of failures among what is like it."""
    if not known.failed:
        return np.ones(len(points))
    failed = model.likeness(points, np.array(known.failed)).sum(1)
    ended = failed + model.likeness(points, np.array(known.points)).sum(1)
    found: Array = 1 - failed / (ended + 1)
    return found


def _standing(history: History) -> Recipe:
    """The recipe that is changed, as the menu has it: its default where the recipe has no such value."""
    found = history.menu.defaults()
    for name, knob in history.menu.knobs.items():
        with suppress(RailsError, KeyError):
            found[name] = knob.admit(history.recipe[name])
    return found


def _changes(before: Mapping[str, Value], after: Mapping[str, Value]) -> Recipe:
    return {name: value for name, value in after.items() if before.get(name) != value}


def _apart(one: Recipe, other: Recipe) -> int:
    """Knobs in which they differ; both hold them in the menu's order."""
    return sum(map(ne, one.values(), other.values()))


def _answer(stands: Recipe, candidate: Recipe, reason: str, expected: float | None = None) -> str:
    changes = _changes(stands, candidate)
    told: dict[str, object] = {"changes": changes, "reason": reason}
    if len(changes) == 1:
        ((name, value),) = changes.items()
        told = {"knob": name, "new_value": value, "reason": reason}
    if expected is not None:
        told["expected_delta"] = round(expected, 6)
    return json.dumps(told)


def _passes(raw: str, history: History) -> bool:
    return gate(raw, history.recipe, history.menu, history.tried, history.limits).passed
