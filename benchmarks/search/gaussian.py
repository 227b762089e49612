"""A Gaussian process over whole recipes with expected improvement: the strongest of the plain optimizers."""

from __future__ import annotations

import math
import random

import numpy as np
import numpy.typing as npt
from scipy import linalg, optimize, special

from autoresearch.trial import Recipe
from rails import recipe_key

from .solo import Ledger
from .space import Space

Array = npt.NDArray[np.float64]

STARTS = 14  # runs drawn evenly before the first model
REFIT_EVERY = 20  # runs
CANDIDATES, PARENTS = 300, 5
# Log-normal prior of each knob's length scale: e^0.7 of the cube's side, weak (STARTS are few beside 13 knobs).
LENGTH_MEAN, LENGTH_DEVIATION = 0.7, 0.8
NOISE_MEAN, NOISE_DEVIATION = math.log(0.1), 1.0  # of the scores' own deviation
ROOT5 = 5**0.5


def gaussian_process(space: Space, ledger: Ledger) -> None:
    """One run a recipe; the next one is the best of mutations of the best, by expected improvement."""
    rng = random.Random(f"gp/{ledger.night}")
    model = Process(len(space.knobs))
    while not ledger.is_over:
        if len(ledger.standings) < STARTS:
            ledger.run(space.draw(rng), ledger.night)
            continue
        keys = list(ledger.scores)
        means = np.array([np.mean(ledger.scores[key]) for key in keys])
        model.learn(np.array([space.point(ledger.recipes[key]) for key in keys]), means)
        best = [ledger.recipes[keys[i]] for i in np.argsort(model.fitted())[:PARENTS]]
        fresh: dict[str, Recipe] = {}
        while len(fresh) < CANDIDATES:
            candidate = space.near(rng.choice(best), rng.randint(1, 3), rng)
            if (key := recipe_key(candidate)) not in ledger.recipes:
                fresh[key] = candidate
        drawn = list(fresh.values())
        gains = model.improvement(np.array([space.point(candidate) for candidate in drawn]))
        ledger.run(drawn[int(np.argmax(gains))], ledger.night)


class Process:
    """Matern 5/2 with a length scale a knob, on scores brought to mean 0 and deviation 1."""

    def __init__(self, knobs: int) -> None:
        self._parameters = np.array([LENGTH_MEAN] * knobs + [0.0, NOISE_MEAN])  # logarithms: lengths, size, noise
        self._fitted_at = 0

    def learn(self, points: Array, scores: Array) -> None:
        """points [n, knobs] in the unit cube, scores [n]. Length scales are fitted anew now and then."""
        # Ranks' tails: one very bad recipe must not flatten all differences between good ones.
        clipped = np.minimum(scores, np.median(scores) + 3 * (np.median(scores) - scores.min()))
        self._points, self._scores = points, (clipped - clipped.mean()) / (clipped.std() or 1.0)
        if len(scores) >= self._fitted_at + REFIT_EVERY or not self._fitted_at:
            found = optimize.minimize(
                self._cost, self._parameters, jac=True, method="L-BFGS-B", options={"maxiter": 25}
            )
            self._parameters, self._fitted_at = found.x, len(scores)
        kernel = self._kernel(points, points) + np.exp(self._parameters[-1]) * np.eye(len(points))
        self._factor = linalg.cho_factor(kernel, lower=True)
        self._weights = linalg.cho_solve(self._factor, self._scores)

    def fitted(self) -> Array:
        """The model's mean at each point that it has learned."""
        return self._scores - np.exp(self._parameters[-1]) * self._weights

    def improvement(self, points: Array) -> Array:
        """Expected improvement, in deviations of the scores, over the lowest fitted mean."""
        cross = self._kernel(points, self._points)
        mean = cross @ self._weights
        solved = linalg.solve_triangular(self._factor[0], cross.T, lower=True)
        deviation = np.sqrt(np.maximum(np.exp(self._parameters[-2]) - (solved**2).sum(0), 1e-12))
        gap = (self.fitted().min() - mean) / deviation
        return deviation * (gap * special.ndtr(gap) + np.exp(-gap * gap / 2) / math.sqrt(2 * math.pi))

    def _kernel(self, left: Array, right: Array) -> Array:
        lengths = np.exp(self._parameters[:-2])
        apart = ROOT5 * np.sqrt(_squares(left / lengths, right / lengths))
        return np.exp(self._parameters[-2]) * (1 + apart + apart**2 / 3) * np.exp(-apart)

    def _cost(self, parameters: Array) -> tuple[float, Array]:
        """The negative log posterior of the parameters, and its gradient."""
        self._parameters = parameters
        n, lengths = len(self._points), np.exp(parameters[:-2])
        scaled = self._points / lengths
        apart = ROOT5 * np.sqrt(_squares(scaled, scaled))
        size, noise, falling = np.exp(parameters[-2]), np.exp(parameters[-1]), np.exp(-apart)
        kernel = size * (1 + apart + apart**2 / 3) * falling
        try:
            factor = linalg.cho_factor(kernel + (noise + 1e-8) * np.eye(n), lower=True)
        except linalg.LinAlgError:
            return 1e10, np.zeros_like(parameters)
        weights = linalg.cho_solve(factor, self._scores)
        inner = np.outer(weights, weights) - linalg.cho_solve(factor, np.eye(n))
        shared = inner * (size * 5 / 3 * (1 + apart) * falling)
        # Of each knob's squared distances, without holding n x n for every knob: sum of shared * (a - b)^2.
        slopes = [float(2 * (shared.sum(1) @ column**2) - 2 * (column @ shared @ column)) / 2 for column in scaled.T]
        data = float(self._scores @ weights) / 2 + float(np.log(np.diag(factor[0])).sum())
        slope = np.array([*slopes, float((inner * kernel).sum()) / 2, noise * float(np.trace(inner)) / 2])
        means = np.array([LENGTH_MEAN] * len(lengths) + [0.0, NOISE_MEAN])
        widths = np.array([LENGTH_DEVIATION] * len(lengths) + [1.0, NOISE_DEVIATION])
        prior = (parameters - means) / widths
        return data + float(prior @ prior) / 2, prior / widths - slope


def _squares(left: Array, right: Array) -> Array:
    """Squared distances between all rows."""
    found = (left**2).sum(1)[:, None] + (right**2).sum(1) - 2 * left @ right.T
    return np.maximum(found, 0.0)
