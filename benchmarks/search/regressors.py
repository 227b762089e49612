"""From a recipe's features to a figure of its runs: two kinds of regression for its level, a plain one for the rest."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

Array = npt.NDArray[np.float64]

FITTED_ON = 400  # points that the length scales are fitted to: cost grows with the cube
TREES, DEPTH, RATE, SHARE_OF_POINTS = 400, 4, 0.05, 0.7
ROOT5 = 5**0.5


class Regressor(Protocol):
    """Learns once, then answers many single points fast."""

    def __init__(self, points: Array, values: Array) -> None:
        """points [n, features], values [n]."""

    def __call__(self, points: Array) -> Array:
        """[m, features] -> [m]."""


class Smooth:
    """A Gaussian process, Matern 5/2, with a length scale a feature and noise."""

    def __init__(self, points: Array, values: Array) -> None:
        self._centre, self._width = points.mean(0), points.std(0) + 1e-9
        scaled = (points - self._centre) / self._width
        some = np.random.Generator(np.random.PCG64(0)).permutation(len(points))[:FITTED_ON]
        kernel = ConstantKernel(1.0, (0.1, 100)) * Matern(np.full(points.shape[1], 3.0), (0.2, 100), nu=2.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound: the feature is idle
            first = GaussianProcessRegressor(kernel + WhiteKernel(0.1, (1e-4, 1)), normalize_y=True)
            fitted = first.fit(scaled[some], values[some]).kernel_
        whole = GaussianProcessRegressor(fitted, optimizer=None, normalize_y=True).fit(scaled, values)
        size, matern = fitted.k1.k1.constant_value, fitted.k1.k2
        # A prediction of scikit-learn's takes a millisecond of checks; this is the same sum.
        self._lengths = matern.length_scale
        self._points = scaled / self._lengths
        self._weights = whole.alpha_.ravel() * size * values.std()
        self._mean = values.mean()

    def __call__(self, points: Array) -> Array:
        apart = ROOT5 * cdist((points - self._centre) / self._width / self._lengths, self._points)
        found: Array = (1 + apart + apart**2 / 3) * np.exp(-apart) @ self._weights + self._mean
        return found


class Steps:
    """Boosted trees (Friedman 2002): constant between thresholds, with no notion of distance."""

    def __init__(self, points: Array, values: Array) -> None:
        boosted = GradientBoostingRegressor(
            n_estimators=TREES, max_depth=DEPTH, learning_rate=RATE, subsample=SHARE_OF_POINTS, random_state=0
        ).fit(points, values)
        trees = [tree.tree_ for tree in boosted.estimators_[:, 0]]
        self._mean = float(values.mean())  # what the first tree corrects
        # All trees in one array, walked down together: scikit-learn checks each call for a millisecond.
        self._roots = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])
        self._depth = max(tree.max_depth for tree in trees)
        self._feature = np.concatenate([np.maximum(tree.feature, 0) for tree in trees])
        self._threshold = np.concatenate([tree.threshold for tree in trees])
        self._value = np.concatenate([tree.value.ravel() for tree in trees])
        # A leaf is its own child, so that deep and shallow trees walk equally long.
        self._left, self._right = (
            np.concatenate(
                [
                    np.where(side(tree) < 0, np.arange(tree.node_count), side(tree)) + root
                    for tree, root in zip(trees, self._roots, strict=True)
                ]
            )
            for side in (attrgetter("children_left"), attrgetter("children_right"))
        )

    def __call__(self, points: Array) -> Array:
        points = points.astype(np.float32)  # as scikit-learn compares
        rows = np.arange(len(points))[:, None]
        nodes = np.broadcast_to(self._roots, (len(points), len(self._roots)))
        for _ in range(self._depth):
            goes_left = points[rows, self._feature[nodes]] <= self._threshold[nodes]
            nodes = np.where(goes_left, self._left[nodes], self._right[nodes])
        found: Array = self._mean + RATE * self._value[nodes].sum(1)
        return found


@dataclass(frozen=True)
class Linear:
    """A weighted sum of features brought to mean 0 and deviation 1."""

    intercept: float
    slopes: Array  # of the features as they come

    @staticmethod
    def scaled(points: Array) -> Array:
        """points [n, features] -> [n, 1 + features], the first column ones: what weights are fitted on."""
        return np.column_stack([np.ones(len(points)), (points - points.mean(0)) / (points.std(0) + 1e-9)])

    @classmethod
    def of(cls, points: Array, weights: Array) -> Linear:
        """weights [1 + features]: fitted on `scaled(points)`."""
        slopes = weights[1:] / (points.std(0) + 1e-9)
        return cls(float(weights[0] - slopes @ points.mean(0)), slopes)

    def __call__(self, point: Array) -> float:
        """[features] -> the sum."""
        return self.intercept + float(self.slopes @ point)
