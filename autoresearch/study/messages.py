"""What git is told of a trial: commit, merge and tag messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoresearch import words
from autoresearch.decide import Comparison, Runs
from autoresearch.trial import Recipe, Run, Trial
from rails import clean


def commit_message(number: int, changes: Recipe, before: Recipe, proposer: str, hypothesis: str) -> str:
    """The candidate's commit. The hypothesis is a model's text: cleaned, on one line, quoted, last."""
    return (
        f"trial {number}: {words.change(changes, before)}\n\nProposer: {proposer}\nHypothesis:\n> {clean(hypothesis)}"
    )


def merge_message(trial: Trial, before: Recipe, comparison: Comparison, scores: Mapping[int, Runs]) -> str:
    runs = scores[trial.number]
    mean = sum(runs.values()) / len(runs)
    return (
        f"keep trial {trial.number}: {words.change(trial.changes, before)}: "
        f"val_bpb {words.bpb(mean)}, better by {_improvement(comparison)}, {words.count(len(runs), 'run')}"
    )


def tag_message(
    trial: Trial, state: str, decision: str | None, reason: str, comparison: Comparison | None, runs: Sequence[Run]
) -> str:
    scores = [run.val_bpb for run in runs if run.val_bpb is not None]
    joules = sum(run.energy_joules or 0.0 for run in runs)
    sources = "+".join(sorted({run.energy_source for run in runs if run.energy_source})) or "none"
    val_bpb = f"{sum(scores) / len(scores):.6f}" if scores and state == "complete" else "none"
    return "\n".join(
        [
            f"trial {trial.number}: {decision or state}",
            "",
            f"state: {state}",
            f"decision: {decision or 'none'}",
            f"val_bpb: {val_bpb}",
            f"runs: {len(scores)}",
            f"improvement: {_improvement(comparison) if comparison else 'none'}",
            f"energy_joules: {joules:.1f} ({sources})",
            f"reason: {clean(reason)}",
        ]
    )


def _improvement(comparison: Comparison) -> str:
    return words.gain(comparison.improvement, *comparison.interval)
