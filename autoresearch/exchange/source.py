"""A trajectory from elsewhere on its way into a study: the text as it came, and the rows that it becomes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from autoresearch.errors import UserError
from autoresearch.metric import VAL_BPB, Metric
from autoresearch.study.store.imports import Row
from autoresearch.trial import Recipe, from_iso, iso
from rails import RailsError, clean, render_recipe

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """A file that was read: its name, its text, and where to say what could not be used."""

    name: str
    text: str
    warn: Warn

    def fault(self, line: int, what: str) -> UserError:
        """`line` counts from 1."""
        return UserError(f"{self.name}, line {line}: {what}")


@dataclass
class Imported:
    """What a study is made of. Trial n is trials[n]; `pieces` are the parts of the text that no trial holds."""

    head: str
    recipe: Recipe
    trials: list[Row]
    proposals: list[Row] = field(default_factory=list)
    runs: list[Row] = field(default_factory=list)
    pieces: list[tuple[int, str]] = field(default_factory=list)  # (position, text)
    incumbent: int = 0
    settings: dict[str, Any] = field(default_factory=dict)  # tables of study.toml that the source knows
    menu_text: str | None = None  # None: infer it
    # False for our own, whose times are exact: trials may have been in flight together
    one_by_one: bool = True
    metric: Metric = VAL_BPB


def verbatim(source: Mapping[str, Any], trials: Iterable[Row]) -> str:
    """The imported text, to the byte: the pieces at their positions, the trials' own text between them."""
    pieces = {0: source["head"], **{position: text for position, text in source["tail"]}}
    texts = [row["source"] for row in trials if row["source"] is not None]
    rest = iter(texts)
    return "\n".join(pieces[i] if i in pieces else next(rest) for i in range(len(pieces) + len(texts)))


# --- what may be believed of an untrusted JSON value; None: it is not of that kind ---


def real(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def score(value: object) -> float | None:
    """Bits per byte: above 0."""
    number = real(value)
    return number if number is not None and number > 0 else None


def score_of(metric: Metric) -> Callable[[object], float | None]:
    """Reads a score as it is kept; of other metrics nobody knows where they end."""
    return score if metric.is_bits_per_byte else real


def whole(value: object) -> int | None:
    """Whole and small enough for every store."""
    number = real(value)
    return int(number) if number is not None and number.is_integer() and abs(number) < 2**53 else None


def times(value: object, factor: float) -> int | None:
    """A human unit in base units."""
    number = real(value)
    return round(number * factor) if number is not None and 0 <= number < 2**62 / factor else None


def text(value: object, limit: int = 2000) -> str | None:
    return clean(value, limit) if isinstance(value, str) else None


def moment(value: object) -> datetime | None:
    """ISO-8601, or the same with a space; without a zone it is UTC."""
    if not isinstance(value, str):
        return None
    try:
        parsed = from_iso(value)
        return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def stamp(value: object) -> str | None:
    parsed = moment(value)
    return iso(parsed) if parsed else None


def table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def recipe_of(value: object) -> Recipe:
    """The entries of a configuration that a recipe.toml can hold; the rest lives on in the source alone."""
    recipe: Recipe = {}
    for name, entry in table(value).items():
        try:
            render_recipe({name: entry})
        except RailsError:
            continue
        recipe[name] = entry
    return recipe


def curve_of(value: object) -> str | None:
    """[[step, loss], ...] as JSON."""
    if not isinstance(value, list):
        return None
    points = [[real(part) for part in point] for point in value if isinstance(point, list) and len(point) == 2]
    return json.dumps([[_short(x), y] for x, y in points if x is not None and y is not None])


def _short(step: float) -> int | float:
    return int(step) if step.is_integer() else step
