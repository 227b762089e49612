"""A prepared text on many nodes: where it is seen with the right hash it is used, else it is sent there once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch.errors import UserError
from trainer.cache import cache_folder

CHUNK_BYTES = 64 * 2**20  # of one object in Ray's store, which may be smaller than the text


@dataclass(frozen=True)
class Text:
    """A prepared folder: its path on the runner's machine, and the SHA-256 of its files' names and bytes."""

    path: str
    sha256: str

    @classmethod
    def of(cls, folder: Path) -> Text | None:
        """None where the folder holds no prepared text."""
        return cls(str(folder), fingerprint(folder)) if (folder / "manifest.json").is_file() else None

    def here(self) -> str | None:
        """The folder on this machine that holds it: the runner's own path, or what was sent earlier; None: neither."""
        for folder in (Path(self.path), self._sent):
            with suppress(OSError):
                if (folder / "manifest.json").is_file() and fingerprint(folder) == self.sha256:
                    return str(folder)
        return None

    def receive(self, chunks: Mapping[str, Sequence[Any]]) -> str:
        """Writes it on this machine, unless a neighbour has done so meanwhile; returns the folder.

        chunks: file -> references to its parts. Raises OSError for a full disk, UserError for what came out wrong.
        """
        import ray

        self._sent.parent.mkdir(parents=True, exist_ok=True)
        with self._sent.with_name(f"{self.sha256}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (found := self.here()) is not None:
                return found
            partial = self._sent.with_name(f".{self.sha256}.{os.getpid()}")
            try:
                partial.mkdir()
                for name, parts in chunks.items():
                    with (partial / Path(name).name).open("wb") as file:
                        for part in parts:
                            file.write(ray.get(part))
                if fingerprint(partial) != self.sha256:
                    raise UserError(f"the text of {self.path} did not arrive as it was sent")
                shutil.rmtree(self._sent, ignore_errors=True)
                partial.rename(self._sent)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return str(self._sent)

    def send(self) -> dict[str, list[Any]]:
        """Puts it into Ray's object store, which keeps it while the references live; returns what `receive` takes."""
        import ray

        return {path.name: [ray.put(part) for part in _parts(path)] for path in _files(Path(self.path))}

    @property
    def _sent(self) -> Path:
        return cache_folder() / "sent" / self.sha256


def fingerprint(folder: Path) -> str:
    """Of the names and bytes of a folder's files."""
    found = hashlib.sha256()
    for path in _files(folder):
        with path.open("rb") as file:
            found.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return found.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(CHUNK_BYTES):
            yield part
