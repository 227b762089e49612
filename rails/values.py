"""The words every rail shares: a knob's value, the error of a bad menu or recipe, and text made safe to show."""

import json
import math
import re
from difflib import get_close_matches
from typing import Literal, TypeAlias

Value: TypeAlias = int | float | str | bool
KnobType: TypeAlias = Literal["int", "float", "str", "bool"]

# Whole escape sequences go, not only their first byte: "\x1b[31mred" reads "red", not "[31mred".
# The alternatives: CSI; OSC, DCS and the other strings up to their terminator; two-byte escapes; a lone ESC; 8-bit CSI.
_ANSI = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?|\x9b[0-?]*[ -/]*[@-~]?"
)
_SPACES = re.compile(r"[\s\u2028\u2029]+")


class RailsError(ValueError):
    """A menu, recipe, budget or constraint that a person has to put right; the message is one line."""


def clean(text: str, limit: int = 500) -> str:
    """Text safe to show in a terminal, a commit message or a prompt: one printable line of at most `limit` characters.

    ANSI sequences, control and format characters (bidi overrides and zero-width ones among them), and lone
    surrogates are dropped; every run of white space, line ends included, becomes one space.
    """
    if not text.isprintable():
        text = _SPACES.sub(" ", _ANSI.sub("", text))
        text = "".join(character for character in text if character.isprintable())
    return " ".join(text.split())[:limit].rstrip()


def shown(value: object) -> str:
    """A value as a reason names it: near JSON's spelling, safe to show, about 60 characters at most."""
    match value:
        case None | bool():
            return json.dumps(value)
        case int() if value.bit_length() > 256:  # Python refuses to print an int of thousands of digits
            return f"an integer of {value.bit_length()} bits"
        case int() | float():
            return repr(value)
        case str():
            return json.dumps(clean(value, 60), ensure_ascii=False)
        case dict():
            return "a table"
        case list():
            return "a list"
    return clean(repr(value), 60)


def presentable(value: object) -> Value:
    """An untrusted JSON scalar as a value that any store can hold: text is cleaned, NaN, infinities and null named."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return shown(value)
    if isinstance(value, bool | int | float):
        return value
    return clean(str(value), 100)


def nearest(name: str, names: list[str]) -> str:
    """`; did you mean "lr"?` with the name nearest to a wrong one, however far it is."""
    matches = get_close_matches(clean(name, 64), names, n=1, cutoff=0.0)
    return f'; did you mean "{matches[0]}"?' if matches else ""
