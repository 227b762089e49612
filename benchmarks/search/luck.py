"""How single runs of one recipe scatter, fitted to the recorded runs of recipes that have several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import optimize

from .regressors import Array, Linear

RIDGE = 8.0  # pulls each feature's weight to nought: some recipes have two runs, none more than eight


@dataclass(frozen=True)
class Repeated:
    """The complete runs of one recipe: natural logarithms of bits per byte, by seed."""

    features: Array
    val: Mapping[int, float]
    test: Mapping[int, float]


@dataclass(frozen=True)
class Luck:
    """Deviations are of the logarithm, so shares of the score."""

    log_variance: Linear
    between: tuple[float, float]  # the deviations that were seen: beyond them nothing is known
    seed_share: float  # of a run's variance that goes with its seed, in whatever recipe
    val_with_test: float  # correlation
    test_ratio: float  # of test's deviation to val's
    recipes: int  # it was fitted to
    runs: int

    def deviation(self, features: Array) -> float:
        """Of one run; features [n]."""
        return float(np.clip(np.exp(self.log_variance(features) / 2), *self.between))


def fit_luck(groups: Sequence[Repeated]) -> Luck:
    """groups: recipes with two seeds or more each."""
    assert groups, "luck cannot be fitted to recipes of one seed each"
    points = np.array([group.features for group in groups])
    scaled = Linear.scaled(points)
    squares = np.array([np.var([*group.val.values()]) * len(group.val) for group in groups])
    dof = np.array([len(group.val) - 1.0 for group in groups])

    def cost(weights: Array) -> tuple[float, Array]:
        """Of normal scatter around each recipe's own mean, whose logarithmic variance is linear in the features."""
        logs = scaled @ weights
        ratio = squares * np.exp(-logs)
        ridge = RIDGE * np.concatenate([[0.0], weights[1:]])
        return float((dof * logs + ratio).sum() / 2 + ridge @ weights / 2), scaled.T @ (dof - ratio) / 2 + ridge

    start = np.zeros(scaled.shape[1])
    start[0] = np.log(squares.sum() / dof.sum())
    weights = optimize.minimize(cost, start, jac=True, method="L-BFGS-B").x
    deviations = np.exp(scaled @ weights / 2)
    correlation, ratio = _val_and_test(groups, deviations)
    runs = sum(len(group.val) for group in groups)
    share = _seed_share(groups, deviations)
    between = float(deviations.min()), float(deviations.max())
    return Luck(Linear.of(points, weights), between, share, correlation, ratio, len(groups), runs)


def _seed_share(groups: Sequence[Repeated], deviations: Array) -> float:
    """Correlation over recipes of the differences between the same two seeds."""
    differences: dict[tuple[int, int], list[float]] = {}
    for group, deviation in zip(groups, deviations, strict=True):
        for first, second in combinations(sorted(group.val), 2):
            apart = (group.val[first] - group.val[second]) / (2**0.5 * deviation)
            differences.setdefault((first, second), []).append(apart)
    shared = sum(sum(found) ** 2 - sum(x * x for x in found) for found in differences.values())
    pairs = sum(len(found) * (len(found) - 1) for found in differences.values())
    return float(np.clip(shared / max(pairs, 1), 0.0, 0.95))


def _val_and_test(groups: Sequence[Repeated], deviations: Array) -> tuple[float, float]:
    """Correlation of the two scores' luck, and how much more test scatters."""
    residuals = np.concatenate(
        [
            np.array([[group.val[seed], group.test[seed]] for seed in group.val])
            - [np.mean([*group.val.values()]), np.mean([*group.test.values()])]
            for group in groups
        ]
    )
    residuals /= np.repeat(deviations, [len(group.val) for group in groups])[:, None]
    (val, both), (_, test) = residuals.T @ residuals
    return float(both / (val * test) ** 0.5), float((test / val) ** 0.5)
