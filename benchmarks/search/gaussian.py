"""A Gaussian process over whole recipes with expected improvement, without a study loop around it."""

from __future__ import annotations

import random

import numpy as np

from autoresearch.proposers.gaussian_process import Process, expected_improvement
from autoresearch.proposers.space import Space
from autoresearch.trial import Recipe
from rails import recipe_key

from .solo import Ledger

STARTS = 14  # runs drawn evenly before the first model
CANDIDATES, PARENTS = 300, 5


def gaussian_process(space: Space, ledger: Ledger) -> None:
    """One run a recipe; the next one is the best of mutations of the best, by expected improvement."""
    rng = random.Random(f"gp/{ledger.night}")
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
        fresh: dict[str, Recipe] = {}
        while len(fresh) < CANDIDATES:
            candidate = space.near(rng.choice(best), rng.randint(1, 3), rng)
            if candidate and (key := recipe_key(candidate)) not in ledger.recipes:
                fresh[key] = candidate
        drawn = list(fresh.values())
        mean, deviation = model.predict(np.array([space.point(candidate) for candidate in drawn]))
        gains = expected_improvement(mean, deviation, float(fitted.min()))
        ledger.run(drawn[int(np.argmax(gains))], ledger.night)
