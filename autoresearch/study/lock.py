"""Who may run a study: one process at a time."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from autoresearch.errors import StudyBusy


class RunnerLock:
    """One study, one runner (and one daemon): a lock that the kernel drops when the process ends, however it ends."""

    def __init__(self, study: Path, name: str = "runner") -> None:
        self.path = study / f"{name}.lock"

    def __enter__(self) -> RunnerLock:
        self._file = self.path.open("a+")
        while not _takes(self._file, fcntl.LOCK_EX):
            # None: it was only looked at, by `lock_holder` in another process
            if (holder := lock_holder(self.path)) is not None:
                self._file.close()
                raise StudyBusy(
                    f"study {self.path.parent.name} is run by process {holder} already: "
                    f"watch it with `autoresearch status {self.path.parent.name}`"
                )
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.truncate(0)
        self._file.close()


def lock_holder(path: Path) -> int | None:
    """Id of the process that holds runner.lock or daemon.lock; None if nobody does."""
    with suppress(FileNotFoundError), path.open() as file:
        if not _takes(file, fcntl.LOCK_SH):
            return int(file.read().strip() or 0)
    return None


def _takes(file: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
