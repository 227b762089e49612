"""The values of each knob as one small chart shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autoresearch import words
from autoresearch.evidence import Evidence
from autoresearch.evidence.knobs import TriedKnob, TriedValue, tried_knobs
from autoresearch.metric import Metric
from autoresearch.trial import Value
from rails import clean

Axis = Literal["log", "linear", "names"]


@dataclass(frozen=True)
class ValueFacts:
    """A tried value, or the baseline's, which is where an effect is taken from. number: None for a word."""

    value: str
    number: float | None
    outcome: str  # of its best trial, as a chart of trials marks it
    proposed: int
    trained: int
    kept: int
    effect: float | None
    low: float | None
    high: float | None
    better: str


@dataclass(frozen=True)
class KnobFacts:
    """A knob that was turned. axis: what its values lie on."""

    knob: str
    axis: Axis
    baseline: ValueFacts | None
    values: list[ValueFacts]


def knobs(evidence: Evidence) -> list[KnobFacts]:
    recipe = evidence.baseline.recipe
    return [_knob(knob, recipe.get(knob.knob), evidence.metric) for knob in tried_knobs(evidence)]


def _knob(knob: TriedKnob, start: Value | None, metric: Metric) -> KnobFacts:
    values = [_value(value, metric) for value in knob.values]
    numbers = [value.number for value in values if value.number is not None]
    axis: Axis = "names"
    if len(numbers) == len(values):
        axis = "log" if knob.scale == "log" and min(numbers) > 0 else "linear"
    return KnobFacts(clean(knob.knob, 80), axis, _baseline(start, axis), values)


def _value(tried: TriedValue, metric: Metric) -> ValueFacts:
    return ValueFacts(
        value=words.value(tried.value),
        number=_number(tried.value),
        outcome="keep" if tried.kept else "blocked" if tried.effect is None else "discard",
        proposed=tried.proposed,
        trained=tried.trained,
        kept=tried.kept,
        effect=tried.effect,
        low=tried.low,
        high=tried.high,
        better=words.gain(tried.effect, tried.low, tried.high, metric),
    )


def _baseline(value: Value | None, axis: Axis) -> ValueFacts | None:
    """None where it is not told or has no place on the axis."""
    if value is None:
        return None
    number = _number(value)
    if axis != "names" and (number is None or (axis == "log" and number <= 0)):
        return None
    return ValueFacts(words.value(value), number, "baseline", 0, 0, 0, None, None, None, "the baseline's value")


def _number(value: Value) -> float | None:
    return None if isinstance(value, bool | str) else float(value)
