"""Git's objects as bytes: their ids are known without asking git, and a lost one can be written again."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

IDENTITY = "autoresearch"
BLOCK_BYTES = 2**20
DIGESTS = {40: "sha1", 64: "sha256"}  # hex digits of an id -> what a repository's ids are made with


@dataclass(frozen=True)
class GitObject:
    """`digest` is sha1, or sha256 in a repository that was made so."""

    kind: Literal["blob", "tree", "commit", "tag"]
    data: bytes
    digest: str

    @property
    def id(self) -> str:
        return hashlib.new(self.digest, self.content).hexdigest()

    @property
    def content(self) -> bytes:
        """What git hashes, and writes compressed."""
        return f"{self.kind} {len(self.data)}\0".encode() + self.data


def blob(text: str, digest: str) -> GitObject:
    return GitObject("blob", encoded(text), digest)


def tree(files: dict[str, str], digest: str) -> GitObject:
    """A folder of plain files: name -> id of the blob."""
    entries = (f"100644 {name}\0".encode() + bytes.fromhex(found) for name, found in sorted(files.items()))
    return GitObject("tree", b"".join(entries), digest)


def commit(tree: str, parents: Sequence[str], message: str, when: datetime, digest: str) -> GitObject:
    """As `git commit-tree` makes it of the message and a line end."""
    who = _who(when)
    head = [f"tree {tree}", *(f"parent {parent}" for parent in parents), f"author {who}", f"committer {who}"]
    return GitObject("commit", encoded("\n".join([*head, "", message]) + "\n"), digest)


def tag(name: str, commit: str, message: str, when: datetime, digest: str) -> GitObject:
    """As `git tag --annotate` makes it of a message without empty lines in a row."""
    head = [f"object {commit}", "type commit", f"tag {name}", f"tagger {_who(when)}"]
    lines = (line.rstrip() for line in message.split("\n"))
    return GitObject("tag", encoded("\n".join([*head, "", *lines]) + "\n"), digest)


def encoded(text: str) -> bytes:
    """Text as it is given to git."""
    return text.encode("utf-8", "replace")


def loose_files(objects: Path) -> Iterator[tuple[str, Path]]:
    """(id, file) of every loose object below .git/objects."""
    for folder in objects.glob("[0-9a-f][0-9a-f]"):
        for file in folder.iterdir():
            if len(found := folder.name + file.name) in DIGESTS:
                yield found, file


def is_sound(file: Path, id: str) -> bool:
    """Whether a loose object is what its name says, to the last bit."""
    found, inflate = hashlib.new(DIGESTS[len(id)]), zlib.decompressobj()
    try:
        with file.open("rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                found.update(inflate.decompress(block))
    except PermissionError:
        return True  # not ours to judge
    except (OSError, zlib.error):
        return False
    return inflate.eof and not inflate.unused_data and found.hexdigest() == id


def write_loose(objects: Path, wanted: GitObject) -> None:
    """Writes it whole or not at all, and on the disk: over a damaged one too, which git itself would leave there."""
    folder = objects / wanted.id[:2]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="tmp_obj_", delete=False) as file:
        file.write(zlib.compress(wanted.content))
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o444)
    Path(file.name).replace(folder / wanted.id[2:])


def _who(when: datetime) -> str:
    return f"{IDENTITY} <{IDENTITY}@localhost> {int(when.timestamp())} +0000"
