"""The study's own git repository: what is trained is what is committed; hooks and user settings play no part."""

from __future__ import annotations

import os
import tempfile
from datetime import datetime
from pathlib import Path

from git import Git, GitCommandError, InvalidGitRepositoryError, NoSuchPathError, Repo

from autoresearch.errors import UserError

BRANCH = "refs/heads/incumbent"
IDENTITY = "autoresearch"
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
    """recipe.toml and menu.toml under git. Commits are made from objects, so the working tree is only for people."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        try:
            self.repo = Repo(self.path, expand_vars=False)
        except (InvalidGitRepositoryError, NoSuchPathError):
            raise UserError(f"{path} is not a git repository: the study is damaged; restore the folder") from None

    @classmethod
    def create(cls, path: Path, files: dict[str, str], when: datetime) -> Workspace:
        """A new repository whose branch `incumbent` holds the given files (name -> text)."""
        path = path.resolve()
        path.mkdir(parents=True, exist_ok=True)
        # Not Repo.init, which expands a $ in the path. The empty template: nobody's hooks are copied in.
        Git(path).init(env=_environment(path), template="", initial_branch="incumbent")
        workspace = cls(path)
        for name, text in files.items():
            (path / name).write_text(text, encoding="utf-8")
        workspace._run("add", "--", *files)
        tree = workspace._run("write-tree")
        commit = workspace._commit_tree(tree, [], "baseline: the recipe as it stands", when)
        workspace._run("update-ref", BRANCH, commit)
        return workspace

    @property
    def incumbent(self) -> str:
        """Commit id of branch `incumbent`."""
        return self._run("rev-parse", "--verify", f"{BRANCH}^{{commit}}")

    def read(self, commit: str, name: str) -> str:
        return self._run("cat-file", "blob", f"{commit}:{name}", raw=True)

    def stage(self, base: str, recipe_text: str) -> str:
        """Writes the tree of `base` with another recipe.toml. Returns the tree's id."""
        blob = self._run("hash-object", "-w", "--stdin", feed=recipe_text)
        entries = [
            f"100644 blob {blob}\trecipe.toml" if line.endswith("\trecipe.toml") else line
            for line in self._run("ls-tree", base).splitlines()
        ]
        return self._run("mktree", feed="\n".join(entries) + "\n")

    def diff(self, base: str, recipe_text: str) -> str:
        """The unified diff that a commit of this recipe on top of `base` would have."""
        tree = self.stage(base, recipe_text)
        options = ("--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--full-index", "-U0")
        return self._run("diff-tree", "-p", *options, base, tree, raw=True)

    def commit(self, base: str, recipe_text: str, message: str, when: datetime) -> str:
        """Commits the recipe on top of `base`, on no branch. The same arguments give the same id."""
        return self._commit_tree(self.stage(base, recipe_text), [base], message, when)

    def merge(self, incumbent: str, candidate: str, message: str, when: datetime) -> str:
        """A merge commit of both whose tree is exactly the candidate's: the recipe that was measured."""
        return self._commit_tree(f"{candidate}^{{tree}}", [incumbent, candidate], message, when)

    def move_incumbent(self, commit: str) -> None:
        """Moves the branch, then the files that people see."""
        self._run("update-ref", BRANCH, commit)
        self._show(commit)

    def tag(self, number: int, commit: str, message: str, when: datetime) -> None:
        """Annotated tag trial/NNNN; an unfinished earlier one is replaced."""
        name = f"trial/{number:04d}"
        self._run("tag", "--annotate", "--force", "--no-sign", "--cleanup=whitespace", "--file=-", name, commit,
                  feed=message, when=when)  # fmt: skip

    def delete_tag(self, number: int) -> None:
        """Removes the tag of a trial that is not closed; does nothing where there is none."""
        self._run("update-ref", "-d", f"refs/tags/trial/{number:04d}")

    def reconcile(self, incumbent: str, expected: set[str]) -> None:
        """Puts the branch where the database says, after a crash between the two.

        `expected` are the commits that may be ahead: candidates whose decision the database has not seen. Raises
        UserError if a person has moved the branch or edited the files, whose work must not be lost.
        """
        for lock in self.path.glob(".git/**/*.lock"):
            lock.unlink()  # we hold the study's lock: a git that was killed left it
        branch = self.incumbent
        if branch != incumbent:
            parents = self._run("rev-list", "--parents", "-n", "1", branch).split()[1:]
            if parents[:1] != [incumbent] or not set(parents[1:]) & expected:
                raise UserError(
                    f"{self.path}: branch incumbent is at {branch[:12]}, the study's database says {incumbent[:12]}. "
                    f"Keep your commit on another branch, then run: git -C {self.path} reset --hard {incumbent[:12]}"
                )
        self._refuse_edits({branch, incumbent, *self._run("rev-list", "-n", "2", "--first-parent", branch).split()})
        # The files first: cut off in between, they are still those of a commit that is known here.
        self._show(incumbent)
        self._run("update-ref", BRANCH, incumbent)

    def _refuse_edits(self, commits: set[str]) -> None:
        for name in ("recipe.toml", "menu.toml"):
            file = self.path / name
            if file.exists() and file.read_text("utf-8", "replace") not in {self.read(c, name) for c in commits}:
                raise UserError(
                    f"{file} was edited by hand: a study changes it only through trials. To try values, use "
                    f"`autoresearch propose`; for another menu, `autoresearch init` a new study. "
                    f"To undo the edit: git -C {self.path} checkout incumbent -- {name}"
                )

    def _show(self, commit: str) -> None:
        self._run("symbolic-ref", "HEAD", BRANCH)
        self._run("read-tree", "--reset", "-u", commit)

    def _commit_tree(self, tree: str, parents: list[str], message: str, when: datetime) -> str:
        arguments = [part for parent in parents for part in ("-p", parent)]
        return self._run("commit-tree", tree, *arguments, "-F", "-", feed=message + "\n", when=when)

    def _run(
        self, command: str, *arguments: str, feed: str = "", when: datetime | None = None, raw: bool = False
    ) -> str:
        words = ["git", *(part for option in OPTIONS for part in ("-c", option)), command, *arguments]
        # Text goes in through a file, as bytes: never through a shell or an argument.
        with tempfile.TemporaryFile() as stream:
            stream.write(feed.encode("utf-8", "replace"))
            stream.seek(0)
            try:
                output = self.repo.git.execute(
                    words, istream=stream, env=_environment(self.path, when), strip_newline_in_stdout=not raw
                )
            except GitCommandError as error:
                raise UserError(f"git {command} failed in {self.path}: {str(error.stderr).strip()}") from error
        assert isinstance(output, str)
        return output
