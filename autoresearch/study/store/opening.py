"""Opens a study's database file: to work in it or, where nothing may be written, to look at it."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path

from sqlite_utils import Database

from autoresearch.errors import UserError
from autoresearch.study.store.migrations import migrations

# How long another program's writing is waited for.
BUSY_SECONDS = 10.0
NO_RIGHTS = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def open_database(path: Path) -> tuple[Database, bool]:
    """The file, made or migrated where need be, and False; or, where that is not allowed, the same for reading only,
    and True. Raises UserError for what is no study's database, and for one that is locked."""
    exists = path.exists()
    if exists and not path.stat().st_size:
        raise UserError(
            f"{path} is empty: the study is damaged. Put back a copy of it; the recipes are still under git in "
            f"{path.parent}/recipe, and what the last report said in {path.parent}/report"
        )
    try:
        try:
            return _to_work(path, exists), False
        except sqlite3.DatabaseError as error:
            if not exists or code_of(error) not in NO_RIGHTS:
                raise
        return _to_look(path), True
    except sqlite3.DatabaseError as error:
        if code_of(error) in LOCKED:
            raise UserError(
                f"{path} is locked by another program, for {BUSY_SECONDS:g} seconds now: close what has it open, such "
                "as a database browser, and try again"
            ) from None
        raise UserError(
            f"{path} cannot be opened ({error}): the study is damaged, or the folder may not be written; "
            "restore it from a copy, or mend its rights"
        ) from None


def code_of(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code; None where the error is not SQLite's own."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _to_work(path: Path, exists: bool) -> Database:
    db = Database(sqlite3.connect(path, timeout=BUSY_SECONDS))
    try:
        if exists:
            _require_study(db)
        db.enable_wal()
        db.execute("PRAGMA foreign_keys = ON")
        migrations.apply(db)
    except sqlite3.DatabaseError:
        db.close()
        raise
    return db


def _to_look(path: Path) -> Database:
    """The file itself, or a copy in memory where the file needs what only a writer could do: an upgrade, or taking in
    what a killed process left in the write-ahead log."""
    db = _opened(path)
    if db is None or migrations.pending(db):
        if db is not None:
            db.close()
        db = _copied(path)
        migrations.apply(db)
    db.execute("PRAGMA query_only = ON")
    return db


def _opened(path: Path) -> Database | None:
    log = path.with_name(f"{path.name}-wal")
    # Without a log nobody is writing, and SQLite is told so: else it would make one, which it may not.
    mode = "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
    db = Database(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=BUSY_SECONDS))
    try:
        _require_study(db)
    except sqlite3.DatabaseError as error:
        db.close()
        if code_of(error) in NO_RIGHTS:
            return None
        raise
    return db


def _copied(path: Path) -> Database:
    memory = sqlite3.connect(":memory:")
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / path.name
        for suffix in ("", "-wal"):
            found = path.with_name(path.name + suffix)
            if found.exists():
                shutil.copyfile(found, copy.with_name(found.name))
        connection = sqlite3.connect(copy)
        try:
            connection.execute("PRAGMA journal_mode = DELETE")  # there is no write-ahead log in memory
            connection.backup(memory)
        finally:
            connection.close()
    db = Database(memory)
    _require_study(db)
    return db


def _require_study(db: Database) -> None:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'studies'").fetchone():
        raise sqlite3.DatabaseError("it holds no study")
