"""Facts as JSON: frozen dataclasses in, text out, in this one place."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any

# Metadata of a field that most never need: where it is None, it is not there at all.
ABSENT_IF_NONE = {"absent": "if None"}


def to_json(facts: Any, indent: int | None = None) -> str:
    """Strict JSON, compact unless `indent` is given; a number that is none (NaN, infinity) is our mistake."""
    separators = None if indent else (",", ":")
    return json.dumps(facts, default=_fields, indent=indent, allow_nan=False, ensure_ascii=False, separators=separators)


def to_bytes(facts: Any) -> bytes:
    """The same as UTF-8; half of a surrogate pair, which a log may hold, becomes a question mark."""
    return to_json(facts).encode("utf-8", "replace")


def _fields(facts: Any) -> dict[str, Any]:
    """One level only, so that nothing is copied: a report holds a million numbers."""
    assert is_dataclass(facts), f"{type(facts).__name__} is no fact"
    return {
        field.name: value
        for field in fields(facts)
        if (value := getattr(facts, field.name)) is not None or "absent" not in field.metadata
    }
