"""What the optimizer believes of recipes that were never run: a model of the trajectory, made anew each time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from autoresearch import words
from autoresearch.proposers.gaussian_process import Array, Process, expected_improvement
from autoresearch.proposers.known import MOVED, Known, answer, moved, passes
from autoresearch.proposers.space import Space
from autoresearch.trial import History, Recipe
from rails import Value

CANDIDATES, PARENTS = 300, 5
TRIES = 4  # for each candidate: not all are within the changes that the study allows
IN_FLIGHT_A_KNOB = 4  # runs in flight for each knob more that is moved at once; by benchmarks/search
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Suggestion:
    """A recipe that passes the rails, as a proposer's answer; val_bpb as expected, and the deviation of that."""

    raw: str
    recipe: Recipe
    mean: float
    deviation: float


@dataclass(frozen=True)
class Expected:
    """Of a recipe: val_bpb, its deviation, and what running it is worth (expected improvement); in bits per byte."""

    mean: float
    deviation: float
    gain: float


class Belief:
    """A Gaussian process over whole recipes, taught by every run of every trial. Runs in flight count as what the model
    expects of them; near what failed less is expected."""

    def __init__(self, history: History, space: Space, known: Known, stands: Recipe) -> None:
        self._history, self._space, self._known, self._stands = history, space, known, stands
        self._points = np.array(known.points)
        model = Process(self._points, np.array(known.scores), np.array(known.runs, float), history.deviation)
        self._fitted = model.fitted()
        model.believe(np.array(known.in_flight))
        self._at = np.array(space.point(stands))
        model.believe(np.array(known.stopped), at_least=float(model.predict(self._at[None])[0][0]))
        self._model = model

    @property
    def best(self) -> float:
        """The lowest val_bpb of a recipe that was run, luck taken off."""
        return float(self._fitted.min())

    def suggestions(self, rng: np.random.Generator) -> Iterator[Suggestion]:
        """Mutations of the best recipes that pass the rails, the most promising first."""
        most = min(self._history.menu.max_changes, len(self._space.knobs))
        points = self._candidates(rng, most)
        mean, deviation = self._model.predict(points)
        gains = expected_improvement(mean, deviation, self.best) * self._survives(points)
        at_present = self._model.predict(self._at[None])[0][0]
        for which in np.argsort(-gains, kind="stable"):
            half = NORMAL_95 * float(deviation[which])
            promised = words.plus_minus(float(mean[which]), half, self._history.metric)
            ended = words.count(self._known.ended, "recipe")
            reason = f"Of {len(points)} recipes near the best, after {ended}: {promised}."
            recipe = moved(self._space, self._stands, points[which])
            raw = answer(self._stands, recipe, reason, float(mean[which] - at_present), self._history.metric)
            if passes(raw, self._history):
                yield Suggestion(raw, recipe, float(mean[which]), float(deviation[which]))

    def of(self, changes: Mapping[str, Value]) -> Expected:
        """Of the recipe that stands with these changes, which have passed the rails."""
        points = np.array([self._space.point({**self._stands, **changes})])
        mean, deviation = self._model.predict(points)
        gain = expected_improvement(mean, deviation, self.best) * self._survives(points)
        return Expected(float(mean[0]), float(deviation[0]), float(gain[0]))

    def of_what_stands(self) -> tuple[float, float]:
        """Expected val_bpb of the recipe that is changed, and its deviation."""
        mean, deviation = self._model.predict(self._at[None])
        return float(mean[0]), float(deviation[0])

    def influence(self) -> dict[str, float]:
        """knob -> share of all the influence that knobs have on the score; they sum to 1."""
        steepness = self._model.steepness()
        return dict(zip(self._space.knobs, (steepness / steepness.sum()).tolist(), strict=True))

    def _candidates(self, rng: np.random.Generator, most: int) -> Array:
        """Points that the incumbent can become by so many changes: the best ones' neighbours. Whether a recipe is
        allowed, or was tried before, is for the rails to see."""
        best = self._points[np.argsort(self._fitted, kind="stable")[:PARENTS]]
        within = best[(best != self._at).sum(1) <= most]
        parents = within if len(within) else self._at[None]
        # With many runs in flight there are few rounds: each then goes further.
        at_once = min(MOVED + len(self._known.in_flight) // IN_FLIGHT_A_KNOB, most)
        near = self._space.neighbours(parents, TRIES * CANDIDATES, at_once, rng)
        apart = (near != self._at).sum(1)
        return near[(apart >= 1) & (apart <= most)][:CANDIDATES]

    def _survives(self, points: Array) -> Array:
        """How likely each is not to fail: by the share of failures among what is like it."""
        if not self._known.failed:
            return np.ones(len(points))
        failed = self._model.likeness(points, np.array(self._known.failed)).sum(1)
        ended = failed + self._model.likeness(points, self._points).sum(1)
        found: Array = 1 - failed / (ended + 1)
        return found
