"""Tables of a race, a column each who took part: on the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from autoresearch import words
from autoresearch.evidence.shares import Share
from autoresearch.terminal.console import listing
from rails import clean

Column = TypeVar("Column")


def show(
    console: Console, names: Sequence[str], columns: Sequence[Column], rows: Mapping[str, Callable[[Column], str]]
) -> None:
    table = listing("figure")
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for name, told in rows.items():
        table.add_row(Text(name), *(Text(told(column)) for column in columns))
    console.print(table)


def markdown(names: Sequence[str], columns: Sequence[Column], rows: Mapping[str, Callable[[Column], str]]) -> list[str]:
    """Lines."""
    return plain_table(
        ["figure", *names], [[name, *(told(column) for column in columns)] for name, told in rows.items()]
    )


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(head), "|" + "---|" * len(head), *map(_row, rows)]


def plain(text: str) -> str:
    """A choice of an imported menu, or what an endpoint says of an error, may hold what Markdown or HTML would read."""
    for sign in "\\|<>`*":
        text = text.replace(sign, f"\\{sign}")
    return clean(text.replace("](", "]\\("), 1000)


def share(of: Share) -> str:
    return words.share(of.hits, of.n, of.low, of.high)


def counts(of: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in of.items()) or words.NONE


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(plain, cells)) + " |"
