"""A Gaussian process over whole recipes with expected improvement, without a study loop around it."""

from __future__ import annotations

import random

import numpy as np

from autoresearch.proposers.gaussian_process import Process, expected_improvement
from autoresearch.proposers.space import Space
from rails import Value

from .solo import Ledger

STARTS = 14  # runs drawn evenly before the first model
CANDIDATES, PARENTS, MOVED = 300, 5, 3


def gaussian_process(space: Space, ledger: Ledger) -> None:
    """One run a recipe; the next one is the best of mutations of the best, by expected improvement."""
    rng = random.Random(f"gp/{ledger.night}")
    tried: set[tuple[Value, ...]] = set()
    while not ledger.is_over:
        if len(ledger.standings) < STARTS:
            ledger.run(space.draw(rng), ledger.night)
            continue
        keys = list(ledger.scores)
        runs = np.array([len(ledger.scores[key]) for key in keys], float)
        means = np.array([np.mean(ledger.scores[key]) for key in keys])
        model = Process(np.array([space.point(ledger.recipes[key]) for key in keys]), means, runs)
        fitted = model.fitted()
        best = [ledger.recipes[keys[i]] for i in np.argsort(fitted)[:PARENTS]]
        tried.update(tuple(recipe.values()) for recipe in ledger.recipes.values())
        drawn = space.neighbours(best, CANDIDATES, MOVED, rng, lambda recipe: tuple(recipe.values()) not in tried)
        mean, deviation = model.predict(np.array([space.point(candidate) for candidate in drawn]))
        gains = expected_improvement(mean, deviation, float(fitted.min()))
        ledger.run(drawn[int(np.argmax(gains))], ledger.night)
