"""Decides keep, discard or more runs, from the runs of a candidate and of its reference; arithmetic only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import special

from autoresearch import words
from autoresearch.config import DecisionRule

Runs = Mapping[int, float]  # seed -> val_bpb
Action = Literal["keep", "discard", "replicate"]

# Looks at the same growing data are correlated: up to seven of them, with the early stop below, spend less than
# the false-keep allowance of two independent ones (measured by benchmarks/promises.py).
EFFECTIVE_LOOKS = 2
# A candidate is dropped after run n when its improvement is below this many standard errors.
FUTILITY = {1: -0.25, 2: 0.25, 3: 0.5}
FUTILITY_LATER = 0.75
# A seed's effect is estimated from few seeds; this many pseudo-pairs pull the correlation towards zero.
CORRELATION_PRIOR_PAIRS = 8.0
MAX_CORRELATION = 0.9
INTERVAL = 0.95


@dataclass(frozen=True)
class Noise:
    """Run-to-run deviation (bits per byte), same-seed correlation between recipes, degrees of freedom."""

    deviation: float
    correlation: float
    dof: float

    def half_width(self, n: int) -> float:
        """Half of the 95 % interval of a mean of n runs, in bits per byte."""
        return float(special.stdtrit(self.dof, 0.5 + INTERVAL / 2)) * self.deviation / n**0.5


@dataclass(frozen=True)
class Comparison:
    """How much lower the candidate's val_bpb is than its reference's, in bits per byte (positive is better)."""

    improvement: float
    stderr: float
    dof: float
    probability: float

    @property
    def interval(self) -> tuple[float, float]:
        """The central 95 % of the posterior of the improvement."""
        half = float(special.stdtrit(self.dof, 0.5 + INTERVAL / 2)) * self.stderr
        return self.improvement - half, self.improvement + half


@dataclass(frozen=True)
class Decision:
    """What to do with the trial, why in one line, how many more runs it needs, and the comparison behind it."""

    action: Action
    reason: str
    comparison: Comparison
    candidate_runs: int = 0
    reference_runs: int = 0


def pool_noise(groups: Iterable[Runs], rule: DecisionRule) -> Noise:
    """The run-to-run deviation over all recipes of a study, each of which has one or more seeds.

    The prior counts as `prior_runs` earlier runs with `prior_deviation`; with an empty study it is all there is.
    The correlation compares residuals that share a seed: for own-mean residuals of two recipes with n <= m nested
    seeds the expected sum of products is correlation * variance * (n - 1).
    """
    samples = [group for group in groups if group]
    means = [_mean((*group.values(),)) for group in samples]
    level = float(np.mean(means)) if samples else 1.0
    prior_variance = (rule.prior_deviation * level) ** 2
    repeated = [(group, mean) for group, mean in zip(samples, means, strict=True) if len(group) > 1]
    if not repeated:
        return Noise(prior_variance**0.5, 0.0, rule.prior_runs)
    column = {seed: i for i, seed in enumerate(sorted({seed for group, _ in repeated for seed in group}))}
    residuals = np.zeros((len(repeated), len(column)))
    for row, (group, mean) in enumerate(repeated):
        for seed, value in group.items():
            residuals[row, column[seed]] = value - mean
    counts = np.sort([len(group) for group, _ in repeated])
    squares = float((residuals**2).sum())
    dof = rule.prior_runs + float((counts - 1).sum())
    variance = (rule.prior_runs * prior_variance + squares) / dof
    products = float((residuals.sum(axis=0) ** 2).sum()) - squares
    pairs = 2 * float(((counts - 1) * np.arange(len(counts) - 1, -1, -1)).sum())
    correlation = products / (variance * (pairs + CORRELATION_PRIOR_PAIRS))
    return Noise(variance**0.5, float(np.clip(correlation, 0.0, MAX_CORRELATION)), dof)


@lru_cache(maxsize=2**13)
def _mean(values: tuple[float, ...]) -> float:
    """numpy's, which takes its time: most recipes have the runs that they had when they were last asked for."""
    return float(np.mean(values))


def compare(candidate: Runs, reference: Runs, noise: Noise, min_improvement: float = 0.0) -> Comparison:
    """Posterior of the improvement by generalised least squares; runs that share a seed count as pairs.

    With no correlation this is the difference of the two means, with full correlation the mean paired difference.
    The effect's prior is flat, so the posterior is a Student t around the estimate with the noise's dof.
    """
    assert candidate and reference, "a comparison needs at least one run on each side"
    seeds = [*candidate, *reference]
    n, total = len(candidate), len(seeds)
    side = np.zeros((total, 2))
    side[:n, 0] = side[n:, 1] = 1
    same_seed = np.equal.outer(seeds, seeds) & ~np.eye(total, dtype=bool)
    covariance = noise.deviation**2 * (np.eye(total) + noise.correlation * same_seed)
    weighted = np.linalg.solve(covariance, side)
    posterior = np.linalg.inv(side.T @ weighted)
    means = posterior @ (weighted.T @ np.array([*candidate.values(), *reference.values()]))
    improvement = float(means[1] - means[0])
    contrast = np.array([-1.0, 1.0])
    stderr = float(np.sqrt(contrast @ posterior @ contrast))
    probability = float(special.stdtr(noise.dof, (improvement - min_improvement) / stderr))
    return Comparison(improvement, stderr, noise.dof, probability)


def decide(candidate: Runs, reference: Runs, noise: Noise, rule: DecisionRule) -> Decision:
    """Keep, discard or replicate. Deterministic: the same runs give the same answer, whoever asks.

    A keep needs two runs of the candidate, `reference_runs` of the reference, and a posterior probability above
    1 - (1 - confidence) / EFFECTIVE_LOOKS at that look. Each promising candidate also earns its reference one more
    run, up to `reference_max`: the luck of the reference is in every comparison, so false keeps come in families.
    """
    result = compare(candidate, reference, noise, rule.min_improvement)
    asked = 1 - (1 - rule.confidence) / EFFECTIVE_LOOKS
    n, missing = len(candidate), max(0, rule.reference_runs - len(reference))
    z = (result.improvement - rule.min_improvement) / result.stderr
    chance = f"P(better) {result.probability:.4f} after {words.count(n, 'run')}"
    if n >= 2 and result.probability >= asked:
        if missing:
            return Decision("replicate", f"{chance}: the reference needs more runs", result, 0, missing)
        return Decision("keep", f"{chance}, {asked:.4f} asked", result)
    if n >= rule.max_runs:
        return Decision("discard", f"{chance}, {asked:.4f} asked and no run left", result)
    if z < FUTILITY.get(n, FUTILITY_LATER):
        return Decision("discard", f"{chance}: not promising enough for another run", result)
    grow = missing or int(n == 1 and len(reference) < rule.reference_max)
    return Decision("replicate", f"{chance}: promising, one more run", result, 1, grow)
