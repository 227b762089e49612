"""Whole tables of a study at once, for trajectories that come from elsewhere or leave."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from autoresearch.errors import UserError
from autoresearch.study.store.rows import Rows, answered
from autoresearch.study.store.ticks import number_moments

Row = dict[str, Any]


class Imports(Rows):
    """What import and export need of the trajectory."""

    def import_rows(
        self,
        study: Mapping[str, Any],
        trials: Sequence[Row],
        proposals: Sequence[Row],
        runs: Sequence[Row],
        events: Sequence[Row],
        *,
        one_by_one: bool,
    ) -> None:
        """Fills an empty database in one transaction; `one_by_one`: no trial began before the one before it had ended.

        Raises UserError if the rows contradict each other.
        """
        try:
            with self.db.atomic():
                # A trial may have been compared with one that was proposed after it.
                self.db.execute("PRAGMA defer_foreign_keys = ON")
                self._insert("studies", id=1, **study)
                for table, rows in (("trials", trials), ("proposals", proposals), ("runs", runs), ("events", events)):
                    self._insert_all(table, rows)
                number_moments(self.db, one_by_one=one_by_one)
        except sqlite3.IntegrityError as error:
            raise UserError(f"the trajectory contradicts itself ({error}): mend the file and import it again") from None

    def all_rows(self, table: Literal["trials", "proposals", "runs"]) -> list[Row]:
        """Every column of every row, in the order of the trials; of proposals those that became trials."""
        order = {"trials": "number", "proposals": "trial", "runs": "trial, seed"}[table]
        where = "trial IS NOT NULL" if table == "proposals" else "1"
        rows = self._rows(f"SELECT * FROM {table} WHERE {where} ORDER BY {order}")
        return [answered(row) for row in rows] if table == "proposals" else rows

    def _insert_all(self, table: str, rows: Iterable[Row]) -> None:
        rows = list(rows)
        names = list(dict.fromkeys(name for row in rows for name in row))
        if names:
            columns, marks = ", ".join(f'"{name}"' for name in names), ", ".join("?" for _ in names)
            self.db.conn.executemany(
                f"INSERT INTO {table} ({columns}) VALUES ({marks})", [[row.get(name) for name in names] for row in rows]
            )
