"""Migrations that make a table again: what was in it stays in it, to the last comment."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database, Migrations

from autoresearch.study.store import Store
from autoresearch.study.store import migrations as shipped

OLDER = ("m001_trajectory", "m002_speed", "m003_imports", "m004_promotions")
CREATED = "CREATE TABLE runs"


def fetch(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as database:
        return database.execute(sql).fetchall()


def migrate(path: Path, *names: str) -> Database:
    """Applies so many of the shipped migrations and no more."""
    chosen = Migrations("autoresearch")
    for name in names:
        chosen(name=name)(getattr(shipped, name))
    database = Database(str(path))
    chosen.apply(database)
    return database


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database from before a run could be cancelled, with rows, and with what others have added to it."""
    database = migrate(tmp_path / "study.db", *OLDER)
    for statement in (
        "INSERT INTO studies (id, name, created_at, settings, menu_sha256, incumbent, incumbent_commit, control) "
        "VALUES (1, 'one', '2026-01-01T00:00:00.000Z', '{}', '0', 0, 'c0ffee', 'run')",
        "INSERT INTO trials (number, proposer, changes, recipe, hypothesis, state, reason, n_runs, started_at) "
        "VALUES (0, 'baseline', '{}', '{}', '', 'running', '', 0, '2026-01-01T00:00:00.000Z')",
        *(
            "INSERT INTO runs (trial, seed, purpose, state, attempts, message) "
            f"VALUES (0, {seed}, 'reference', 'queued', 0, '')"
            for seed in range(3)
        ),
        "ALTER TABLE runs ADD COLUMN mood TEXT",
        "UPDATE runs SET mood = 'calm', val_bpb = 2.5, state = 'complete' WHERE seed = 1",
        "CREATE INDEX runs_by_mood ON runs(mood)",
        "CREATE VIEW calm AS SELECT * FROM runs WHERE mood = 'calm'",
    ):
        database.execute(statement)
    database.conn.commit()
    database.close()
    return tmp_path / "study.db"


def test_a_table_of_runs_from_before_they_could_be_cancelled_keeps_all_it_has(old: Path) -> None:
    everything = "SELECT rowid, * FROM runs ORDER BY trial, seed"
    (table,), before = fetch(old, "SELECT sql FROM sqlite_master WHERE name = 'runs'")[0], fetch(old, everything)
    with pytest.raises(sqlite3.IntegrityError):
        fetch(old, "UPDATE runs SET state = 'cancelled' WHERE seed = 2")

    migrate(old, *OLDER, "m005_cancelled_runs").close()

    assert fetch(old, everything) == before and len(before) == 3
    ((now,),) = fetch(old, "SELECT sql FROM sqlite_master WHERE name = 'runs'")
    assert now == table.replace("'failed')", "'failed', 'cancelled')"), "comments, keys and defaults are as they were"
    assert fetch(old, "SELECT seed, mood FROM calm") == [(1, "calm")]
    indexes = {name for (name,) in fetch(old, "SELECT name FROM sqlite_master WHERE type = 'index' AND sql <> ''")}
    assert {"runs_by_state", "runs_by_mood", "trials_by_state"} <= indexes
    assert fetch(old, "PRAGMA foreign_key_check") == [] and fetch(old, "PRAGMA integrity_check") == [("ok",)]

    store = Store(old)  # with all that has come since
    assert [run.seed for run in store.pending_runs()] == [0, 2]
    store.close()
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


def test_old_runs_get_their_flops_from_what_was_measured_and_none_where_nothing_was(old: Path) -> None:
    per_token, speed, peak = 6_291_456, 18_123.7, 4.1e11
    sql = f"""
        UPDATE runs SET state = 'complete', val_bpb = 2.5, tokens = 198656, tokens_per_second = {speed},
            peak_flops = {peak}, mfu = {per_token * speed / peak!r} WHERE seed = 1"""
    fetch(old, sql)
    fetch(old, "UPDATE runs SET tokens = 2048 WHERE seed = 2")
    store = Store(old)
    assert [run.flops for run in store.runs()] == [None, per_token * 198_656, None]
    store.close()


BEFORE_WINDOWS = (*OLDER, "m005_cancelled_runs", "m006_logical_time", "m007_menu_text")


@pytest.mark.parametrize("source", [None, '{"format": "jsonl"}'])
def test_older_runs_in_the_baselines_windows_have_their_score_at_the_fixed_one(
    tmp_path: Path, source: str | None
) -> None:
    database = migrate(tmp_path / "study.db", *BEFORE_WINDOWS)
    database.execute(
        "INSERT INTO studies (id, name, created_at, settings, menu_sha256, incumbent, incumbent_commit, control, "
        "source) VALUES (1, 'one', '2026-01-01T00:00:00.000Z', '{}', '0', 0, 'c0ffee', 'run', ?)",
        [source],
    )
    recipes = ('{"seq_len": 256}', '{"seq_len": 256, "lr": 1}', '{"seq_len": 512}', '{"seq_len": 128}', "{}")
    for number, recipe in enumerate(recipes):
        database.execute(
            "INSERT INTO trials (number, proposer, changes, recipe, hypothesis, state, reason, n_runs, started_at) "
            "VALUES (?, 'tpe', '{}', ?, '', 'running', '', 0, '2026-01-01T00:00:00.000Z')",
            [number, recipe],
        )
        for seed, score in enumerate((2.5 + number, None)):
            database.execute(
                "INSERT INTO runs (trial, seed, purpose, state, attempts, message, val_bpb) "
                "VALUES (?, ?, 'reference', ?, 1, '', ?)",
                [number, seed, "failed" if score is None else "complete", score],
            )
        database.execute(
            "INSERT INTO promotions (trial, factor, seed, state, message, val_bpb, energy_joules, energy_source, "
            "curve, finished_at) VALUES (?, 8, 1000, 'complete', '', ?, 1, 'rapl', '[]', '2026-01-01T00:00:00.000Z')",
            [number, 2.4 + number],
        )
    database.conn.commit()
    database.close()

    Store(tmp_path / "study.db").close()

    known = [] if source else [(0, 2.5), (1, 3.5)]
    scored = "SELECT trial, window_bpb FROM runs WHERE window_bpb IS NOT NULL ORDER BY trial"
    assert fetch(tmp_path / "study.db", scored) == known
    promoted = "SELECT trial, window_bpb FROM promotions WHERE window_bpb IS NOT NULL ORDER BY trial"
    assert fetch(tmp_path / "study.db", promoted) == ([] if source else [(0, 2.4), (1, 3.4)])
