"""A study's database, read and written row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autoresearch import untrusted
from autoresearch.study.store.opening import open_database
from autoresearch.trial import Clock, utc_now


class Rows:
    """study.db of one study. Opens (and migrates) the file, or makes it; read_only: where nothing may be written, it is
    there for looking. Raises UserError if it is no database."""

    def __init__(self, path: Path, clock: Clock = utc_now) -> None:
        self.path = path
        self.clock = clock
        self.db, self.read_only = open_database(path)

    def close(self) -> None:
        self.db.close()

    def _insert(self, table: str, **values: Any) -> int:
        names, marks = ", ".join(f'"{name}"' for name in values), ", ".join("?" for _ in values)
        cursor = self.db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(values.values()))
        return int(cursor.lastrowid or 0)

    def _update(self, table: str, key: str, wanted: int, **values: Any) -> None:
        names = ", ".join(f'"{name}" = ?' for name in values)
        self.db.execute(f"UPDATE {table} SET {names} WHERE {key} = ?", [*values.values(), wanted])

    def _rows(self, sql: str, values: Iterable[Any] = ()) -> list[dict[str, Any]]:
        return list(self.db.query(sql, list(values)))

    def _first(self, sql: str, values: Iterable[Any] = ()) -> dict[str, Any] | None:
        return next(iter(self._rows(sql, values)), None)

    def _one(self, sql: str, values: Iterable[Any] = ()) -> dict[str, Any]:
        row = self._first(sql, values)
        assert row is not None, "a study's database holds its study"
        return row


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def answered(row: dict[str, Any]) -> dict[str, Any]:
    """A row of proposals with each value of its column's kind: SQLite keeps a text where a number belongs, and what an
    endpoint counted was once written down as it came."""
    texts = {name: untrusted.text(row[name]) for name in ("raw", "prompt", "model") if row[name] is not None}
    counts = {name: untrusted.whole_number(row[name]) for name in ("prompt_tokens", "completion_tokens")}
    return row | texts | counts | {"latency_seconds": untrusted.seconds(row["latency_seconds"])}
