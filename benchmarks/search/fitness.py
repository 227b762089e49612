"""How well the surrogates foretell runs that they have not seen, and how far they are apart."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn.model_selection import KFold

from autoresearch.proposers.space import Space

from .regressors import Array, Regressor
from .surrogate import KINDS, Recorded, Surrogate, features

FOLDS = 5
PROBES, GOOD_PARENTS = 2000, 20
BEST = 0.1


@dataclass(frozen=True)
class HeldOut:
    """On recipes of which no run was learned."""

    error: float  # root mean square, as a share of val_bpb; the runs' own luck is in it
    rank_correlation: float  # Spearman's, over all
    among_best: float  # the same, among the tenth that was measured best


@dataclass(frozen=True)
class Agreement:
    """Of two surrogates about recipes that were never run."""

    over_menu: float  # Spearman's, over recipes drawn evenly
    among_good: float  # the same, over neighbours of the best recorded ones
    apart: float  # root mean square difference among these, as a share of val_bpb


def held_out(kind: str, recorded: Recorded) -> HeldOut:
    """Five folds by recipe; each recipe is foretold by what was fitted to the other four."""
    known = ~np.isnan(recorded.level)
    points, level = recorded.features[known], recorded.level[known]
    foretold = np.empty(len(level))
    for learned, left_out in KFold(FOLDS, shuffle=True, random_state=0).split(points):
        model: Regressor = KINDS[kind](points[learned], level[learned])
        foretold[left_out] = model(points[left_out])
    best = level <= np.quantile(level, BEST)
    return HeldOut(
        float(np.sqrt(np.mean((foretold - level) ** 2))),
        _rank_correlation(foretold, level),
        _rank_correlation(foretold[best], level[best]),
    )


def agreement(first: Surrogate, second: Surrogate, recorded: Recorded, space: Space) -> Agreement:
    """On recipes that neither has seen, drawn evenly and near the best recorded ones."""
    rng = random.Random("agreement")
    drawn = np.array([features(space, space.draw(rng)) for _ in range(PROBES)])
    parents = [dict(recorded.recipes[place]) for place in np.argsort(recorded.level)[:GOOD_PARENTS]]
    near = [space.near(rng.choice(parents), rng.randint(1, 3), rng) for _ in range(PROBES)]
    good = np.array([features(space, recipe) for recipe in near if recipe])
    apart = first.level(good) - second.level(good)
    return Agreement(
        _rank_correlation(first.level(drawn), second.level(drawn)),
        _rank_correlation(first.level(good), second.level(good)),
        float(np.sqrt(np.mean(apart**2))),
    )


def _rank_correlation(left: Array, right: Array) -> float:
    return float(stats.spearmanr(left, right).statistic)
