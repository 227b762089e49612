"""What a language model is shown: the menu, the recipe, the lineage so far, and the form of an answer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import combinations
from typing import Any

from autoresearch import words
from autoresearch.proposers.lineage import TOKENS, lineage
from autoresearch.proposers.space import readable
from autoresearch.trial import History
from rails import Knob, Value, clean, gate

# A string without bounds is what servers that constrain an answer most often let run on.
REASON_PATTERN = "^[A-Za-z0-9 .,;:%()+=<>/_-]{8,200}$"
MOST_WHOLE = 64  # values of a whole-number knob that are named one by one
# Of a grid: in each power of ten, and along a linear scale, in steps that a person would take.
MANTISSAS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
STEPS = 20
STEP_MANTISSAS = (1.0, 2.0, 2.5, 5.0, 10.0)
# Forecasts, as shares of the metric's size.
DELTAS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
LITTLE, MOST_DELTA = 0.01, 1.0

INSTRUCTIONS = """\
{aim}
{task}
Deterministic checks judge the form of your answer, then the change is trained with several seeds and kept only if the
gain is beyond the run-to-run noise. Learn from the trials below: do not repeat a recipe that was tried, follow up what
helped, and say in one sentence why your change should help.
Forecast it too: expected_delta is the change of {name} that you expect, in {unit}, negative when better (-{little}:
{little} {better}). Forecasts are shown below beside what was measured.
{form}"""
AIM = "You improve the recipe of a small GPT pretraining run. Lower validation bits per byte (val_bpb) is better."
OTHER_AIM = "You improve the recipe of a program that trains or tunes something. {better} {name} is better."
ONE_TASK = "You propose one change at a time."
SEVERAL_TASK = "You propose a change of one knob, or of up to {most} at once that belong together."
ONE_FORM = '{"knob": "<name>", "new_value": <value>, "reason": "<one sentence>", "expected_delta": <number>}'
SEVERAL_FORM = (
    '{"changes": {"<name>": <value>, "<name>": <value>}, "reason": "<one sentence>", "expected_delta": <number>}'
)


def instructions(history: History, candidates: int = 1) -> str:
    """The system message: the task, and the form of one answer or of an answer of so many candidates."""
    most = min(history.menu.max_changes, len(history.menu.knobs))
    forms = ONE_FORM if most == 1 else f"{ONE_FORM}\nor\n{SEVERAL_FORM}"
    form = f"Answer with one JSON object and nothing around it:\n{forms}"
    if candidates > 1:
        form = (
            f"Answer with {candidates} different candidates, the best first, in one JSON object, nothing around it:\n"
            f'{{"candidates": [<candidate>, ...]}}\nwhere a candidate is\n{forms}'
        )
    metric = history.metric
    other = OTHER_AIM.format(better=metric.better.capitalize(), name=metric.name)
    return INSTRUCTIONS.format(
        aim=AIM if metric.is_bits_per_byte else other,
        task=ONE_TASK if most == 1 else SEVERAL_TASK.format(most=most),
        form=form,
        name=metric.name,
        unit=metric.gain_unit,
        better=metric.better,
        little=f"{LITTLE * metric.size:g}",
    )


def whole_prompt(history: History) -> str:
    """The instructions and the user message, as they are kept."""
    return f"{instructions(history)}\n\n{render(history)}"


def render(history: History, lineage_tokens: int | None = TOKENS, *, outlook: str = "") -> str:
    """The user message, in plain text. lineage_tokens: what may be spent on what was learned; None: nothing of it.
    outlook: lines that follow what was learned, safe to show."""
    menu = history.menu
    knobs = [
        f"- {knob.name} = {words.value(history.recipe.get(knob.name, '?'))} ({knob.allowed}"
        f"{', log scale' if knob.scale == 'log' else ''}): {clean(knob.doc)}"
        for knob in menu.knobs.values()
    ]
    rules = [f"- {clean(constraint.expr)}  ({clean(constraint.doc)})" for constraint in menu.constraints]
    if menu.max_compute_ratio is not None:
        rules.append(f"- a run takes at most {menu.max_compute_ratio:g} times the FLOPs of the baseline's")
    budget = words.budget(history.limits.budget) if history.limits.budget else "not set"
    noise = (
        f" Run-to-run deviation of {history.metric.name}: {words.difference(history.deviation, metric=history.metric)}."
        if history.deviation
        else ""
    )
    learned = "" if lineage_tokens is None else lineage(history, lineage_tokens)
    parts = [
        f"Knobs and where they stand:\n{_block(knobs)}\nRules:\n{_block(rules)}",
        f"Budget: {budget}.{noise}",
        learned,
        *([outlook] if outlook else []),
        f"Propose trial {history.number}.",
    ]
    return "\n".join(parts)


def answer_schema(history: History, *, grid: bool = False, candidates: int = 1) -> dict[str, Any]:
    """JSON Schema of an answer: one change, or several where the menu takes them; {"candidates": [...]} with 1 to
    `candidates` of these where more than one is asked for.

    What can be named one by one is named without what stands and, in one change, without what the rails would block:
    what was tried, what breaks a rule. grid: floats and forecasts too, as values that a person can read, for servers
    that hold a model to no bounds. Where nothing is left everything is, and the rails say why not.
    """
    knobs, most = history.menu.knobs, history.menu.max_changes
    values = {name: _values(knob, history.recipe.get(name), grid) for name, knob in knobs.items()}
    others = {name: value for name, value in values.items() if value.get("enum") != []}
    alone = {name: _passing(name, value, history) for name, value in others.items()}
    forms = [_one(name, value) for name, value in alone.items() if value.get("enum") != []]
    if several := _several(list(others), most):
        forms.append({"changes": {"anyOf": several}})
    if not forms:
        forms = [_one(name, _values(knob, None, grid)) for name, knob in knobs.items()]
    bound = MOST_DELTA * history.metric.size
    delta: dict[str, Any] = {"type": "number", "minimum": -bound, "maximum": bound}
    if grid:
        deltas = [float(f"{share * history.metric.size:g}") for share in DELTAS]
        delta = {"enum": [*(-delta for delta in reversed(deltas)), 0.0, *deltas]}
    ending = {"reason": {"type": "string", "pattern": REASON_PATTERN}, "expected_delta": delta}
    answer: dict[str, Any] = {"anyOf": [_object({**form, **ending}) for form in forms]}
    if candidates > 1:
        answer = _object({"candidates": {"type": "array", "items": answer, "minItems": 1, "maxItems": candidates}})
    return answer if most == 1 else {**answer, "$defs": others}


def _one(name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"knob": {"type": "string", "enum": [name]}, "new_value": value}


def _several(names: list[str], most: int) -> list[dict[str, Any]]:
    """Schemas of `changes`. Servers count no keys, so that how many there may be shows in which are there: two of them,
    since one by itself may have been tried, and any that follow them where the menu takes all at once."""
    if most == 1:
        return []
    known = {name: {"$ref": f"#/$defs/{name}"} for name in names}
    found = []
    for first, second in combinations(range(len(names)), 2):
        further = names[second + 1 :] if most >= len(names) else []
        pair = [names[first], names[second]]
        found.append(_object({name: known[name] for name in [*pair, *further]}, pair))
    return found


def _object(properties: dict[str, Any], required: Iterable[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def _values(knob: Knob, standing: Value | None, grid: bool) -> dict[str, Any]:
    """What the knob takes, by name without what stands, else by its bounds."""
    if knob.choices:
        return {"enum": [value for value in knob.choices if value != standing]}
    assert knob.low is not None and knob.high is not None
    if knob.type == "int" and knob.high - knob.low < MOST_WHOLE:
        return {"enum": [value for value in range(int(knob.low), int(knob.high) + 1) if value != standing]}
    if knob.type == "float" and grid:
        return {"enum": [value for value in _grid(knob, knob.low, knob.high) if value != standing]}
    return {"type": {"int": "integer", "float": "number"}[knob.type], "minimum": knob.low, "maximum": knob.high}


def _grid(knob: Knob, low: float, high: float) -> list[Value]:
    """Readable values of a float knob's scale, both bounds among them."""
    if knob.scale == "log":
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [mantissa * 10.0**power for power in powers for mantissa in MANTISSAS]
    else:
        step = _step(high - low)
        found = [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)] if step else []
    return sorted({low, high, *(readable(knob, value) for value in found if low <= value <= high)})


def _step(range_: float) -> float:
    """The least step that a person would take of which the range has at most STEPS; 0 for no range."""
    if not range_:
        return 0.0
    power = 10.0 ** math.floor(math.log10(range_ / STEPS))
    return next(mantissa * power for mantissa in STEP_MANTISSAS if mantissa * power * STEPS >= range_ * (1 - 1e-9))


def _passing(name: str, values: dict[str, Any], history: History) -> dict[str, Any]:
    """Those of the named values that the rails let through as the only change."""
    if "enum" not in values:
        return values
    return {"enum": [value for value in values["enum"] if _passes(name, value, history)]}


def _passes(name: str, value: Value, history: History) -> bool:
    answer = json.dumps({"knob": name, "new_value": value, "reason": ""})
    return gate(answer, history.recipe, history.menu, history.tried, history.limits).passed


def _block(lines: list[str]) -> str:
    return "\n".join(lines) or "- none"
