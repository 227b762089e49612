"""The schema rail: hostile text in, one proposal of the exact shape out, or a plain word on what is wrong with it."""

import json
import math
import re
from dataclasses import dataclass
from typing import Any, cast

from rails.values import clean, nearest, shown

MAX_BYTES = 16 * 1024
MAX_REASON = 500
KEYS = ("knob", "new_value", "changes", "reason", "expected_delta")
EXAMPLE = '{"knob": "lr", "new_value": 0.001, "reason": "..."}'
EXAMPLE_SEVERAL = '{"changes": {"lr": 0.001, "d_ff": 512}, "reason": "..."}'

_STRUCTURE = re.compile(r'\\.|["\[\]{}]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What was read: `fault` is None for the exact shape; else the other fields hold as much as could be read."""

    fault: str | None
    changes: dict[str, object]
    hypothesis: str = ""
    expected_delta: float | None = None


class _RepeatedKey(ValueError):
    pass


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table: dict[str, object] = {}
    for key, value in pairs:
        if key in table:
            raise _RepeatedKey(key)
        table[key] = value
    return table


def _integer(digits: str) -> int | float:
    # Python refuses to read an int of thousands of digits. As a float it becomes a number the range rail can refuse.
    return int(digits) if len(digits) <= 40 else float(digits)


# NaN and Infinity are read here so that the range rail can say which knob they were meant for.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer, parse_constant=float)


def read_proposal(raw: object, max_changes: int) -> Proposal:
    """Read the raw text of one proposal. Never raises; what is not exactly of the wire format has a fault."""
    example = EXAMPLE if max_changes == 1 else f"{EXAMPLE} or {EXAMPLE_SEVERAL}"
    parsed, fault = _read_object(raw)
    if fault is not None:
        return Proposal(f"{fault}; answer with one JSON object and nothing around it: {example}", {})
    several, knob, reason = parsed.get("changes"), parsed.get("knob"), parsed.get("reason")
    changes: dict[str, object] = {}
    if isinstance(several, dict):
        changes = several
    elif isinstance(knob, str) and "new_value" in parsed:
        changes = {knob: parsed["new_value"]}
    return Proposal(
        _fault(parsed, max_changes, example),
        {name: value for name, value in changes.items() if not isinstance(value, dict | list)},
        clean(reason) if isinstance(reason, str) else "",
        _finite(parsed.get("expected_delta")),
    )


def _read_object(raw: object) -> tuple[dict[str, Any], str | None]:
    """The one JSON object of the text, or ({}, what is wrong)."""
    if not isinstance(raw, str | bytes):
        return {}, "the proposal is not text"
    # Lone surrogates cannot be encoded strictly; here they only have to be counted.
    size = len(raw) if isinstance(raw, bytes) or len(raw) > MAX_BYTES else len(raw.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        return {}, "the proposal is longer than 16 KiB"
    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
        if _depth(text) > 2:
            return {}, "the proposal is nested deeper than 2 levels"
        parsed = _DECODER.decode(text)
    except UnicodeDecodeError:
        return {}, "the proposal is not UTF-8"
    except json.JSONDecodeError as error:
        return {}, f"not exactly one JSON document ({clean(error.msg).removesuffix(' at')} at character {error.pos})"
    except _RepeatedKey as error:
        return {}, f"the key {shown(error.args[0])} is there twice"
    if not isinstance(parsed, dict):
        return {}, "the proposal is no JSON object"
    return parsed, None


def _depth(text: str) -> int:
    """How deep brackets nest outside strings. json recurses per level, so this is known before it starts."""
    depth = deepest = 0
    in_string = False
    for match in _STRUCTURE.finditer(text):
        mark = match[0]
        if mark == '"':
            in_string = not in_string
        elif in_string:
            continue
        elif mark in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in "]}":
            depth -= 1
    return deepest


def _finite(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(cast(float, value)) if is_number else None


def _fault(parsed: dict[str, Any], max_changes: int, example: str) -> str | None:
    for key in parsed:
        if key not in KEYS:
            return f"unknown key {shown(key)}{nearest(key, list(KEYS))}; send {example}"
    if not isinstance(parsed.get("reason"), str):
        return f'"reason" must be a string of at most {MAX_REASON} characters; send {example}'
    if len(parsed["reason"]) > MAX_REASON:
        return f'"reason" has {len(parsed["reason"])} characters; at most {MAX_REASON} are allowed'
    if "expected_delta" in parsed and _finite(parsed["expected_delta"]) is None:
        return '"expected_delta" must be a finite number, or be left out'
    if "changes" in parsed:
        if max_changes == 1:
            return f'"changes" is not allowed: this menu allows one change per trial; send {EXAMPLE}'
        if "knob" in parsed or "new_value" in parsed:
            return f'send either "knob" with "new_value", or "changes", not both: {example}'
        several = parsed["changes"]
        if not isinstance(several, dict) or not 1 <= len(several) <= max_changes:
            return f'"changes" must be an object of 1 to {max_changes} knobs and their values'
        values = list(several.values())
    else:
        if not isinstance(parsed.get("knob"), str):
            return f'"knob" must be a string that names one knob; send {example}'
        if "new_value" not in parsed:
            return f'"new_value" is missing; send {example}'
        values = [parsed["new_value"]]
    if any(isinstance(value, dict | list) for value in values):
        return "a new value must be a number, a string, true or false, not a list or an object"
    return None
