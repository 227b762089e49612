"""Migrations that make a table again: what was in it stays in it, to the last comment."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Migrations

from autoresearch.study.store import Store, rows
from autoresearch.study.store import migrations as shipped

OLDER = ("m001_trajectory", "m002_speed", "m003_imports", "m004_promotions")
CREATED = "CREATE TABLE runs"


def fetch(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as database:
        return database.execute(sql).fetchall()


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A database from before a run could be cancelled, with rows, and with what others have added to it."""
    older = Migrations("autoresearch")
    for name in OLDER:
        older(name=name)(getattr(shipped, name))
    with monkeypatch.context() as patch:
        patch.setattr(rows, "migrations", older)
        store = Store(tmp_path / "study.db")
    store.create_study("one", "{}", "0" * 64, {"lr": 0.001}, "key", "c0ffee")
    store.queue_runs((0, seed, "reference") for seed in range(3))
    store.db.execute("ALTER TABLE runs ADD COLUMN mood TEXT")
    store.db.execute("UPDATE runs SET mood = 'calm', val_bpb = 2.5, state = 'complete' WHERE seed = 1")
    store.db.execute("CREATE INDEX runs_by_mood ON runs(mood)")
    store.db.execute("CREATE VIEW calm AS SELECT * FROM runs WHERE mood = 'calm'")
    store.db.conn.commit()
    store.close()
    yield tmp_path / "study.db"


def test_a_table_of_runs_from_before_they_could_be_cancelled_keeps_all_it_has(old: Path) -> None:
    everything = "SELECT rowid, * FROM runs ORDER BY trial, seed"
    (table,), before = fetch(old, "SELECT sql FROM sqlite_master WHERE name = 'runs'")[0], fetch(old, everything)
    with pytest.raises(sqlite3.IntegrityError):
        fetch(old, "UPDATE runs SET state = 'cancelled' WHERE seed = 2")

    store = Store(old)
    assert [run.seed for run in store.pending_runs()] == [0, 2]
    store.close()

    assert fetch(old, everything) == before and len(before) == 3
    ((now,),) = fetch(old, "SELECT sql FROM sqlite_master WHERE name = 'runs'")
    assert now == table.replace("'failed')", "'failed', 'cancelled')"), "comments, keys and defaults are as they were"
    assert fetch(old, "SELECT seed, mood FROM calm") == [(1, "calm")]
    indexes = {name for (name,) in fetch(old, "SELECT name FROM sqlite_master WHERE type = 'index' AND sql <> ''")}
    assert {"runs_by_state", "runs_by_mood", "trials_by_state"} <= indexes
    assert fetch(old, "PRAGMA foreign_key_check") == [] and fetch(old, "PRAGMA integrity_check") == [("ok",)]

    fetch(old, "UPDATE runs SET state = 'cancelled' WHERE seed = 2")
    for wrong in (
        "UPDATE runs SET state = 'gone' WHERE seed = 2",
        "INSERT INTO runs (trial, seed, purpose, state, attempts, message) VALUES (0, 1, 'reference', 'queued', 0, '')",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            fetch(old, wrong)


def test_a_new_database_has_the_table_that_an_upgraded_one_has(old: Path, tmp_path: Path) -> None:
    Store(old).close()
    Store(tmp_path / "new.db").close()
    new, upgraded = (
        fetch(path, "SELECT sql FROM sqlite_master WHERE name = 'runs'")[0][0] for path in (tmp_path / "new.db", old)
    )
    assert new.startswith(CREATED) and upgraded.replace(", mood TEXT", "") == new
    assert len(re.findall("cancelled", new)) == 1
