"""What came of each knob: the values that were tried, and how much better their trials were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from autoresearch.evidence.evidence import Evidence, combined
from autoresearch.trial import Trial, Value


@dataclass(frozen=True)
class TriedValue:
    """effect: how much lower, in bits per byte, its trials were on the mean than the recipes that they were compared
    with, and the 95 % interval of that; None: no trial with it was compared."""

    value: Value
    proposed: int
    trained: int
    kept: int
    effect: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class TriedKnob:
    """A knob with the values that passed the rails, in the order of their first trials. scale: linear or log."""

    knob: str
    scale: str
    values: list[TriedValue]


def tried_knobs(evidence: Evidence) -> list[TriedKnob]:
    """In the order of the menu, then what an imported study turned beyond it."""
    menu = evidence.folder.menu
    tried: dict[str, dict[Value, list[Trial]]] = {}
    for trial in evidence.trials[1:]:
        for knob, value in trial.changes.items() if trial.recipe else ():
            tried.setdefault(knob, {}).setdefault(value, []).append(trial)
    return [
        TriedKnob(
            knob=knob,
            scale=menu.knobs[knob].scale if knob in menu.knobs else "linear",
            values=[_value(evidence, value, trials) for value, trials in tried[knob].items()],
        )
        for knob in [*menu.knobs, *(knob for knob in tried if knob not in menu.knobs)]
        if knob in tried
    ]


def _value(evidence: Evidence, value: Value, trials: Sequence[Trial]) -> TriedValue:
    effect, low, high = _effect(evidence, [trial for trial in trials if trial.improvement is not None])
    return TriedValue(
        value=value,
        proposed=len(trials),
        trained=sum(trial.n_runs > 0 for trial in trials),
        kept=sum(trial.decision == "keep" for trial in trials),
        effect=effect,
        low=low,
        high=high,
    )


def _effect(evidence: Evidence, judged: Sequence[Trial]) -> tuple[float | None, float | None, float | None]:
    """Mean improvement over the references, with its interval; of a single trial the one that it was judged by."""
    if not judged:
        return None, None, None
    effect = fmean(trial.improvement or 0.0 for trial in judged)
    if len(judged) == 1 and judged[0].improvement_low is not None:
        return effect, judged[0].improvement_low, judged[0].improvement_high
    candidate = sum(max(1, trial.n_runs) for trial in judged)
    reference = max(1, *(evidence.n_runs(evidence.trials[trial.reference or 0]) for trial in judged))
    half = combined([evidence.noise.half_width(candidate), evidence.noise.half_width(reference)])
    return effect, effect - half, effect + half
