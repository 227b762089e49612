"""What git and a proposer are told of a trial: commit, merge and tag messages, and outcomes in a phrase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoresearch.decide import Comparison, Runs
from autoresearch.trial import Recipe, Run, Trial, Value
from rails import clean


def changed(changes: Recipe, before: Recipe) -> str:
    """ "lr 0.001 -> 0.002"."""
    return ", ".join(f"{knob} {shown(before.get(knob, '?'))} -> {shown(value)}" for knob, value in changes.items())


def commit_message(number: int, changes: Recipe, before: Recipe, proposer: str, hypothesis: str) -> str:
    """The candidate's commit. The hypothesis is a model's text: cleaned, on one line, quoted, last."""
    return f"trial {number}: {changed(changes, before)}\n\nProposer: {proposer}\nHypothesis:\n> {clean(hypothesis)}"


def merge_message(trial: Trial, before: Recipe, comparison: Comparison, scores: Mapping[int, Runs]) -> str:
    runs = scores[trial.number]
    mean = sum(runs.values()) / len(runs)
    return (
        f"keep trial {trial.number}: {changed(trial.changes, before)}: "
        f"val_bpb {mean:.4f}, better by {interval(comparison)}, {len(runs)} runs"
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
            f"improvement: {interval(comparison) if comparison else 'none'}",
            f"energy_joules: {joules:.1f} ({sources})",
            f"reason: {clean(reason)}",
        ]
    )


def outcome_phrase(number: int, state: str, decision: str | None, val_bpb: float | None) -> str:
    """ "trial 7 (discard, val_bpb 2.8143)"."""
    score = f", val_bpb {val_bpb:.4f}" if val_bpb is not None else ""
    return f"trial {number} ({decision or ('baseline' if number == 0 else state)}{score})"


def interval(comparison: Comparison) -> str:
    """The improvement in bits per byte with its 95 % interval."""
    low, high = comparison.interval
    return f"{comparison.improvement:+.4f} [{low:+.4f}, {high:+.4f}]"


def budget_text(budget: Mapping[str, float]) -> str:
    """ "200,000 tokens a run"."""
    ((unit, amount),) = budget.items()
    return f"{amount:,g} {unit} a run" if unit == "seconds" else f"{amount:,} {unit} a run"


def shown(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else clean(str(value), 80)
