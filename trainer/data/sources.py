"""Where text comes from: a source has a fingerprint, taken without reading the text, and yields documents."""

import hashlib
import os
import random
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.data.errors import DataError
from trainer.data.readers import READERS, read_dataset, read_whole

STDLIB = "stdlib"
HUB_PREFIX = "hf:"

# Folders of the standard library that are not its own source, or that hold texts for its tests.
NOT_LIBRARY = frozenset({"test", "tests", "idlelib", "site-packages", "dist-packages", "lib2to3", "turtledemo"})


@dataclass(frozen=True)
class Source:
    """Text that can be read."""

    name: str  # as the user wrote it
    slug: str  # for the name of a folder
    fingerprint: str  # another one whenever the text is another
    total_bytes: int  # about what `documents` will yield; 0 where nobody knows before the end
    documents: Callable[[], Iterator[str]]


def source_named(name: str, seed: int) -> Source:
    """`stdlib`, `hf:NAME[:CONFIG]`, a file or a folder. Raises DataError where there is nothing to read.

    seed: the order in which a folder's files are read.
    """
    if name == STDLIB:
        folder = Path(sysconfig.get_paths()["stdlib"])
        return _of_files(name, STDLIB, folder, _library_files(folder), seed, read_whole)
    if name.startswith(HUB_PREFIX):
        return _of_hub(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return _of_files(name, path.resolve().name, path, _text_files(path), seed, _read)
    if not path.is_file():
        raise DataError(f"{name}: no such file or folder (other sources: {STDLIB}, {HUB_PREFIX}NAME[:CONFIG])")
    if path.suffix.lower() not in READERS:
        raise DataError(f"{name}: unknown extension {path.suffix!r}; text comes in {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise DataError(f"{name}: the file is empty")
    return _of_files(name, path.stem, path.parent, [path], seed, _read)


def _read(path: Path) -> Iterator[str]:
    return READERS[path.suffix.lower()](path)


def _of_files(
    name: str, title: str, folder: Path, files: list[Path], seed: int, read: Callable[[Path], Iterator[str]]
) -> Source:
    # Size and time of change, as make and rsync do: reading gigabytes to learn that nothing changed would cost every
    # start a minute. A touched file costs one needless preparation, whose manifest then has the same sha256.
    digest = hashlib.sha256(title.encode())
    total_bytes = 0
    for path in files:
        status = path.stat()
        total_bytes += status.st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())

    def documents() -> Iterator[str]:
        shuffled = list(files)
        random.Random(seed).shuffle(shuffled)  # so that the first `max_bytes` are a fair sample
        for path in shuffled:
            yield from read(path)

    return Source(name, _slug(title), digest.hexdigest(), total_bytes, documents)


def _library_files(folder: Path) -> list[Path]:
    return [path for path in _files_below(folder, NOT_LIBRARY) if path.suffix == ".py"]


def _text_files(folder: Path) -> list[Path]:
    everything = _files_below(folder)
    files = [path for path in everything if path.suffix.lower() in READERS]
    if not files:
        found = sorted({path.suffix or path.name for path in everything})[:5]
        raise DataError(
            f"{folder}: no text files in the folder; text comes in {', '.join(READERS)}"
            + (f", here are {', '.join(found)}" if found else "")
        )
    return files


def _files_below(folder: Path, skipped: frozenset[str] = frozenset()) -> list[Path]:
    """Every file in the folder and below, sorted; hidden ones are no text (.git, .ipynb_checkpoints, .DS_Store)."""
    files: list[Path] = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in skipped and not name.startswith(".")]
        files += [Path(where, name) for name in names if not name.startswith(".")]
    return sorted(path for path in files if path.is_file())


def _of_hub(name: str) -> Source:
    dataset, _, config = name.removeprefix(HUB_PREFIX).partition(":")
    if not dataset:
        raise DataError(f"{name}: no dataset named; write {HUB_PREFIX}NAME or {HUB_PREFIX}NAME:CONFIG")
    folder = Path(dataset)
    # A name on the hub is taken to mean the same text for good: asking the hub would need the network every time.
    fingerprint = hashlib.sha256(name.encode()).hexdigest()
    if folder.is_dir():
        fingerprint = _of_files(name, dataset, folder, _files_below(folder), 0, _read).fingerprint

    def documents() -> Iterator[str]:
        return read_dataset(name, dataset, config or None)

    return Source(name, _slug(f"{folder.name} {config}"), fingerprint, 0, documents)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or "text"
