"""What a language model is shown: the menu, the recipe, the whole lineage so far, and the form of an answer."""

from __future__ import annotations

from typing import Any

from autoresearch.trial import History, Trial, Value
from rails import Knob, clean

REASON_PATTERN = "^[A-Za-z0-9 .,;:%()+=<>/_-]{8,200}$"
MAX_LINES = 400

SYSTEM = """\
You improve the recipe of a small GPT pretraining run. Lower validation bits per byte (val_bpb) is better.
You propose one change at a time. Deterministic checks judge the form of your answer, then the change is trained with
several seeds and kept only if the gain is beyond the run-to-run noise. Learn from the trials below: do not repeat a
recipe that was tried, follow up what helped, and say in one sentence why your change should help.
Answer with one JSON object and nothing around it:
{"knob": "<name>", "new_value": <value>, "reason": "<one sentence>"}"""


def render(history: History) -> str:
    """The user message: everything known, oldest first, in plain text."""
    menu = history.menu
    knobs = [
        f"- {knob.name} = {_shown(history.recipe[knob.name])} ({knob.allowed}"
        f"{', log scale' if knob.scale == 'log' else ''}): {knob.doc}"
        for knob in menu.knobs.values()
    ]
    rules = [f"- {constraint.expr}  ({constraint.doc})" for constraint in menu.constraints]
    budget = ", ".join(f"{amount:g} {unit}" for unit, amount in (history.limits.budget or {}).items())
    trials = [_line(trial) for trial in history.trials]
    left_out = len(trials) - MAX_LINES
    if left_out > 0:
        trials = [trials[0], f"({left_out} earlier trials left out)", *trials[-MAX_LINES:]]
    untouched = sorted(set(menu.knobs) - {name for trial in history.trials for name in trial.changes})
    noise = f"Run-to-run deviation of val_bpb: {history.deviation:.4f}.\n" if history.deviation else ""
    return (
        f"Knobs and where they stand:\n{_block(knobs)}\nRules:\n{_block(rules)}\n"
        f"Budget of a run: {budget or 'not set'}. {noise}"
        f"Trials so far (improvement is positive when better; the interval is 95 %):\n{_block(trials)}\n"
        f"Knobs that no trial has touched: {', '.join(untouched) or 'none'}.\n"
        f"Propose trial {history.number}."
    )


def answer_schema(history: History) -> dict[str, Any]:
    """JSON Schema of one change: a branch per knob, with its own values. Bounds on floats are the rails' to check."""
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "knob": {"type": "string", "enum": [knob.name]},
                    "new_value": _value_schema(knob),
                    "reason": {"type": "string", "pattern": REASON_PATTERN},
                },
                "required": ["knob", "new_value", "reason"],
                "additionalProperties": False,
            }
            for knob in history.menu.knobs.values()
        ]
    }


def _value_schema(knob: Knob) -> dict[str, Any]:
    if knob.choices:
        return {"enum": list(knob.choices)}
    kind = {"int": "integer", "float": "number"}[knob.type]
    return {"type": kind, "minimum": knob.low, "maximum": knob.high}


def _line(trial: Trial) -> str:
    changed = ", ".join(f"{name} -> {_shown(value)}" for name, value in trial.changes.items()) or "baseline"
    if trial.state == "complete":
        outcome = f"val_bpb {trial.val_bpb:.4f} over {trial.n_runs} runs"
        if trial.improvement is not None:
            outcome += (
                f", improvement {trial.improvement:+.4f} [{trial.improvement_low:+.4f}, {trial.improvement_high:+.4f}]"
            )
        outcome += f": {trial.decision}" if trial.decision else ""
    elif trial.state == "blocked":
        outcome = f"blocked by {trial.rail}: {clean(trial.reason, 200)}"
    else:
        outcome = f"{trial.state} {clean(trial.reason, 200)}".strip()
    parent = f" on trial {trial.parent}" if trial.parent is not None else ""
    return f"- trial {trial.number}{parent}: {changed}: {outcome}"


def _shown(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else clean(str(value), 80)


def _block(lines: list[str]) -> str:
    return "\n".join(lines) or "- none"
