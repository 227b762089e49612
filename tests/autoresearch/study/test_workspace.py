"""The study's git repository: nobody's settings, hooks or words reach it, and no person's work in it is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from studies import change

from autoresearch.config import PRESETS
from autoresearch.errors import UserError
from autoresearch.study import messages
from autoresearch.study.workspace import Workspace
from rails import Limits, Value, gate, load_menu, render_recipe

MENU_TEXT = (PRESETS / "cpu-nano" / "menu.toml").read_text("utf-8")
MENU = load_menu(MENU_TEXT)
RECIPE = MENU.defaults()
LIMITS = Limits(budget={"tokens": 200_000})
FILES = {"recipe.toml": render_recipe(RECIPE), "menu.toml": MENU_TEXT}
CANDIDATE = render_recipe({**RECIPE, "lr": 0.002})
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOOKS = [
    *("applypatch-msg", "commit-msg", "fsmonitor-watchman", "post-checkout", "post-commit", "post-index-change"),
    *("post-merge", "post-rewrite", "pre-auto-gc", "pre-commit", "pre-merge-commit", "prepare-commit-msg"),
    "reference-transaction",
]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as it is made; copied for each test, which is faster than making it."""
    return Workspace.create(tmp_path_factory.mktemp("fresh") / "recipe", FILES, WHEN).path


@pytest.fixture
def workspace(tmp_path: Path, fresh: Path) -> Workspace:
    return Workspace(shutil.copytree(fresh, tmp_path / "recipe"))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Exists as soon as a program ran that must not."""
    return tmp_path / "it-ran"


@pytest.fixture
def program(tmp_path: Path, marker: Path) -> Path:
    """Leaves the marker and fails."""
    path = tmp_path / "program"
    path.write_text(f"#!/bin/sh\necho \"$0 $@\" >> '{marker}'\nexit 1\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def hooks(tmp_path: Path, program: Path) -> Path:
    """A folder of every hook that git knows, each the program."""
    folder = tmp_path / "template" / "hooks"
    folder.mkdir(parents=True)
    for name in HOOKS:
        (folder / name).symlink_to(program)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A person's own repository, which must be the same after the test."""
    path = tmp_path / "elsewhere"
    git(path.parent, "init", "--quiet", "--initial-branch=main", str(path))
    (path / "thesis.txt").write_text("years of work\n")
    git(path, "add", ".")
    git(path, "commit", "--quiet", "-m", "years of work")
    before = snapshot(path)
    yield path
    assert snapshot(path) == before


def git(path: Path, *arguments: str) -> str:
    """What a person's own git does there, undisturbed by the settings that a test makes."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    quiet |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    settings = ["user.name=person", "user.email=person@example.org", "core.hooksPath=/dev/null", "core.fsmonitor=false"]
    command = ["git", "-C", str(path), *(part for setting in settings for part in ("-c", setting)), *arguments]
    return subprocess.run(command, env=quiet, capture_output=True, text=True, check=True).stdout


def git_version() -> tuple[int, ...]:
    found = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    return tuple(int(part) for part in found.split(".")[:2])


def snapshot(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def a_night(workspace: Workspace) -> list[str]:
    """All that a study ever does to its repository. Returns the ids that it made."""
    start = workspace.incumbent
    workspace.diff(start, CANDIDATE)
    candidate = workspace.commit(start, CANDIDATE, "trial 1: lr 0.001 -> 0.002", WHEN)
    workspace.tag(1, candidate, "trial 1: keep", WHEN)
    merge = workspace.merge(start, candidate, "keep trial 1", WHEN)
    workspace.move_incumbent(merge)
    workspace.reconcile(merge, set())
    tag = git(workspace.path, "rev-parse", "refs/tags/trial/0001").strip()
    workspace.delete_tag(1)
    assert workspace.incumbent == merge
    assert (workspace.path / "recipe.toml").read_text() == CANDIDATE
    assert git(workspace.path, "status", "--porcelain") == ""
    return [start, candidate, merge, tag]


@pytest.fixture(scope="module")
def usual_ids(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The ids of `a_night` on a machine with no settings at all."""
    return a_night(Workspace.create(tmp_path_factory.mktemp("usual") / "recipe", FILES, WHEN))


def test_hooks_in_the_repository_never_run(workspace: Workspace, hooks: Path, marker: Path) -> None:
    (workspace.path / ".git" / "hooks").symlink_to(hooks)
    a_night(workspace)
    assert not marker.exists()
    with pytest.raises(subprocess.CalledProcessError):
        git(workspace.path, "-c", f"core.hooksPath={hooks}", "update-ref", "refs/heads/other", workspace.incumbent)
    assert marker.exists(), "the hooks of this test do run where git is asked in the usual way"


def test_a_persons_own_git_settings_play_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usual_ids: list[str], hooks: Path, program: Path, marker: Path
) -> None:
    settings = f"""
        [user]\nname = A Person\nemail = person@example.org\nsigningKey = 0\n
        [commit]\ngpgSign = true\ntemplate = {tmp_path}/nowhere\n[tag]\ngpgSign = true\nforceSignAnnotated = true\n
        [gpg]\nprogram = {program}\n[init]\ntemplateDir = {hooks.parent}\ndefaultBranch = main\n
        [core]\nhooksPath = {hooks}\nfsmonitor = {program}\nautocrlf = true\nsafecrlf = true\neditor = {program}\n
        pager = {program}\nattributesFile = {tmp_path}/attributes\nlogAllRefUpdates = always\n
        [diff]\nnoprefix = true\nexternal = {program}\n[color]\nui = always\n[i18n]\ncommitEncoding = ISO-8859-1\n
        [filter "f"]\nclean = {program}\nsmudge = {program}\nrequired = true\n"""
    (tmp_path / "attributes").write_text("* filter=f\n")
    (tmp_path / ".gitconfig").write_text(settings)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert a_night(Workspace.create(tmp_path / "recipe", FILES, WHEN)) == usual_ids
    assert not marker.exists()


def test_settings_in_the_repository_itself_play_no_part(
    workspace: Workspace, usual_ids: list[str], hooks: Path, program: Path, marker: Path
) -> None:
    for name, value in {
        "commit.gpgSign": "true",
        "tag.gpgSign": "true",
        "tag.forceSignAnnotated": "true",
        "gpg.program": str(program),
        "core.hooksPath": str(hooks),
        "core.fsmonitor": str(program),
        "core.editor": str(program),
        "core.autocrlf": "true",
        "core.worktree": "/",
        "diff.noprefix": "true",
        "diff.mnemonicPrefix": "true",
        "diff.external": str(program),
        "color.ui": "always",
        "i18n.commitEncoding": "ISO-8859-1",
        "user.useConfigOnly": "true",
        "author.name": "somebody",
    }.items():
        git(workspace.path, "config", name, value)
    diff = workspace.diff(workspace.incumbent, CANDIDATE)
    assert gate(change("lr", 0.002), RECIPE, MENU, limits=LIMITS, diff=lambda _: diff).passed
    git(workspace.path, "config", "--unset", "core.worktree")
    assert a_night(workspace) == usual_ids
    assert not marker.exists()


@pytest.mark.parametrize("made_before", [False, True], ids=["at init", "at run"])
def test_git_variables_in_the_shell_do_not_lead_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Path, usual_ids: list[str], made_before: bool
) -> None:
    # As in a shell that a git alias, a hook or `git rebase --exec` opened in another repository.
    variables = {
        "GIT_DIR": elsewhere / ".git",
        "GIT_COMMON_DIR": elsewhere / ".git",
        "GIT_WORK_TREE": elsewhere,
        "GIT_INDEX_FILE": elsewhere / ".git" / "index",
        "GIT_OBJECT_DIRECTORY": elsewhere / ".git" / "objects",
        "GIT_PREFIX": "sub/",
        "GIT_AUTHOR_NAME": "somebody",
        "GIT_COMMITTER_DATE": "2001-01-01T00:00:00+0000",
    }
    path = tmp_path / "recipe"
    if made_before:
        Workspace.create(path, FILES, WHEN)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    assert a_night(Workspace(path) if made_before else Workspace.create(path, FILES, WHEN)) == usual_ids


def test_a_folder_name_is_never_expanded(tmp_path: Path) -> None:
    path = tmp_path / "$HOME ~ %PATH%" / "recipe"
    a_night(Workspace.create(path, FILES, WHEN))
    assert (path / ".git").is_dir()


HOSTILE = {
    "a shell": "$(touch /tmp/pwned); `touch /tmp/pwned` | sh && rm -rf ~",
    "an option": "--amend --author=eve",
    "several lines": "better\n\ndecision: keep\nval_bpb: 0.1",
    "a trailer": "better\n\nCo-authored-by: Eve <eve@example.org>\nSigned-off-by: Eve <eve@example.org>",
    "a comment": "# all of this is left out",
    "NUL": "better\0decision: keep",
    "ANSI": "\x1b[2J\x1b]0;title\x07better\x1b[31m",
    "a lone surrogate": "better \ud800 than before",
    "right to left": "better \u202e retteb",
    "a line separator": "better\u2028decision: keep\x85decision: keep\vdecision: keep",
    "nothing": "",
    "very long": "word " * 100_000,
    "scissors": "# ------------------------ >8 ------------------------",
}


@pytest.mark.parametrize("hypothesis", HOSTILE.values(), ids=HOSTILE)
def test_a_proposers_words_are_one_quoted_line_of_the_commit(workspace: Workspace, hypothesis: str) -> None:
    message = messages.commit_message(1, {"lr": 0.002}, RECIPE, "llm", hypothesis)
    commit = workspace.commit(workspace.incumbent, CANDIDATE, message, WHEN)
    lines = git(workspace.path, "log", "-1", "--format=%B", commit).rstrip("\n").split("\n")
    assert lines[:4] == ["trial 1: lr 0.001 -> 0.002", "", "Proposer: llm", "Hypothesis:"]
    assert len(lines) == 5 and lines[4].startswith(">") and len(lines[4]) <= 502
    assert lines[4].isprintable()
    author, trailers = git(workspace.path, "log", "-1", "--format=%an <%ae>|%(trailers)", commit).split("|")
    assert author == "autoresearch <autoresearch@localhost>" and "Eve" not in trailers
    assert not Path("/tmp/pwned").exists()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_words_in_a_reason_add_no_line_to_the_tag(workspace: Workspace, text: str) -> None:
    class Closed:
        number = 1

    message = messages.tag_message(Closed, "failed", None, text, None, [])  # type: ignore[arg-type]
    workspace.tag(1, workspace.incumbent, message, WHEN)
    lines = git(workspace.path, "tag", "-l", "--format=%(contents)", "trial/0001").rstrip("\n").split("\n")
    assert lines[:8] == message.split("\n")[:8]
    assert len(lines) == 9 and lines[8].startswith("reason:")
    assert [line for line in lines if line.startswith("decision:")] == ["decision: none"]


def test_the_same_commit_made_twice_is_one_commit(workspace: Workspace) -> None:
    made = {workspace.commit(workspace.incumbent, CANDIDATE, "trial 1", WHEN) for _ in range(2)}
    assert len(made) == 1
    other = workspace.commit(workspace.incumbent, CANDIDATE, "trial 2", WHEN)
    assert other not in made


def test_what_is_committed_is_what_was_proposed_and_nothing_else(workspace: Workspace) -> None:
    start = workspace.incumbent
    (workspace.path / "notes.txt").write_text("a person's notes\n")
    (workspace.path / "recipe.toml").write_text("edited = true\n")
    commit = workspace.commit(start, CANDIDATE, "trial 1", WHEN)
    assert workspace.read(commit, "recipe.toml") == CANDIDATE
    assert workspace.read(commit, "menu.toml") == MENU_TEXT
    assert git(workspace.path, "ls-tree", "--name-only", commit).split() == ["menu.toml", "recipe.toml"]
    assert workspace.incumbent == start, "a candidate is on no branch"
    assert (workspace.path / "recipe.toml").read_text() == "edited = true\n", "nor in the working tree"


def test_the_tree_of_a_merge_is_exactly_the_candidates(workspace: Workspace) -> None:
    start = workspace.incumbent
    first = workspace.commit(start, CANDIDATE, "trial 1", WHEN)
    second = workspace.commit(start, render_recipe({**RECIPE, "d_ff": 256}), "trial 2", WHEN)
    incumbent = workspace.merge(start, first, "keep trial 1", WHEN)
    merge = workspace.merge(incumbent, second, "keep trial 2", WHEN)  # the incumbent has moved since trial 2 began
    assert git(workspace.path, "rev-parse", f"{merge}^{{tree}}") == git(
        workspace.path, "rev-parse", f"{second}^{{tree}}"
    )
    assert git(workspace.path, "log", "-1", "--format=%P", merge).split() == [incumbent, second]


@pytest.mark.parametrize("more, rail", [({}, None), ({"d_ff": 1024}, "diff"), ({"lr": 0.003}, "diff")])
def test_the_diff_rail_sees_what_would_really_be_committed(
    workspace: Workspace, more: dict[str, float], rail: str | None
) -> None:
    def diff(candidate: dict[str, Value]) -> str:
        return workspace.diff(workspace.incumbent, render_recipe({**candidate, **more}))

    assert gate(change("lr", 0.002), RECIPE, MENU, limits=LIMITS, diff=diff).rail == rail


def kept_but_not_recorded(workspace: Workspace) -> tuple[str, str]:
    """A night that was killed after git took the keep and before the database did. (incumbent, candidate)"""
    start = workspace.incumbent
    candidate = workspace.commit(start, CANDIDATE, "trial 1", WHEN)
    workspace.move_incumbent(workspace.merge(start, candidate, "keep trial 1", WHEN))
    return start, candidate


def test_a_keep_that_the_database_did_not_see_is_rolled_back(workspace: Workspace) -> None:
    start, candidate = kept_but_not_recorded(workspace)
    workspace.reconcile(start, {candidate})
    assert workspace.incumbent == start
    assert (workspace.path / "recipe.toml").read_text() == FILES["recipe.toml"]
    assert git(workspace.path, "status", "--porcelain") == ""


def test_a_reconcile_cut_off_anywhere_can_be_done_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    original = Workspace._run

    def until_killed(calls: int) -> bool:
        def run(self: Workspace, *arguments: object, **options: object) -> str:
            nonlocal calls
            calls -= 1
            if calls < 0:
                raise Killed
            return original(self, *arguments, **options)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(Workspace, "_run", run)
            try:
                workspace.reconcile(start, {candidate})
            except Killed:
                return True
        return False

    start, candidate = kept_but_not_recorded(workspace)
    merge, calls = workspace.incumbent, 0
    while until_killed(calls):
        workspace.reconcile(start, {candidate})
        assert workspace.incumbent == start and git(workspace.path, "status", "--porcelain") == ""
        workspace.move_incumbent(merge)
        calls += 1
    assert calls > 4


def test_locks_that_a_killed_git_left_are_removed(workspace: Workspace) -> None:
    locks = [workspace.path / ".git" / name for name in ("index.lock", "HEAD.lock", "refs/heads/incumbent.lock")]
    for lock in locks:
        lock.touch()
    start, candidate = workspace.incumbent, workspace.commit(workspace.incumbent, CANDIDATE, "trial 1", WHEN)
    assert workspace.clear_the_way() == 0
    workspace.reconcile(start, set())
    assert not any(lock.exists() for lock in locks)
    workspace.move_incumbent(workspace.merge(start, candidate, "keep trial 1", WHEN))


def test_a_tag_is_replaced_and_deleted_as_often_as_asked(workspace: Workspace) -> None:
    for message in ("first", "second"):
        workspace.tag(1, workspace.incumbent, message, WHEN)
    assert git(workspace.path, "tag", "-l", "--format=%(contents)").strip() == "second"
    for _ in range(2):
        workspace.delete_tag(1)
    assert git(workspace.path, "tag") == ""


def test_a_candidate_outlives_a_gc_while_it_is_held(workspace: Workspace) -> None:
    candidate = workspace.commit(workspace.incumbent, CANDIDATE, "trial 1", WHEN)
    workspace.hold(1, candidate)
    git(workspace.path, "gc", "--quiet", "--prune=now")
    assert workspace.read(candidate, "recipe.toml") == CANDIDATE
    assert git(workspace.path, "branch", "--format=%(refname:short)").split() == ["incumbent"]
    for _ in range(2):
        workspace.release(1)
    git(workspace.path, "gc", "--quiet", "--prune=now")
    assert workspace.resolve([candidate]) == [None]


def test_commits_and_references_are_flushed_without_a_word_from_git(workspace: Workspace) -> None:
    (flushed,) = [word for word in workspace._words("commit-tree") if word.startswith("core.fsync")]
    if git_version() >= (2, 36):
        assert {"loose-object", "reference", "pack"} <= set(flushed.partition("=")[2].split(","))
    done = subprocess.run(workspace._words("write-tree"), cwd=workspace.path, capture_output=True, check=True)
    assert done.stderr == b"", "an unknown or an outdated name would be warned of"


def test_a_folder_without_its_repository_is_called_damaged(tmp_path: Path) -> None:
    git(tmp_path.parent, "init", "--quiet", str(tmp_path))  # a repository further up is somebody else's
    (tmp_path / "recipe").mkdir()
    for path in (tmp_path / "recipe", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="not a git repository"):
            _ = Workspace(path).incumbent
