"""Facts as JSON: frozen dataclasses in, text out, in this one place; and their scores as a person has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from autoresearch.metric import VAL_BPB, Metric

# Metadata of a field that most never need: where it is None, it is not there at all.
ABSENT_IF_NONE = {"absent": "if None"}
# Of a metric: where it is val_bpb that goes without saying.
ABSENT_IF_USUAL = {"absent": "if val_bpb"}
# Of a metric; the rest is how its numbers are shown.
OF_A_METRIC = ("name", "unit", "gain_unit", "higher_is_better", "has_test")
# Scores whose names do not say so. The last two are the ends of what one recipe scored.
SCORES = ("mean", "best_observed", "best_recipe_mean", "other_runs_mean", "low", "high")
# What of bits per byte alone can be told.
OF_TEXTS = ("test", "n_test_runs", "window_bpb")
# Names with a score in them that travel, and come back.
TRAVEL = ("val_bpb", "val_bpb_stderr", "baseline_val_bpb", "best_val_bpb")
# Of what lies under these the names are not ours: they are knobs, or what somebody wrote.
NOT_OURS = ("recipe", "changes", "baseline_cfg", "candidate_cfg", "proposal", "best_proposal", "settings")


def to_json(facts: Any, indent: int | None = None) -> str:
    """Strict JSON, compact unless `indent` is given; a number that is none (NaN, infinity) is our mistake."""
    separators = None if indent else (",", ":")
    return json.dumps(facts, default=_fields, indent=indent, allow_nan=False, ensure_ascii=False, separators=separators)


def to_bytes(facts: Any) -> bytes:
    """The same as UTF-8; half of a surrogate pair, which a log may hold, becomes a question mark."""
    return to_json(facts).encode("utf-8", "replace")


def told(facts: Any, metric: Metric) -> Any:
    """The facts of a study as a person has them: where a name says val_bpb it is the metric's, with the person's sign,
    and there is nothing on texts that no decision read. Those of val_bpb are what they are."""
    if metric.is_bits_per_byte:
        return facts
    if is_dataclass(facts) and not isinstance(facts, type):
        facts = _fields(facts)
    if isinstance(facts, list):
        return [told(each, metric) for each in facts]
    if not isinstance(facts, Mapping):
        return facts
    found = {
        name.replace(VAL_BPB.name, metric.name): value
        if name in NOT_OURS
        else _turned(name, told(value, metric), metric)
        for name, value in facts.items()
        if not name.startswith(OF_TEXTS)
    }
    if found.get("low") is not None and found.get("high") is not None:
        found["low"], found["high"] = sorted((found["low"], found["high"]))
    return found


def kept(facts: Any, metric: Metric) -> Any:
    """What `told` told, as it is kept: lists and dicts of plain JSON."""
    if isinstance(facts, list):
        return [kept(each, metric) for each in facts]
    if not isinstance(facts, dict) or metric.is_bits_per_byte:
        return facts
    ours: dict[str, str] = {form.replace(VAL_BPB.name, metric.name): form for form in TRAVEL}
    found: dict[str, Any] = {ours.get(name) or name: value for name, value in facts.items()}
    return {n: value if n in NOT_OURS else _turned(n, kept(value, metric), metric) for n, value in found.items()}


def _turned(name: str, value: Any, metric: Metric) -> Any:
    is_score = name in SCORES or name.endswith(VAL_BPB.name)
    return metric.turned(value) if is_score and isinstance(value, int | float) else value


def _fields(facts: Any) -> dict[str, Any]:
    """One level only, so that nothing is copied: a report holds a million numbers."""
    assert is_dataclass(facts), f"{type(facts).__name__} is no fact"
    if isinstance(facts, Metric):
        return {name: getattr(facts, name) for name in OF_A_METRIC}
    return {
        field.name: getattr(facts, field.name)
        for field in fields(facts)
        if "absent" not in field.metadata or getattr(facts, field.name) not in (None, VAL_BPB)
    }
