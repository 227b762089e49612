"""Files and folders that are whole or absent, and made by one process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def finished_when_closed(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when everything is written; nothing under that name if the writing fails."""
    partial = path.with_name(path.name + ".tmp")
    with partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Waits until no other process holds the lock. It falls with the process, however that ends."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
