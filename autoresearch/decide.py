"""Decides keep, discard or more runs, from the runs of a candidate and of its reference; arithmetic only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import special

from autoresearch import words
from autoresearch.config import DecisionRule

Runs = Mapping[int, float]  # seed -> val_bpb
Action = Literal["keep", "discard", "replicate"]

# Looks at the same growing data are correlated: many of them, with the early stop below, spend less than the
# false-keep allowance of so many independent ones (measured by benchmarks/promises.py).
EFFECTIVE_LOOKS = 7
# A candidate is dropped after run n when its improvement is below this many standard errors.
FUTILITY = {1: 0.25, 2: 0.75, 3: 1.25}
FUTILITY_LATER = 1.5
# However near to 0 a study's scores are, no deviation is 0: arithmetic would end there.
LEAST_DEVIATION = 1e-12
EXPLODED = 10.0  # times the usual score: beyond it a recipe does not say how large scores are
# Recipes differ in how far their runs scatter: a recipe's own deviation is told from its runs and from the pooled one,
# which counts as so many degrees of freedom.
POOLED_DOF = 6.0
# A seed's effect is estimated from few seeds; this many pseudo-pairs pull the correlation towards zero.
CORRELATION_PRIOR_PAIRS = 8.0
MAX_CORRELATION = 0.9
INTERVAL = 0.95
# Run-to-run deviations: a gain of so many is hardly ever kept, so it turns no decision.
TOLERATED_OFFSET = 0.25
FEWEST_CONFIRMING = 3  # seeds that incumbent and baseline share, before they contradict a keep


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
    level = _level(means) if samples else 1.0
    prior_variance = max(abs(rule.prior_deviation * level), LEAST_DEVIATION) ** 2
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


def _level(means: list[float]) -> float:
    """The mean, in which a recipe that exploded and yet told a number counts as ten times the median's size."""
    most = EXPLODED * float(np.median(np.abs(means)))
    return float(np.mean(np.clip(means, -most, most)))


@lru_cache(maxsize=2**13)
def _mean(values: tuple[float, ...]) -> float:
    """numpy's, which takes its time: most recipes have the runs that they had when they were last asked for."""
    return float(np.mean(values))


def own_noise(runs: Runs, noise: Noise) -> Noise:
    """Of one recipe: its own scatter, drawn towards the pooled deviation as far as its runs are few."""
    prior, extra = min(POOLED_DOF, noise.dof), len(runs) - 1
    if extra < 1:
        return replace(noise, dof=prior)
    mean = _mean((*runs.values(),))
    squares = sum((value - mean) ** 2 for value in runs.values())
    variance = (prior * noise.deviation**2 + squares) / (prior + extra)
    return Noise(variance**0.5, noise.correlation, prior + extra)


def compare(candidate: Runs, reference: Runs, noise: Noise, min_improvement: float = 0.0) -> Comparison:
    """Posterior of the improvement by generalised least squares; runs that share a seed count as pairs.

    With no correlation this is the difference of the two means, with full correlation the mean paired difference.
    Each side has a deviation of its own. The effect's prior is flat, so the posterior is a Student t around the
    estimate, with Welch's and Satterthwaite's degrees of freedom.
    """
    assert candidate and reference, "a comparison needs at least one run on each side"
    seeds = [*candidate, *reference]
    n, total = len(candidate), len(seeds)
    of_candidate, of_reference = own_noise(candidate, noise), own_noise(reference, noise)
    deviations = np.repeat([of_candidate.deviation, of_reference.deviation], [n, total - n])
    side = np.zeros((total, 2))
    side[:n, 0] = side[n:, 1] = 1
    same_seed = np.equal.outer(seeds, seeds) & ~np.eye(total, dtype=bool)
    covariance = np.outer(deviations, deviations) * (np.eye(total) + noise.correlation * same_seed)
    weighted = np.linalg.solve(covariance, side)
    posterior = np.linalg.inv(side.T @ weighted)
    means = posterior @ (weighted.T @ np.array([*candidate.values(), *reference.values()]))
    improvement = float(means[1] - means[0])
    contrast = np.array([-1.0, 1.0])
    stderr = float(np.sqrt(contrast @ posterior @ contrast))
    shares = [of_candidate.deviation**2 / n, of_reference.deviation**2 / (total - n)]
    dof = sum(shares) ** 2 / (shares[0] ** 2 / of_candidate.dof + shares[1] ** 2 / of_reference.dof)
    dof = min(dof, noise.dof)  # both sides lean on the same pooled deviation
    probability = float(special.stdtr(dof, (improvement - min_improvement) / stderr))
    return Comparison(improvement, stderr, dof, probability)


def contradiction(incumbent: Runs, baseline: Runs) -> float | None:
    """The gain (bits per byte, not above 0) of fresh runs that contradict the keeps which the incumbent is made of: on
    the seeds that both have, it is no better than the baseline. None: they do not, or are fewer than three."""
    shared = incumbent.keys() & baseline.keys()
    if len(shared) < FEWEST_CONFIRMING:
        return None
    gain = sum(baseline[seed] - incumbent[seed] for seed in sorted(shared)) / len(shared)
    return None if gain > 0 else gain


def decide(candidate: Runs, reference: Runs, noise: Noise, rule: DecisionRule, waiting: int = 1) -> Decision:
    """Keep, discard or one more run. Deterministic: the same runs give the same answer, whoever asks.

    reference: of the recipe that the candidate changed. waiting: trials that are judged against it just now. A keep
    needs two runs of the candidate, `reference_runs` of the reference, and a posterior probability above
    1 - (1 - confidence) / EFFECTIVE_LOOKS at that look. A promising candidate earns the run that narrows its
    comparison most: its own next one, or those of the reference, which serve all that wait: at most as many at once.
    """
    result = compare(candidate, reference, noise, rule.min_improvement)
    asked = 1 - (1 - rule.confidence) / EFFECTIVE_LOOKS
    n, m = len(candidate), len(reference)
    z = (result.improvement - rule.min_improvement) / result.stderr
    chance = f"P(better) {result.probability:.4f} after {words.count(n, 'run')}"
    if n >= 2 and result.probability >= asked:
        if m < rule.reference_runs:
            reason = f"{chance}: the reference needs more runs"
            return Decision("replicate", reason, result, 0, rule.reference_runs - m)
        return Decision("keep", f"{chance}, {asked:.4f} asked", result)
    if n >= rule.max_runs:
        return Decision("discard", f"{chance}, {asked:.4f} asked and no run left", result)
    if z < FUTILITY.get(n, FUTILITY_LATER):
        return Decision("discard", f"{chance}: not promising enough for another run", result)
    of_candidate, of_reference = own_noise(candidate, noise).deviation, own_noise(reference, noise).deviation
    by_candidate = of_candidate**2 / (n * (n + 1))
    more = 0
    while n >= 2 and more < waiting and m + more < rule.reference_max:
        if waiting * of_reference**2 / ((m + more) * (m + more + 1)) <= by_candidate:
            break
        more += 1
    if more:
        asked_for = words.count(more, "more run")
        return Decision("replicate", f"{chance}: promising, {asked_for} of the reference", result, 0, more)
    return Decision("replicate", f"{chance}: promising, one more run", result, 1, 0)


@dataclass(frozen=True)
class Offset:
    """By how much scores of one class of device are above another's, in bits per byte, from n pairs of runs that share
    recipe and seed. half_interval: of the 95 % interval."""

    value: float
    half_interval: float
    n: int

    def matters(self, noise: Noise) -> bool:
        """Whether it is shown, and so large that runs of the two classes are not to be compared."""
        return abs(self.value) > self.half_interval and abs(self.value) > TOLERATED_OFFSET * noise.deviation


def offset(differences: Sequence[float]) -> Offset:
    """Of scores by the same recipe and seed; asserts that there are two or more."""
    n = len(differences)
    assert n > 1, "one pair has no interval"
    spread = float(np.std(differences, ddof=1))
    half = float(special.stdtrit(n - 1, 0.5 + INTERVAL / 2)) * spread / n**0.5
    return Offset(_mean((*differences,)), half, n)
