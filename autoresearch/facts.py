"""Facts as JSON: frozen dataclasses in, text out, in this one place."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from typing import Any


def plain(facts: Any) -> Any:
    """Dataclasses, also within lists and dicts, as dicts; everything else as it is."""
    if is_dataclass(facts) and not isinstance(facts, type):
        return asdict(facts)
    if isinstance(facts, dict):
        return {key: plain(value) for key, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [plain(value) for value in facts]
    return facts


def to_json(facts: Any, indent: int | None = None) -> str:
    """Strict JSON, compact unless `indent` is given; a number that is none (NaN, infinity) is our mistake."""
    separators = None if indent else (",", ":")
    return json.dumps(plain(facts), indent=indent, allow_nan=False, ensure_ascii=False, separators=separators)
