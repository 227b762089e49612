"""The git repository that a script lies in: read, and written by objects and one new commit on a branch, no more.

Its work tree, its index and whatever is checked out stay as they are; no hook runs, and no branch is ever forced.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from autoresearch.errors import UserError
from autoresearch.study.git_objects import IDENTITY
from rails import clean

SECONDS = 60
SETTINGS = ("core.hooksPath=/dev/null", "core.fsmonitor=false", "gc.auto=0", "i18n.commitEncoding=UTF-8")
OPTIONS = tuple(word for setting in SETTINGS for word in ("-c", setting))
TRAILER = "Autoresearch-Study: "
COMMITTER = f"\ncommitter {IDENTITY} <{IDENTITY}@localhost> "


@dataclass(frozen=True)
class Tip:
    """What a branch leads to. ours: made by this study's `apply`, and nothing on top of it."""

    commit: str
    ours: bool


class ScriptRepository:
    """`folder` is the top of its work tree, `path` the script's place in it as git writes it."""

    def __init__(self, folder: Path, path: str) -> None:
        self.folder, self.path = folder, path

    @classmethod
    def of(cls, script: Path) -> ScriptRepository | None:
        """The one in whose work tree the script lies; None: in none, or git does not open it."""
        script = script.resolve()
        found = _git(script.parent, "rev-parse", "--show-toplevel", "--show-prefix", strict=False).split("\n")
        return cls(Path(found[0]), f"{found[1]}{script.name}") if len(found) > 1 else None

    def head(self) -> str | None:
        """The commit that is checked out; None: nothing was committed yet."""
        return self._commit("HEAD")

    def script(self, commit: str | None) -> str | None:
        """The script's text at a commit; None where it is not there, or no text in UTF-8."""
        if commit is None:
            return None
        try:
            text = self._run("cat-file", "blob", f"{commit}:{self.path}")
            text.encode("utf-8")
        except (UserError, UnicodeEncodeError):
            return None
        return text

    def tip(self, branch: str, study: str) -> Tip | None:
        """None: there is no such branch. Raises UserError where git does not take the name, and where the branch is
        checked out, here or in another work tree."""
        if self._run("check-ref-format", "--branch", branch, strict=False).rstrip("\n") != branch:
            raise UserError(f"{clean(branch, 100)!r} is no name for a branch: choose another with --branch")
        if self._run("rev-parse", "--symbolic-full-name", "HEAD", strict=False).strip() == f"refs/heads/{branch}" or (
            self._run("for-each-ref", "--format=%(worktreepath)", f"refs/heads/{branch}").strip()
        ):
            raise UserError(
                f"branch {branch} of {self.folder} is checked out, and what is checked out is not moved: "
                "choose another with --branch"
            )
        commit = self._commit(f"refs/heads/{branch}")
        if commit is None:
            return None
        head, _, message = self._run("cat-file", "commit", commit).partition("\n\n")
        return Tip(commit, COMMITTER in head and f"\n{TRAILER}{study}\n" in message)

    def commit(self, base: str, script: str, message: str, when: datetime) -> str:
        """A commit on top of `base` in which the script alone is other, on no branch. The same arguments give the same
        id."""
        mode = self._run("ls-tree", "--full-tree", base, "--", self.path).split(" ")[0]
        blob = self._run("hash-object", "-w", "--stdin", feed=script).strip()
        with tempfile.TemporaryDirectory() as temporary:
            index = {"GIT_INDEX_FILE": f"{temporary}/index"}
            self._run("read-tree", base, extra=index)
            self._run("update-index", "-z", "--index-info", feed=f"{mode} {blob}\t{self.path}\0", extra=index)
            tree = self._run("write-tree", extra=index).strip()
        date = when.strftime("%Y-%m-%dT%H:%M:%S+0000")
        who = {
            f"GIT_{role}_{part}": value
            for role in ("AUTHOR", "COMMITTER")
            for part, value in (("NAME", IDENTITY), ("EMAIL", f"{IDENTITY}@localhost"), ("DATE", date))
        }
        return self._run("commit-tree", tree, "-p", base, "-F", "-", feed=f"{message}\n", extra=who).strip()

    def move(self, branch: str, commit: str, from_here: str | None) -> None:
        """Moves the branch, or makes it where from_here is None. Raises UserError where it is elsewhere by now."""
        self._run(
            "update-ref", "-m", "autoresearch apply", f"refs/heads/{branch}", commit, from_here or "0" * len(commit)
        )

    def _commit(self, name: str) -> str | None:
        return self._run("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", strict=False).strip() or None

    def _run(self, *arguments: str, feed: str = "", extra: Mapping[str, str] | None = None, strict: bool = True) -> str:
        return _git(self.folder, *arguments, feed=feed, extra=extra, strict=strict)


def _git(
    folder: Path, *arguments: str, feed: str = "", extra: Mapping[str, str] | None = None, strict: bool = True
) -> str:
    """What git answers; where it refuses, UserError or, if not strict, nothing. Bytes that are no UTF-8 pass through as
    lone surrogates."""
    # Of a shell inside a hook or a rebase: it would lead to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", **(extra or {})}
    try:
        done = subprocess.run(
            ["git", *OPTIONS, *arguments],
            cwd=folder,
            env=environment,
            input=feed.encode("utf-8", "surrogateescape"),
            capture_output=True,
            timeout=SECONDS,
        )
    except OSError as error:
        raise UserError(f"git cannot be run in {folder}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"git did not answer in {SECONDS} s in {folder}") from None
    if done.returncode and strict:
        said = clean(done.stderr.decode("utf-8", "replace"), 300)
        raise UserError(f"git refuses in {folder}: {said or ' '.join(arguments[:1])}")
    return "" if done.returncode else done.stdout.decode("utf-8", "surrogateescape")
