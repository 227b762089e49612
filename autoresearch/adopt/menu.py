"""A menu of a script's constants, as text for a person to edit: each knob's line in the script, and why this range."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from autoresearch.adopt.knobs import MOST_KNOBS, LeftOut, Proposed, propose
from autoresearch.adopt.script import alternatives
from autoresearch.constants import read_constants
from autoresearch.errors import UserError
from autoresearch.trial import Value
from rails import clean
from rails.recipe import render_line

SEED = "seed"  # the knob's name of the constant that each run's seed replaces
LONGEST = 100  # of a line of the script that is shown
_COMMENT = re.compile(r"#\s*(.*)")


def read_knobs(source: str, name: str) -> tuple[list[Proposed], list[LeftOut]]:
    """The knobs that a script may have and the names left out, each in the script's order. Raises UserError where there
    are none."""
    constants, others = read_constants(source, name)
    words = alternatives(source)
    answers = [propose(constant, words.get(constant.name, ())) for constant in constants]
    knobs = [answer for answer in answers if isinstance(answer, Proposed)]
    left_out = [answer for answer in answers if isinstance(answer, LeftOut)]
    # Of what a script works out, only what is written as a constant is.
    left_out += [LeftOut(other.name, other.line, other.why) for other in others if other.name.isupper()]
    left_out += [LeftOut(knob.constant.name, knob.constant.line, "one knob too many") for knob in knobs[MOST_KNOBS:]]
    if not knobs:
        found = f" ({len(left_out)} names are left out: {_some(left_out)})" if left_out else ""
        raise UserError(
            f"{name} has no constant at its top level that could be a knob{found}: write what you want to tune there, "
            "such as LR = 0.001"
        )
    return knobs[:MOST_KNOBS], sorted(left_out, key=lambda other: other.line)


def _some(left_out: Sequence[LeftOut]) -> str:
    named = "; ".join(f"{clean(other.name, 40)}, {other.why}" for other in left_out[:3])
    return f"{named}; ..." if len(left_out) > 3 else named


def menu_text(source: str, name: str, knobs: Sequence[Proposed], left_out: Sequence[LeftOut]) -> str:
    """The text of menu.toml."""
    lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    parts = [_head(name, len(knobs)), *("\n".join(_knob(knob, lines)) for knob in knobs)]
    if words := [other for other in left_out if other.word]:
        parts += ["\n".join(_word(other)) for other in words]
    if rest := [other for other in left_out if not other.word]:
        told = (f"# line {each.line}: {_shown(each.name)}: {each.why}" for each in rest)
        parts.append("\\n".join(["# Left out:", *told]))
    return "\n\n".join(parts) + "\n"


def _head(name: str, n: int) -> str:
    return f"""\
# What a proposal may change in {_shown(name)}, and to what. Proposed from names and values alone: put right what you
# know better. The study takes this file as it stands at its first run; from then on it is settled.
#   - A knob is a constant of the script, its name in lower case. To keep one as it is, delete its table.
#   - low and high are the ends of a range, both included; scale = "log" for what is tuned in factors; or choices.
#   - A default is what the script says: change it there.
#   - What must hold between knobs goes at the end, such as [[constraints]] with expr = "d_model % n_head == 0".
max_changes = {n}  # knobs that one proposal may change"""


def _knob(knob: Proposed, lines: Sequence[str]) -> Iterator[str]:
    constant = knob.constant
    line = lines[constant.line - 1]
    yield f"# line {constant.line}: {_shown(line)}"
    yield f"# {knob.why}"
    yield f"[knobs.{constant.knob}]"
    yield f'type = "{knob.type}"'
    if knob.choices:
        yield f"choices = [{', '.join(map(_value, knob.choices))}]"
    elif knob.low is not None and knob.high is not None:
        yield f"low = {_value(knob.low)}"
        yield f"high = {_value(knob.high)}"
        if knob.log:
            yield 'scale = "log"'
    yield f"default = {_value(knob.default)}"
    if comment := _COMMENT.search(line):
        yield render_line("doc", clean(comment[1], 200))


def _word(other: LeftOut) -> Iterator[str]:
    assert other.word is not None
    yield f"# line {other.line}: {_shown(other.name)}: {other.why}. To tune it, name them and take out the #:"
    yield f"# [knobs.{_shown(other.name).lower()}]"
    yield '# type = "str"'
    yield f'# choices = ["{other.word}", "..."]'
    yield f'# default = "{other.word}"'


def _value(value: Value) -> str:
    return render_line("x", value).removeprefix("x = ")


def _shown(text: str) -> str:
    """Of the script, safe to show and on one line."""
    return clean(text, LONGEST)
