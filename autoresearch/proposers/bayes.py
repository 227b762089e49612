"""The embedded default: Bayesian optimization over whole recipes, taught by every run of every trial."""

from __future__ import annotations

import random

import numpy as np

from autoresearch import words
from autoresearch.proposers.gaussian_process import Array, Process, expected_improvement
from autoresearch.proposers.known import MOVED, Known, Places, answer, moved, passes, standing, start
from autoresearch.proposers.space import Space
from autoresearch.trial import History, Proposal

MOST_LEARNED = 150  # recipes: the cost grows with their cube, and on the bench 800 found nothing better
CANDIDATES, PARENTS = 300, 5
TRIES = 4  # for each candidate: not all are within the changes that the study allows


class BayesProposer:
    """Expected improvement of a Gaussian process over mutations of the best recipes, as changes to the incumbent.

    The model is made anew of the trajectory each time, so any process at any time proposes the same. Runs in flight
    count as what the model expects of them; near what failed less is expected.
    """

    name = "gp"

    def __init__(self) -> None:
        self._places = Places()

    def propose(self, history: History) -> Proposal:
        space = Space(history.menu, history.limits)
        stands = standing(history)
        known = Known.of(history, space, self._places, MOST_LEARNED)
        rng = random.Random(f"gp/{history.seed}/{history.number}")
        most = min(history.menu.max_changes, len(space.knobs))
        if known.is_too_little(space):
            return start(history, space, stands, rng, self.name)
        model = Process(np.array(known.points), np.array(known.scores), np.array(known.runs, float), history.deviation)
        fitted = model.fitted()
        model.believe(np.array(known.in_flight))
        at = np.array(space.point(stands))
        model.believe(np.array(known.stopped), at_least=float(model.predict(at[None])[0][0]))
        best = np.array(known.points)[np.argsort(fitted, kind="stable")[:PARENTS]]
        points = _candidates(space, at, best, np.random.default_rng(rng.getrandbits(64)), most)
        mean, deviation = model.predict(points)
        gains = expected_improvement(mean, deviation, float(fitted.min())) * _survives(model, points, known)
        at_present = model.predict(at[None])[0][0]
        for which in np.argsort(-gains, kind="stable"):
            promised = words.plus_minus(float(mean[which]), 1.96 * float(deviation[which]))
            reason = f"Of {len(points)} recipes near the best, after {words.count(known.ended, 'recipe')}: {promised}."
            raw = answer(stands, moved(space, stands, points[which]), reason, float(mean[which] - at_present))
            if passes(raw, history):
                return Proposal(raw=raw, proposer=self.name)
        return start(history, space, stands, rng, self.name)


def _candidates(space: Space, at: Array, best: Array, rng: np.random.Generator, most: int) -> Array:
    """Points that the incumbent can become by so many changes: the best ones' neighbours. Whether a recipe is allowed,
    or was tried before, is for the rails to see."""
    within = best[(best != at).sum(1) <= most]
    near = space.neighbours(within if len(within) else at[None], TRIES * CANDIDATES, min(MOVED, most), rng)
    apart = (near != at).sum(1)
    return near[(apart >= 1) & (apart <= most)][:CANDIDATES]


def _survives(model: Process, points: Array, known: Known) -> Array:
    """How likely each is not to fail: by the share of failures among what is like it."""
    if not known.failed:
        return np.ones(len(points))
    failed = model.likeness(points, np.array(known.failed)).sum(1)
    ended = failed + model.likeness(points, np.array(known.points)).sum(1)
    found: Array = 1 - failed / (ended + 1)
    return found
