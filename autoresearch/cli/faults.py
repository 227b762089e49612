"""What a person is told when disk or database refuse: one line that says what to do."""

from __future__ import annotations

import errno
import sqlite3

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS)
MAKE_ROOM = "make room, then give the command again: what was written down is kept, and a night goes on where it was"
DATABASE = {
    sqlite3.SQLITE_FULL: f"the disk is full: {MAKE_ROOM}",
    sqlite3.SQLITE_IOERR: f"the disk is full, or it fails, and the study's database with it: {MAKE_ROOM}",
    sqlite3.SQLITE_READONLY: "the study may not be written: mend the rights of its folder, or work in a copy of it",
    sqlite3.SQLITE_BUSY: "the study's database is locked by another program: close what has it open, such as a "
    "database browser, and try again",
    sqlite3.SQLITE_CORRUPT: "the study's database is damaged: put back a copy of it",
    sqlite3.SQLITE_NOTADB: "the study's database is damaged: put back a copy of it",
}


def line_of(error: OSError | sqlite3.Error) -> str | None:
    """None for what no person can mend."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        found = None if code is None else DATABASE.get(code & 0xFF)
        return found and f"{found} ({error})"
    where = error.filename or "a file"
    if error.errno in FULL:
        return f"{where} could not be written ({error.strerror}): {MAKE_ROOM}"
    if error.errno in NO_RIGHTS:
        return f"{where} may not be read or written ({error.strerror}): mend its rights, or choose another folder"
    return f"{where}: {error.strerror}" if error.filename and error.strerror else None
