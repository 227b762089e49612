"""What a language model is shown: the menu, the recipe, the whole lineage so far, and the form of an answer."""

from __future__ import annotations

from typing import Any

from autoresearch import words
from autoresearch.trial import History, Recipe, Trial
from rails import Knob, clean

REASON_PATTERN = "^[A-Za-z0-9 .,;:%()+=<>/_-]{8,200}$"
MAX_LINES = 400

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


def render(history: History) -> str:
    """The user message: everything known, oldest first, in plain text."""
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
    recipes = {trial.number: trial.recipe for trial in history.trials}
    shown = history.trials
    if left_out := max(0, len(shown) - 1 - MAX_LINES):
        shown = [shown[0], *shown[-MAX_LINES:]]
    trials = [_line(trial, recipes.get(trial.parent or 0, {})) for trial in shown]
    if left_out:
        trials.insert(1, f"({words.count(left_out, 'earlier trial')} left out)")
    turned = {name for trial in history.trials for name in trial.changes}
    untouched = [name for name in sorted(menu.knobs) if name not in turned]
    noise = f" Run-to-run deviation of val_bpb: {words.bpb(history.deviation)}." if history.deviation else ""
    return (
        f"Knobs and where they stand:\n{_block(knobs)}\nRules:\n{_block(rules)}\n"
        f"Budget: {budget}.{noise}\n"
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
                    "expected_delta": {"type": "number"},
                },
                "required": ["knob", "new_value", "reason", "expected_delta"],
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


def _line(trial: Trial, before: Recipe) -> str:
    changed = clean(words.change(trial.changes, before)) or ("baseline" if trial.parent is None else "no change read")
    if trial.state == "complete":
        outcome = f"val_bpb {words.bpb(trial.val_bpb)} ({words.count(trial.n_runs, 'run')})"
        if trial.improvement is not None:
            gain = words.gain(trial.improvement, trial.improvement_low, trial.improvement_high)
            outcome += f", improvement {gain}"
            if trial.expected_delta is not None:
                # Both as changes of val_bpb, as they were asked for.
                outcome += (
                    f", delta {words.gain(-trial.improvement)} where {words.gain(trial.expected_delta)} was expected"
                )
        if trial.outcome == "carried":
            outcome += ": carried over to a later trial"
        elif trial.decision:
            outcome += f": {trial.decision}"
    elif trial.state == "blocked":
        outcome = f"blocked by {clean(trial.rail or '?', 40)}: {clean(trial.reason, 200)}"
    else:
        outcome = f"{words.state(trial.state)} {clean(trial.reason, 200)}".strip()
    parent = f" on trial {trial.parent}" if trial.parent is not None else ""
    return f"- trial {trial.number}{parent}: {changed}: {outcome}"


def _block(lines: list[str]) -> str:
    return "\n".join(lines) or "- none"
