"""What git is told of a trial: commit, merge and tag messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from autoresearch import words
from autoresearch.decide import Comparison
from autoresearch.metric import VAL_BPB, Metric
from autoresearch.trial import Recipe, Run, Trial, from_iso
from rails import clean

Gain = tuple[float, float, float]  # improvement and the ends of its interval, in bits per byte


def commit_message(number: int, changes: Recipe, before: Recipe, proposer: str, hypothesis: str) -> str:
    """The candidate's commit. The hypothesis is a model's text: cleaned, on one line, quoted, last."""
    return (
        f"trial {number}: {words.change(changes, before)}\n\nProposer: {proposer}\nHypothesis:\n> {clean(hypothesis)}"
    )


def merge_message(trial: Trial, before: Recipe, gain: Gain, runs: Sequence[Run], metric: Metric = VAL_BPB) -> str:
    scores = _scores(runs)
    mean = sum(scores) / len(scores)
    change, better = words.change(trial.changes, before), words.gain(*gain, metric)
    return (
        f"keep trial {trial.number}: {change}: {metric.name} {words.bpb(mean, metric)}, better by {better}, "
        f"{words.count(len(scores), 'run')}"
    )


def carried(helped: Trial, gain: Gain, onto: Trial, metric: Metric = VAL_BPB) -> tuple[int, str] | None:
    """A trial's number, and the proposal that makes its change again on another recipe, as the rails read one: two
    changes that help apart need not help together. None where the other has changed the same knobs."""
    changes = {
        knob: value for knob, value in helped.changes.items() if knob not in onto.changes and onto.recipe[knob] != value
    }
    better = f"better by {words.gain(*gain, metric)} on trial {helped.parent}'s recipe"
    reason = f"Trial {helped.number}'s change, {better}, made again here."
    if not changes:
        return None
    if len(changes) > 1:
        return helped.number, json.dumps({"changes": changes, "reason": reason})
    ((knob, value),) = changes.items()
    return helped.number, json.dumps({"knob": knob, "new_value": value, "reason": reason})


def tag_message(
    trial: Trial,
    state: str,
    decision: str | None,
    reason: str,
    gain: Gain | None,
    runs: Sequence[Run],
    metric: Metric = VAL_BPB,
) -> str:
    scores = _scores(runs)
    joules = sum(run.energy_joules or 0.0 for run in runs)
    sources = "+".join(sorted({run.energy_source for run in runs if run.energy_source})) or "none"
    score = words.exact(sum(scores) / len(scores), metric) if scores and state == "complete" else "none"
    return "\n".join(
        [
            f"trial {trial.number}: {decision or state}",
            "",
            f"state: {state}",
            f"decision: {decision or 'none'}",
            f"{metric.name}: {score}",
            f"runs: {len(scores)}",
            f"improvement: {words.gain(*gain, metric) if gain else 'none'}",
            f"energy_joules: {joules:.1f} ({sources})",
            f"reason: {clean(reason)}",
        ]
    )


def gain_of(comparison: Comparison) -> Gain:
    low, high = comparison.interval
    return comparison.improvement, low, high


def gain_then(trial: Trial) -> Gain:
    """What a trial that was compared with its parent had for it."""
    assert trial.improvement is not None and trial.improvement_low is not None and trial.improvement_high is not None
    return trial.improvement, trial.improvement_low, trial.improvement_high


def last_moment(trial: Trial, runs: Sequence[Run]) -> datetime:
    """When the trial's last run ended; does not change, so that a close done again makes the same objects."""
    return from_iso(max((run.finished_at for run in runs if run.finished_at), default=trial.started_at))


def _scores(runs: Sequence[Run]) -> list[float]:
    return [run.val_bpb for run in runs if run.val_bpb is not None]
