"""What a language model is shown: the menu, the recipe, the lineage so far, and the form of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autoresearch import words
from autoresearch.proposers.lineage import TOKENS, lineage
from autoresearch.trial import History
from rails import Knob, Value, clean, recipe_key

REASON_PATTERN = "^[A-Za-z0-9 .,;:%()+=<>/_-]{8,200}$"

SYSTEM = """\
You improve the recipe of a small GPT pretraining run. Lower validation bits per byte (val_bpb) is better.
You propose one change at a time. Deterministic checks judge the form of your answer, then the change is trained with
several seeds and kept only if the gain is beyond the run-to-run noise. Learn from the trials below: do not repeat a
recipe that was tried, follow up what helped, and say in one sentence why your change should help.
Forecast it too: expected_delta is the change of val_bpb that you expect, in bits per byte, negative when better (-0.01:
0.01 lower). Forecasts are shown below beside what was measured.
Answer with one JSON object and nothing around it:
{"knob": "<name>", "new_value": <value>, "reason": "<one sentence>", "expected_delta": <number>}"""


def whole_prompt(history: History) -> str:
    """The instructions and the user message, as they are kept."""
    return f"{SYSTEM}\n\n{render(history)}"


def render(history: History, lineage_tokens: int | None = TOKENS) -> str:
    """The user message, in plain text. lineage_tokens: what may be spent on what was learned; None: nothing of it."""
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
    noise = f" Run-to-run deviation of val_bpb: {words.bpb(history.deviation)}." if history.deviation else ""
    return (
        f"Knobs and where they stand:\n{_block(knobs)}\nRules:\n{_block(rules)}\n"
        f"Budget: {budget}.{noise}\n"
        f"{'' if lineage_tokens is None else lineage(history, lineage_tokens)}\n"
        f"Propose trial {history.number}."
    )


def answer_schema(history: History) -> dict[str, Any]:
    """JSON Schema of one change: a branch per knob, with its own values; of choices those that are new, where any is.
    Bounds on floats are the rails' to check."""
    knobs = history.menu.knobs.values()
    left = {knob.name: (knob, _new_choices(knob, history)) for knob in knobs}
    values = {name: _value_schema(knob, new) for name, (knob, new) in left.items() if new or not knob.choices}
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "knob": {"type": "string", "enum": [name]},
                    "new_value": value,
                    "reason": {"type": "string", "pattern": REASON_PATTERN},
                    "expected_delta": {"type": "number"},
                },
                "required": ["knob", "new_value", "reason", "expected_delta"],
                "additionalProperties": False,
            }
            for name, value in (values or {knob.name: _value_schema(knob, knob.choices) for knob in knobs}).items()
        ]
    }


def _value_schema(knob: Knob, choices: Sequence[Value]) -> dict[str, Any]:
    if knob.choices:
        return {"enum": list(choices)}
    kind = {"int": "integer", "float": "number"}[knob.type]
    return {"type": kind, "minimum": knob.low, "maximum": knob.high}


def _new_choices(knob: Knob, history: History) -> list[Value]:
    """Those that neither stand nor were tried, by themselves, on the recipe that stands."""
    others = [value for value in knob.choices if value != history.recipe.get(knob.name)]
    if not history.tried:
        return others
    return [value for value in others if recipe_key({**history.recipe, knob.name: value}) not in history.tried]


def _block(lines: list[str]) -> str:
    return "\n".join(lines) or "- none"
