"""What a row says: the question as it was stored or as it would have been, variants of it, and the answer."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from decimal import Decimal

from autoresearch.metric import VAL_BPB, Metric
from autoresearch.proposers.conversation import printable, rendered, safe
from autoresearch.proposers.prompt import ONE_FORM, render
from autoresearch.trial import History, Recipe
from rails import Menu, clean

_MARK_BESIDE_FORMS = re.compile(r"<(?=[|\uff5c/])")  # instructions hold <name> and <value>
_NOT_IN_A_REASON = re.compile(r"[^A-Za-z0-9 .,;:%()+=<>/_-]+")  # as the schema of an answer has it
FEWEST_OF_A_REASON, MOST_OF_A_REASON = 8, 200
OTHER_REASON = "From what was tried so far, {knobs} should do better so."
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_LOG_SCALE = ", log scale): "


def question(history: History, stored: str | None) -> tuple[str, str, str]:
    """System message, user message, and which they are: stored or rendered.

    A stored prompt that asks for several candidates shows what the optimizer beside the model expected, and an answer
    with one change would not fit it; one of another form is none of ours. Both are rendered instead.
    """
    task, gap, asked = (stored or "").partition("\n\n")
    if gap and ONE_FORM in task and '"candidates"' not in task:
        return _MARK_BESIDE_FORMS.sub("< ", printable(task)), safe(asked), "stored"
    return *rendered(history), "rendered"


def variants(history: History, most: int, rng: random.Random) -> tuple[str, ...]:
    """User messages that say the same with the knobs in another order, every other one with the values of log-scale
    knobs in powers of ten; as many as differ, `most` at most."""
    found = dict.fromkeys([safe(render(history))])
    for n in range(most):
        names = list(history.menu.knobs)
        rng.shuffle(names)
        menu = replace(history.menu, knobs={name: history.menu.knobs[name] for name in names})
        text = render(replace(history, menu=menu))
        found[safe(_in_powers_of_ten(text, menu) if n % 2 == 0 else text)] = None
    return tuple(found)[1:]


def answer(changes: Recipe, reason: str, expected_delta: float | None, metric: Metric = VAL_BPB) -> str:
    """The wire format that the rails take, with a reason as the schema of an answer has it; where none was given, one
    that any model could give."""
    told: dict[str, object] = {"changes": changes}
    if len(changes) == 1:
        ((knob, value),) = changes.items()
        told = {"knob": knob, "new_value": value}
    told["reason"] = _reason(reason) or OTHER_REASON.format(knobs=", ".join(changes))[:MOST_OF_A_REASON]
    if expected_delta is not None:
        told["expected_delta"] = round(expected_delta, metric.places + 2)
    return json.dumps(told, ensure_ascii=False)


def _reason(text: str) -> str:
    plain = _NOT_IN_A_REASON.sub(" ", safe(clean(text).replace("\u00b1", "+/-")))
    reason = " ".join(plain.split())[:MOST_OF_A_REASON].rstrip()
    return reason if len(reason) >= FEWEST_OF_A_REASON else ""


def _in_powers_of_ten(text: str, menu: Menu) -> str:
    starts = tuple(f"- {knob.name} = " for knob in menu.knobs.values() if knob.type == "float" and knob.scale == "log")
    lines = []
    for line in text.split("\n"):
        head, mark, doc = line.partition(_LOG_SCALE)
        if mark and starts and line.startswith(starts):
            name, equals, values = head.partition(" = ")
            line = f"{name}{equals}{_NUMBER.sub(lambda found: format(Decimal(found[0]), 'e'), values)}{mark}{doc}"
        lines.append(line)
    return "\n".join(lines)
