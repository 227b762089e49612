"""The study's own git repository: what is trained is what is committed; hooks and user settings play no part."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path

from git import Git, GitCommandError

from autoresearch.errors import UserError
from autoresearch.study.git_files import BRANCH, clear_the_way
from autoresearch.study.git_objects import IDENTITY, GitObject, encoded, write_loose
from rails import clean

FILES = ("menu.toml", "recipe.toml")
BASELINE_MESSAGE = "baseline: the recipe as it stands"
# Given on each command line, so that hooks, signatures and monitors of the repository's own config play no part.
OPTIONS = [
    "core.hooksPath=/dev/null",
    "diff.noprefix=false",
    "diff.mnemonicPrefix=false",
    "core.fsmonitor=false",
    "core.autocrlf=false",
    "i18n.commitEncoding=UTF-8",
    "commit.gpgSign=false",
    "tag.gpgSign=false",
    "gc.auto=0",
    # Caches that may outlive what they tell of.
    "core.commitGraph=false",
    "core.multiPackIndex=false",
]


def _environment(path: Path, when: datetime | None = None) -> dict[str, str]:
    git = path / ".git"
    environment = {
        # Named outright, so that a GIT_DIR in the person's shell cannot lead to another repository.
        "GIT_DIR": str(git),
        "GIT_COMMON_DIR": str(git),
        "GIT_WORK_TREE": str(path),
        "GIT_INDEX_FILE": str(git / "index"),
        "GIT_OBJECT_DIRECTORY": str(git / "objects"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "LC_ALL": "C",
    }
    for role in ("AUTHOR", "COMMITTER"):
        environment[f"GIT_{role}_NAME"] = IDENTITY
        environment[f"GIT_{role}_EMAIL"] = f"{IDENTITY}@localhost"
        if when:
            environment[f"GIT_{role}_DATE"] = when.strftime("%Y-%m-%dT%H:%M:%S+0000")
    return environment


class Workspace:
    """recipe.toml, menu.toml and, of a study over a script, the script with the recipe's values in it, all under git.
    Commits are made from objects, so the working tree is only for people. `files`: the names of what is in it."""

    def __init__(self, path: Path, files: Sequence[str] = FILES) -> None:
        self.path = path.resolve()
        self.files = tuple(files)
        self.git = Git(self.path)

    @classmethod
    def create(cls, path: Path, files: dict[str, str], when: datetime) -> Workspace:
        """A new repository whose branch `incumbent` holds the given files (name -> text)."""
        workspace = cls(path, tuple(files))
        workspace.init()
        for name, text in files.items():
            (workspace.path / name).write_bytes(encoded(text))
        workspace._run("add", "--", *files)
        workspace._run("update-ref", BRANCH, workspace.baseline(files, when))
        return workspace

    def baseline(self, files: Mapping[str, str], when: datetime) -> str:
        """A commit without a parent of these files (name -> text), on no branch."""
        return self._commit_tree(self._tree({}, files), [], BASELINE_MESSAGE, when)

    @property
    def incumbent(self) -> str:
        """Commit id of branch `incumbent`."""
        return self._run("rev-parse", "--verify", f"{BRANCH}^{{commit}}")

    def read(self, commit: str, name: str) -> str:
        return self._run("cat-file", "blob", f"{commit}:{name}", raw=True)

    def stage(self, base: str, recipe_text: str, script: Mapping[str, str] | None = None) -> str:
        """Writes the tree of `base` with another recipe.toml and, name -> text, another script. Returns its id."""
        lines = (line.split("\t") for line in self._run("ls-tree", base).splitlines())
        return self._tree({name: entry for entry, name in lines}, {"recipe.toml": recipe_text, **(script or {})})

    def diff(self, base: str, recipe_text: str) -> str:
        """The unified diff of recipe.toml that a commit of this recipe on top of `base` would have."""
        tree = self.stage(base, recipe_text)
        options = ("--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--full-index", "-U0")
        return self._run("diff-tree", "-p", *options, base, tree, raw=True)

    def commit(
        self, base: str, recipe_text: str, message: str, when: datetime, script: Mapping[str, str] | None = None
    ) -> str:
        """Commits the recipe, and the script with it, on top of `base`, on no branch. The same arguments give the same
        id."""
        return self._commit_tree(self.stage(base, recipe_text, script), [base], message, when)

    def merge(self, incumbent: str, candidate: str, message: str, when: datetime) -> str:
        """A merge commit of both whose tree is exactly the candidate's: the recipe that was measured."""
        return self._commit_tree(f"{candidate}^{{tree}}", [incumbent, candidate], message, when)

    def move_incumbent(self, commit: str, from_here: str | None = None) -> list[str]:
        """Moves the branch, then the files that people see. Returns what of a person's was found there and kept.
        from_here: where the branch belongs until then, where that is not the commit's first parent."""
        parents, branch = self._parents(commit), self._id(BRANCH)
        told = self._keep_commits(commit, {from_here, *parents[:1]})
        edited = self._edited([commit, *parents, branch, "HEAD"])
        told += [f"{file} was edited by hand: it is left as it is" for file in edited]
        self._run("update-ref", BRANCH, commit)
        self._show(commit, [name for name in self.files if self.path / name not in edited])
        return told

    def hold(self, number: int, commit: str) -> None:
        """A reference that keeps a candidate from `git gc` until its trial is closed; it is no branch and no tag."""
        self._run("update-ref", held(number), commit)

    def release(self, number: int) -> None:
        """The trial is closed and its tag holds the candidate; does nothing where there is no such reference."""
        self._run("update-ref", "-d", held(number))

    def tag(self, number: int, commit: str, message: str, when: datetime) -> None:
        """Annotated tag trial/NNNN; an unfinished earlier one is replaced."""
        name = f"trial/{number:04d}"
        self._run("tag", "--annotate", "--force", "--no-sign", "--cleanup=whitespace", "--file=-", name, commit,
                  feed=message, when=when)  # fmt: skip

    def delete_tag(self, number: int) -> None:
        """Removes the tag of a trial that is not closed; does nothing where there is none."""
        self._run("update-ref", "-d", tagged(number))

    def reconcile(self, incumbent: str, expected: set[str]) -> list[str]:
        """Puts the branch where the database says, after a crash between the two.

        `expected` are the commits that may be ahead: candidates whose decision the database has not seen. A commit of
        a person's is kept on a branch of its own; returns what to tell of it. Raises UserError if a person has edited
        the files, whose work must not be lost.
        """
        branch = self._id(BRANCH)
        parents = self._parents(branch)
        for file in self._edited([incumbent, branch, "HEAD", *parents[:1], *self._parents(incumbent)[:1], *expected]):
            raise UserError(
                f"{file} was edited by hand: a study changes it only through trials. To try values, use "
                f"`autoresearch propose`; for another menu, `autoresearch init` a new study. "
                f"To undo the edit: git -C {self.path} checkout incumbent -- {file.name}"
            )
        merged = parents[:1] == [incumbent] and not expected.isdisjoint(parents[1:])
        told = self._keep_commits(incumbent, {branch} if merged else set())
        # The files first: cut off in between, they are still those of a commit that is known here.
        self._show(incumbent, self.files)
        self._run("update-ref", BRANCH, incumbent)
        return told

    def _keep_commits(self, target: str, ours: Collection[str | None]) -> list[str]:
        """A commit that a person made on the branch, or on none, and that nothing would hold any more when the branch
        moves to `target`, gets a branch. Returns what to tell of it."""
        told = []
        for tip in sorted({found for name in ("HEAD", BRANCH) if (found := self._id(name))} - {target, *ours}):
            others = ("--not", target, f"--exclude={BRANCH}", "--glob=refs/*")
            if self._try("rev-list", "-n", "1", tip, *others) != "":  # None: a history with holes, nobody can tell
                self._run("update-ref", f"refs/heads/kept/{tip[:12]}", tip)
                told.append(f"commit {tip[:12]} was made by hand: it is kept on branch kept/{tip[:12]}")
        return told

    def _edited(self, commits: Iterable[str | None]) -> list[Path]:
        """Files that are none of these commits'. One that is missing, or that a power cut left empty, is no edit."""
        known = [commit for commit in dict.fromkeys(commits) if commit]
        found = []
        for file in (self.path / name for name in self.files):
            text = file.read_text("utf-8", "replace") if file.is_file() else ""
            versions = (self._try("cat-file", "blob", f"{commit}:{file.name}", raw=True) for commit in known)
            if text.strip("\0") and all(version is None or text != _lines(version) for version in versions):
                found.append(file)
        return found

    def _show(self, commit: str, names: Sequence[str]) -> None:
        """Puts these files into the folder and the index; what else a person has in either stays."""
        self._run("symbolic-ref", "HEAD", BRANCH)
        if names:
            self._run("checkout", "--quiet", commit, "--", *names)
        for name in names:
            with (self.path / name).open("rb") as file:
                os.fsync(file.fileno())

    # --- after a power cut ---

    def clear_the_way(self) -> int:
        """Makes git work here again, whatever was damaged. Returns how many references and objects had to go."""
        git = self.path / ".git"
        damaged = clear_the_way(git)
        if self._try("rev-parse", "--git-dir") is None:
            if (git / "config").exists():
                (git / "config").replace(git / "config.damaged")
            self.init()
        if self._try("ls-files") is None:
            (git / "index").unlink(missing_ok=True)
        return damaged

    def missing(self, wanted: Iterable[GitObject]) -> list[GitObject]:
        """Those of the objects that git does not give back as they should be."""
        by_id = {found.id: found for found in wanted}
        with tempfile.TemporaryFile() as stream:
            stream.write("".join(f"{id}\n" for id in by_id).encode())
            stream.seek(0)
            # It ends at the first that it cannot read; those after it are then written once more, which does no harm.
            _, given, _ = self.git.execute(
                self._words("cat-file", "--batch"), istream=stream, env=_environment(self.path),
                stdout_as_string=False, strip_newline_in_stdout=False, with_extended_output=True, with_exceptions=False,
            )  # fmt: skip
        assert isinstance(given, bytes)
        at, lost = 0, []
        for id, found in by_id.items():
            line = f"{id} {found.kind} {len(found.data)}\n".encode() + found.data + b"\n"
            if given.startswith(line, at):
                at += len(line)
            else:
                lost.append(found)
                at = max(given.find(b"\n", at) + 1, at)
        return lost

    def write(self, lost: Iterable[GitObject]) -> None:
        """Writes objects again, whatever stands in their place."""
        for found in lost:
            write_loose(self.path / ".git" / "objects", found)

    def resolve(self, names: Sequence[str]) -> list[str | None]:
        """The id of what each name stands for; None where that is not there or cannot be read."""
        if not names:
            return []
        lines = self._run("cat-file", "--batch-check", feed="".join(f"{name}\n" for name in names)).splitlines()
        assert len(lines) == len(names), "git answers each name with one line"
        return [None if line.endswith(" missing") else line.split()[0] for line in lines]

    def references(self, *under: str) -> dict[str, str]:
        """Reference -> the id that stands in it, below such folders as refs/tags."""
        lines = self._run("for-each-ref", "--format=%(refname) %(objectname)", *under).splitlines()
        return dict(line.split(" ") for line in lines)

    def set_references(self, wanted: Mapping[str, str | None]) -> None:
        """Reference -> the id that it gets; None: it goes. All or none."""
        if wanted:
            lines = (f"update {name} {id}" if id else f"delete {name}" for name, id in wanted.items())
            self._run("update-ref", "--stdin", feed="".join(f"{line}\n" for line in lines))

    # --- git itself ---

    def init(self) -> None:
        """Makes the repository, or what it lacks. The empty template: nobody's hooks are copied in."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._run("init", "--quiet", "--template=", "--initial-branch=incumbent")

    def _id(self, name: str) -> str | None:
        return self._try("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")

    def _parents(self, commit: str | None) -> list[str]:
        return (self._try("rev-parse", f"{commit}^@") or "").split() if commit else []

    def _tree(self, entries: Mapping[str, str], files: Mapping[str, str]) -> str:
        """entries: name -> mode, kind and id; files, name -> text, stand before them."""
        written = {name: f"100644 blob {self._run('hash-object', '-w', '--stdin', feed=files[name])}" for name in files}
        return self._run("mktree", feed="".join(f"{entry}\t{name}\n" for name, entry in {**entries, **written}.items()))

    def _commit_tree(self, tree: str, parents: list[str], message: str, when: datetime) -> str:
        arguments = [part for parent in parents for part in ("-p", parent)]
        return self._run("commit-tree", tree, *arguments, "-F", "-", feed=message + "\n", when=when)

    def _try(self, command: str, *arguments: str, raw: bool = False) -> str | None:
        """None where git refuses."""
        try:
            return self._run(command, *arguments, raw=raw)
        except UserError:
            return None

    def _run(
        self, command: str, *arguments: str, feed: str = "", when: datetime | None = None, raw: bool = False
    ) -> str:
        # Text goes in through a file, as bytes: never through a shell or an argument.
        with tempfile.TemporaryFile() as stream:
            stream.write(encoded(feed))
            stream.seek(0)
            try:
                output = self.git.execute(
                    self._words(command, *arguments),
                    istream=stream,
                    env=_environment(self.path, when),
                    strip_newline_in_stdout=not raw,
                )
            except GitCommandError as error:
                if not (self.path / ".git").exists():
                    raise UserError(
                        f"{self.path} is not a git repository: `autoresearch run` makes it again from the database"
                    ) from None
                raise UserError(
                    f"git {command} failed in {self.path} ({clean(str(error.stderr))}): the next `autoresearch run` "
                    "makes again what git has lost"
                ) from error
        assert isinstance(output, str)
        return output

    def _words(self, command: str, *arguments: str) -> list[str]:
        return ["git", *(part for option in (*OPTIONS, _flushed()) for part in ("-c", option)), command, *arguments]


@cache
def _flushed() -> str:
    """What git writes is on the disk before the database speaks of it. Before 2.36 git could flush objects alone."""
    new = Git().version_info >= (2, 36)
    return "core.fsync=loose-object,reference,index,pack,pack-metadata" if new else "core.fsyncObjectFiles=true"


def _lines(text: str) -> str:
    """As a file's text is read: with all line ends alike."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def held(number: int) -> str:
    return f"refs/trials/{number:04d}"


def tagged(number: int) -> str:
    return f"refs/tags/trial/{number:04d}"
