"""A Gaussian process over the cube of recipes, with noise that falls with the runs behind a mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg, optimize, special

Array = npt.NDArray[np.float64]

# Log-normal prior of each knob's length scale: e^0.7 of the cube's side, weak (first runs are few beside the knobs).
LENGTH_MEAN, LENGTH_DEVIATION = 0.7, 0.8
# Of one run's variance as a share of the scores': wide where nobody has measured it, narrow around what is measured.
NOISE_MEAN, NOISE_DEVIATION, KNOWN_NOISE_DEVIATION = math.log(0.1), 1.0, 0.5
# Length scales are fitted to so many points: the best half of them and others spread over the rest.
FITTED_ON, ITERATIONS = 60, 10
FARTHEST = 6.0  # from the prior's mean, of any logarithm: beyond it nothing changes any more
ROOT5 = 5**0.5


@dataclass(frozen=True)
class Kernel:
    """What was fitted: lengths [knobs] in sides of the cube; variances of the process and of one run, and the scores
    [n] that it was fitted to, in the unit in which the scores have deviation 1."""

    lengths: Array
    size: float
    noise: float
    scores: Array


class Process:
    """Matern 5/2 with a length scale a knob, on scores brought to mean 0 and deviation 1; lower is better."""

    def __init__(self, points: Array, scores: Array, runs: Array, deviation: float | None = None) -> None:
        """points [n, knobs] in the unit cube; scores [n], means over runs [n]; deviation: of one run, if known."""
        # One very bad recipe must not flatten all differences between good ones.
        clipped = np.minimum(scores, np.median(scores) + 3 * (np.median(scores) - scores.min()))
        self._mean, self._unit = float(clipped.mean()), float(clipped.std()) or 1.0
        self._points, self._scores, self._runs = points, (clipped - self._mean) / self._unit, runs
        noise = (NOISE_MEAN, NOISE_DEVIATION)
        if deviation:
            noise = (2 * math.log(deviation / self._unit), KNOWN_NOISE_DEVIATION)
        knobs = points.shape[1]
        self._prior_mean = np.array([LENGTH_MEAN] * knobs + [0.0, noise[0]])
        self._prior_width = np.array([LENGTH_DEVIATION] * knobs + [1.0, noise[1]])
        self._parameters = self._fit()  # logarithms: lengths, size, noise
        self._condition()

    def fitted(self) -> Array:
        """The model's mean at each point that it has learned, in the scores' unit."""
        smooth = self._scores - self._noise(self._parameters, self._runs) * self._weights
        found: Array = smooth * self._unit + self._mean
        return found

    def predict(self, points: Array) -> tuple[Array, Array]:
        """[m, knobs] -> mean and deviation [m] of the score itself, a run's noise left out."""
        cross = _kernel(self._parameters, points, self._points)
        solved = linalg.solve_triangular(self._factor[0], cross.T, lower=True)
        variance = np.maximum(np.exp(self._parameters[-2]) - (solved**2).sum(0), 1e-12)
        return cross @ self._weights * self._unit + self._mean, np.sqrt(variance) * self._unit

    def likeness(self, left: Array, right: Array) -> Array:
        """[n, m]: 1 for the same recipe, near 0 for one that says nothing of the other."""
        return _kernel(self._parameters, left, right) / float(np.exp(self._parameters[-2]))

    def steepness(self) -> Array:
        """[knobs]: how fast the score changes along each, the inverse of its length scale."""
        found: Array = np.exp(-self._parameters[:-2])
        return found

    def kernel(self) -> Kernel:
        lengths, (size, noise) = np.exp(self._parameters[:-2]), np.exp(self._parameters[-2:])
        return Kernel(lengths, float(size), float(noise), self._scores)

    def believe(self, points: Array, at_least: float = -np.inf) -> None:
        """Takes runs that have no score for what the model expects of them: it grows sure of them and looks elsewhere.
        at_least: what their scores are known not to be below."""
        if not len(points):
            return
        scores = (np.maximum(self.predict(points)[0], at_least) - self._mean) / self._unit
        self._points = np.concatenate([self._points, points])
        self._scores = np.concatenate([self._scores, scores])
        self._runs = np.concatenate([self._runs, np.ones(len(points))])
        self._condition()

    def _condition(self) -> None:
        kernel = _kernel(self._parameters, self._points, self._points)
        kernel[np.diag_indices_from(kernel)] += self._noise(self._parameters, self._runs) + 1e-8
        self._factor = linalg.cho_factor(kernel, lower=True)
        self._weights = linalg.cho_solve(self._factor, self._scores)

    def _fit(self) -> Array:
        order = np.argsort(self._scores, kind="stable")
        if len(order) > FITTED_ON:
            best, rest = order[: FITTED_ON // 2], order[FITTED_ON // 2 :]
            order = np.concatenate([best, rest[np.linspace(0, len(rest) - 1, FITTED_ON // 2).astype(int)]])
        some = self._points[order], self._scores[order], self._runs[order]
        bounds = list(zip(self._prior_mean - FARTHEST, self._prior_mean + FARTHEST, strict=True))
        found = optimize.minimize(
            self._cost,
            self._prior_mean,
            some,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": ITERATIONS},
        )
        parameters: Array = found.x
        return parameters

    def _cost(self, parameters: Array, points: Array, scores: Array, runs: Array) -> tuple[float, Array]:
        """The negative log posterior of the parameters, and its gradient."""
        scaled = points / np.exp(parameters[:-2])
        apart = ROOT5 * np.sqrt(_squares(scaled, scaled))
        size, falling = np.exp(parameters[-2]), np.exp(-apart)
        kernel = size * (1 + apart + apart**2 / 3) * falling
        noise = self._noise(parameters, runs)
        noisy = kernel.copy()
        noisy[np.diag_indices_from(noisy)] += noise + 1e-8
        # LAPACK itself: at eighty points scipy's checks take longer than the sums.
        factor, fault = linalg.lapack.dpotrf(noisy, lower=True)
        if fault:
            return 1e10, np.zeros_like(parameters)
        inverse = linalg.lapack.dpotri(factor, lower=True)[0]
        inverse += np.tril(inverse, -1).T
        weights = inverse @ scores
        inner = np.outer(weights, weights) - inverse
        shared = inner * (size * 5 / 3 * (1 + apart) * falling)
        # Of each knob's squared distances, without holding n x n for every knob: sum of shared * (a - b)^2.
        slopes = shared.sum(1) @ scaled**2 - (scaled * (shared @ scaled)).sum(0)
        data = float(scores @ weights) / 2 + float(np.log(np.diag(factor)).sum())
        slope = np.array([*slopes, float((inner * kernel).sum()) / 2, float(noise @ np.diag(inner)) / 2])
        prior = (parameters - self._prior_mean) / self._prior_width
        return data + float(prior @ prior) / 2, prior / self._prior_width - slope

    @staticmethod
    def _noise(parameters: Array, runs: Array) -> Array:
        found: Array = np.exp(parameters[-1]) / runs
        return found


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Of lower scores than the best, in their unit (Jones 1998)."""
    gap = (best - mean) / deviation
    found: Array = deviation * (gap * special.ndtr(gap) + np.exp(-gap * gap / 2) / math.sqrt(2 * math.pi))
    return found


def _kernel(parameters: Array, left: Array, right: Array) -> Array:
    lengths = np.exp(parameters[:-2])
    apart = ROOT5 * np.sqrt(_squares(left / lengths, right / lengths))
    found: Array = np.exp(parameters[-2]) * (1 + apart + apart**2 / 3) * np.exp(-apart)
    return found


def _squares(left: Array, right: Array) -> Array:
    """Squared distances between all rows."""
    found: Array = (left**2).sum(1)[:, None] + (right**2).sum(1) - 2 * left @ right.T
    return np.maximum(found, 0.0)
