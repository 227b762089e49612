"""What came from outside, made text and numbers that a database can hold; nothing in here raises."""

from __future__ import annotations

import json
from typing import Any

# Beyond it a whole number is no longer one in JSON, and a sum of them no longer one in SQLite.
MOST = 2**53


def storable(text: str) -> str:
    """Untrusted text kept as it is, but for lone surrogates, which no UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def beginning(text: str, most_bytes: int) -> str:
    """As much of a storable text as fits into so many bytes of UTF-8."""
    return text if len(text) * 4 <= most_bytes else text.encode("utf-8")[:most_bytes].decode("utf-8", "ignore")


def text(value: object) -> str:
    """A storable text of whatever was given: a list of text parts is read as its text, anything else as its JSON."""
    match value:
        case None:
            return ""
        case str():
            return storable(value)
        case bytes() | bytearray():
            return storable(value.decode("utf-8", "replace"))
        case list() | tuple() if parts := [part for each in value if (part := _part(each)) is not None]:
            return storable("".join(parts))
    try:
        return storable(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError):
        return f"a {type(value).__name__}"


def _part(value: Any) -> str | None:
    """The text of one part of an answer; None for a part that is no text: thoughts, pictures, calls of tools."""
    if isinstance(value, dict) and value.get("type", "text") in ("text", "output_text"):
        value = value.get("text")
    return value if isinstance(value, str) else None


def whole_number(value: object) -> int | None:
    """A count; None where it is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < MOST else None


def amount(value: object) -> float | None:
    """So much of something; None where it is no such number."""
    return float(value) if isinstance(value, int | float) and value is not True and 0 <= value < MOST else None


def seconds(value: object) -> float:
    """A time that was taken; 0 where it is none."""
    return amount(value) or 0.0
