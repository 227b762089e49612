"""The terminal itself: how wide it is, and what becomes of a sign that its encoding lacks."""

from __future__ import annotations

import codecs
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 140
PLAIN = {"±": "+-", "→": "->", "−": "-", "×": "x", "…": "...", "━": "-"}  # noqa: RUF001  these very signs


def make_console() -> Console:
    """A console as wide as the terminal; wide enough for every column where the output goes to a file or a pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=PIPE_WIDTH, highlight=False)


def say(console: Console, text: str) -> None:
    """A line as it stands: no markup, no wrapping within words that a person may want to copy."""
    console.print(Text(text), soft_wrap=True)


def accept_any_encoding() -> None:
    """From now on signs that stdout or stderr cannot encode are written in plain letters, instead of an error."""
    codecs.register_error("plain", _in_plain_letters)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain")


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


def grid(rows: dict[str, str]) -> Table:
    """Names and values side by side; the values are shown as text."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def listing(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without lines; the columns in `right` hold numbers."""
    table = Table(pad_edge=False, box=None, header_style="dim")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name in right)
    return table
