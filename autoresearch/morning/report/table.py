"""A table that the page and Markdown print alike: headings and cells as they are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["trial", "number", "word", "text"]  # trial: its number, a link on the page; text may be long


@dataclass(frozen=True)
class Column:
    name: str
    kind: Kind


@dataclass(frozen=True)
class Table:
    """Cells may be hostile text; each row has one for each column."""

    columns: list[Column]
    rows: list[list[str]]


def table(columns: dict[str, Kind] | Sequence[tuple[str, Kind]], rows: Iterable[Sequence[str]]) -> Table:
    """Headings with their kinds, and rows of as many cells; two columns may have one heading."""
    named = columns.items() if isinstance(columns, dict) else columns
    found = Table([Column(name, kind) for name, kind in named], [[*row] for row in rows])
    assert all(len(row) == len(found.columns) for row in found.rows)
    return found
