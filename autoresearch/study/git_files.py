"""A repository's own files after a power cut or a killed git: what no git could read any more is put out of its way."""

from __future__ import annotations

import re
from pathlib import Path

from autoresearch.study.git_objects import is_sound, loose_files

BRANCH = "refs/heads/incumbent"
_REF = re.compile(r"(ref: refs/\S+|[0-9a-f]{40}|[0-9a-f]{64})\s*")
_PACKED_REF = re.compile(r"#.*|([0-9a-f]{40}|[0-9a-f]{64}) refs/\S+|\^([0-9a-f]{40}|[0-9a-f]{64})")


def clear_the_way(git: Path) -> int:
    """Locks of gits that are gone, and references and loose objects that are damaged, go; HEAD becomes the branch.

    `git` is the folder .git; the caller holds the study's lock. Nothing that can be read is touched. Returns how many
    references and objects were damaged; the caller makes them again.
    """
    for lock in git.glob("**/*.lock"):
        lock.unlink(missing_ok=True)
    head = git / "HEAD"
    if git.is_dir() and not _is_ref(head):
        head.unlink(missing_ok=True)
        head.write_text(f"ref: {BRANCH}\n")
    broken = [file for file in (git / "refs").rglob("*") if file.is_file() and not _is_ref(file)]
    broken += [file for id, file in loose_files(git / "objects") if not is_sound(file, id)]
    for file in broken:
        file.unlink()
    return len(broken) + _mend_packed_refs(git / "packed-refs")


def _is_ref(file: Path) -> bool:
    return file.is_file() and _REF.fullmatch(file.read_text("utf-8", "replace")) is not None


def _mend_packed_refs(file: Path) -> int:
    if not file.exists():
        return 0
    lines = file.read_text("utf-8", "replace").splitlines()
    kept = [line for line in lines if _PACKED_REF.fullmatch(line)]
    if len(kept) < len(lines):
        # Without the header, which says that they are sorted and that each tag's commit stands below it.
        file.write_text("".join(f"{line}\n" for line in kept if not line.startswith(("#", "^"))))
    return len(lines) - len(kept)
