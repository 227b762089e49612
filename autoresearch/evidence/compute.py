"""What a run of a trial took in tokens and FLOPs, and whether it spent more than the recipe that the trial changed."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any

from autoresearch.evidence.evidence import Evidence
from autoresearch.trial import Trial
from autoresearch.words import SAME_COMPUTE


@dataclass(frozen=True)
class Compute:
    """Of one run, the mean over the trial's complete ones. None: none is complete, or its source does not tell."""

    tokens: float | None
    flops: float | None

    def over(self, other: Compute) -> float | None:
        """Its FLOPs over those of another; None where one of them is not known."""
        return self.flops / other.flops if self.flops is not None and other.flops else None


def compute(evidence: Evidence, trial: Trial) -> Compute:
    runs = [run for run in evidence.runs[trial.number] if run.state == "complete"]
    tokens = [run.tokens for run in runs if run.tokens is not None]
    flops = [run.flops for run in runs if run.flops is not None]
    return Compute(fmean(tokens) if tokens else None, fmean(flops) if flops else None)


def over_baseline(evidence: Evidence, trial: Trial) -> float | None:
    """FLOPs of a run of the trial over those of a run of the baseline."""
    return compute(evidence, trial).over(compute(evidence, evidence.baseline))


def over_parent(evidence: Evidence, trial: Trial) -> float | None:
    """FLOPs of a run of the trial over those of a run of its parent; None for the baseline, which has none."""
    if trial.parent is None:
        return None
    return compute(evidence, trial).over(compute(evidence, evidence.trials[trial.parent]))


def bought(evidence: Evidence) -> dict[int, float]:
    """Kept trial -> how many times its parent's FLOPs it took, of those that took more."""
    found = {trial.number: over_parent(evidence, trial) for trial in evidence.trials if trial.decision == "keep"}
    return {number: ratio for number, ratio in found.items() if ratio is not None and ratio >= 1 + SAME_COMPUTE}


def trial_facts(evidence: Evidence, trial: Trial) -> dict[str, Any]:
    """The trial's own columns, and what a run of it took."""
    took = compute(evidence, trial)
    return vars(trial) | {"tokens": took.tokens, "flops": took.flops, "flops_over_parent": over_parent(evidence, trial)}
