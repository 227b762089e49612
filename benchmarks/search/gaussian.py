"""A Gaussian process over whole recipes with expected improvement, without a study loop around it."""

from __future__ import annotations

import random
from statistics import fmean

import numpy as np

from autoresearch.proposers.gaussian_process import Process, expected_improvement
from autoresearch.proposers.space import Space
from rails import recipe_key

from .solo import Ledger

STARTS = 14  # runs drawn evenly before the first model
CANDIDATES, PARENTS, MOVED = 300, 5, 3


def gaussian_process(space: Space, ledger: Ledger) -> None:
    """One run a recipe; the next one is the best of mutations of the best, by expected improvement."""
    rng = random.Random(f"gp/{ledger.night}")
    numbers = np.random.default_rng(rng.getrandbits(64))
    while not ledger.is_over:
        if len(ledger.standings) < STARTS:
            ledger.run(space.draw(rng), ledger.night)
            continue
        points = np.array([space.point(ledger.recipes[key]) for key in ledger.scores])
        scores = np.array([fmean(runs) for runs in ledger.scores.values()])
        model = Process(points, scores, np.array([float(len(runs)) for runs in ledger.scores.values()]))
        fitted = model.fitted()
        near = space.neighbours(points[np.argsort(fitted)[:PARENTS]], CANDIDATES, MOVED, numbers)
        gains = expected_improvement(*model.predict(near), float(fitted.min()))
        drawn = (space.recipe(near[which]) for which in np.argsort(-gains))
        ledger.run(
            next(recipe for recipe in drawn if recipe_key(recipe) not in ledger.recipes and space.allows(recipe)),
            ledger.night,
        )
