"""What came of each knob: the values that were tried, and how much better their trials were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch.decide import Noise
from autoresearch.evidence.evidence import Evidence
from autoresearch.trial import Trial, Value


@dataclass(frozen=True)
class TriedValue:
    """effect: how much lower, in bits per byte, its trials were on the mean, weighted by the runs behind them, than the
    recipes that they were compared with, and the 95 % interval of that; None: no trial with it was compared."""

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


@dataclass(frozen=True)
class Effect:
    """How much lower a trial's val_bpb was than its reference's, and the runs of both that say so."""

    improvement: float
    reference: int | None
    runs: int
    reference_runs: int


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
    if len(judged) == 1 and judged[0].improvement_low is not None:
        return judged[0].improvement, judged[0].improvement_low, judged[0].improvement_high
    effects = [Effect(trial.improvement or 0.0, trial.reference, *evidence.runs_behind(trial)) for trial in judged]
    mean, half = mean_effect(effects, evidence.noise)
    return mean, mean - half, mean + half


def mean_effect(effects: Sequence[Effect], noise: Noise) -> tuple[float, float]:
    """The mean of several trials' effects, each by the inverse of its variance, and half of its 95 % interval.

    One of n runs against m weighs 1 / (1 / n + 1 / m). Trials with one reference share its luck, which no number of
    them averages out. The interval holds the truth in 94 to 96 % of cases where the decision chose the runs.
    """
    weights = [1 / (1 / each.runs + 1 / each.reference_runs) for each in effects]
    mean = sum(weight * each.improvement for weight, each in zip(weights, effects, strict=True)) / sum(weights)
    own, shared = 0.0, dict[int | None, float]()
    for weight, each in zip(weights, effects, strict=True):
        own += weight**2 / each.runs
        shared[each.reference] = shared.get(each.reference, 0.0) + weight / each.reference_runs**0.5
    variance = (own + sum(share**2 for share in shared.values())) / sum(weights) ** 2
    return mean, noise.half_width(1) * variance**0.5
