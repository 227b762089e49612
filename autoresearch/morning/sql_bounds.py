"""What a question in SQL may take of the live page's process: time, rows, and memory."""

from __future__ import annotations

import sqlite3
from typing import Any

from datasette import hookimpl

MIB = 2**20
# SQLite makes no longer string or blob than this, so that no zeroblob(1e9) is ever made; a long night's prompt is less.
LONGEST_VALUE = MIB
# One row is in memory at once: this many of the longest values. The widest question of a person has some 80.
MOST_COLUMNS = 128
LARGEST_ANSWER = 8 * MIB
BOUNDS = {"sql_time_limit_ms": 1000, "max_returned_rows": 1000, "max_csv_mb": 100}


class Bounds:
    """A plugin of Datasette."""

    @staticmethod
    @hookimpl  # type: ignore[untyped-decorator]  # pluggy's, through Datasette
    def prepare_connection(conn: sqlite3.Connection) -> None:
        conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
        conn.setlimit(sqlite3.SQLITE_LIMIT_COLUMN, MOST_COLUMNS)
        conn.row_factory = Rows().row


class Rows:
    """Makes the rows of one connection, and counts what the values of an answer take."""

    def __init__(self) -> None:
        self._cursor: sqlite3.Cursor | None = None
        self._bytes = 0

    def row(self, cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> sqlite3.Row:
        if cursor is not self._cursor:
            self._cursor, self._bytes = cursor, 0
        self._bytes += sum(len(value) for value in values if isinstance(value, (str, bytes)))
        if self._bytes > LARGEST_ANSWER:
            self._cursor = None
            raise sqlite3.OperationalError(f"the answer is larger than {LARGEST_ANSWER // MIB} MiB: ask for less of it")
        return sqlite3.Row(cursor, values)
