"""What a person leaves in a study's repository, before a night or during it: nothing of it is lost, and it is named."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from autoresearch.config import PRESETS
from autoresearch.errors import UserError
from autoresearch.study.workspace import Workspace
from rails import load_menu, render_recipe

MENU_TEXT = (PRESETS / "cpu-nano" / "menu.toml").read_text("utf-8")
RECIPE = load_menu(MENU_TEXT).defaults()
FILES = {"recipe.toml": render_recipe(RECIPE), "menu.toml": MENU_TEXT}
CANDIDATE = render_recipe({**RECIPE, "lr": 0.002})
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Workspace.create(tmp_path_factory.mktemp("fresh") / "recipe", FILES, WHEN).path


@pytest.fixture
def workspace(tmp_path: Path, fresh: Path) -> Workspace:
    return Workspace(shutil.copytree(fresh, tmp_path / "recipe"))


def git(path: Path, *arguments: str) -> str:
    """What a person's own git does there."""
    command = ["git", "-C", str(path), "-c", "user.name=person", "-c", "user.email=person@example.org", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def kept_but_not_recorded(workspace: Workspace) -> tuple[str, str]:
    """A night that was killed after git took the keep and before the database did. (incumbent, candidate)"""
    start = workspace.incumbent
    candidate = workspace.commit(start, CANDIDATE, "trial 1", WHEN)
    workspace.move_incumbent(workspace.merge(start, candidate, "keep trial 1", WHEN))
    return start, candidate


def commit_by_hand(workspace: Workspace, text: str = CANDIDATE) -> str:
    (workspace.path / "recipe.toml").write_text(text)
    (workspace.path / "notes.txt").write_text("a person's notes\n")
    git(workspace.path, "add", "notes.txt")
    git(workspace.path, "commit", "--quiet", "-am", "I know better")
    return git(workspace.path, "rev-parse", "HEAD").strip()


@pytest.mark.parametrize("detached", [False, True], ids=["on the branch", "on none"])
@pytest.mark.parametrize("during", ["before the night", "during it"])
def test_a_persons_commit_is_kept_on_a_branch_and_named(workspace: Workspace, during: str, detached: bool) -> None:
    start, candidate = workspace.incumbent, workspace.commit(workspace.incumbent, CANDIDATE, "trial 1", WHEN)
    merge = workspace.merge(start, candidate, "keep trial 1", WHEN)
    if detached:
        git(workspace.path, "checkout", "--quiet", "--detach")
    theirs = commit_by_hand(workspace, render_recipe({**RECIPE, "lr": 0.003}))
    told = workspace.reconcile(start, set()) if during == "before the night" else workspace.move_incumbent(merge)
    assert told == [f"commit {theirs[:12]} was made by hand: it is kept on branch kept/{theirs[:12]}"]
    assert git(workspace.path, "rev-parse", f"kept/{theirs[:12]}").strip() == theirs
    standing = start if during == "before the night" else merge
    assert workspace.incumbent == standing
    assert (workspace.path / "recipe.toml").read_text() == workspace.read(standing, "recipe.toml")
    assert (workspace.path / "notes.txt").read_text() == "a person's notes\n"
    assert workspace.reconcile(standing, set()) == [], "told once"


def test_a_persons_merge_of_a_candidate_is_not_taken_for_a_crash(workspace: Workspace) -> None:
    start, candidate = kept_but_not_recorded(workspace)
    merge = workspace.incumbent
    assert len(workspace.reconcile(start, {"0" * 40})) == 1
    assert candidate in git(workspace.path, "log", "--format=%H", f"kept/{merge[:12]}")


def test_a_branch_set_back_by_hand_is_moved_on_without_a_word(workspace: Workspace) -> None:
    start, _ = kept_but_not_recorded(workspace)
    merge = workspace.incumbent
    git(workspace.path, "reset", "--quiet", "--hard", start)
    assert workspace.reconcile(merge, set()) == [] and workspace.incumbent == merge
    assert git(workspace.path, "branch", "--format=%(refname:short)").split() == ["incumbent"]


@pytest.mark.parametrize("staged", [False, True], ids=["lying", "staged"])
def test_a_persons_own_files_survive_every_move(workspace: Workspace, staged: bool) -> None:
    notes = workspace.path / "notes.txt"
    notes.write_text("a person's notes\n")
    if staged:
        git(workspace.path, "add", "notes.txt")
    start = workspace.incumbent
    candidate = workspace.commit(start, CANDIDATE, "trial 1", WHEN)
    workspace.move_incumbent(workspace.merge(start, candidate, "keep trial 1", WHEN))
    workspace.reconcile(start, {candidate})
    assert notes.read_text() == "a person's notes\n"
    assert git(workspace.path, "status", "--porcelain").split()[0] == ("A" if staged else "??")


def test_an_edit_made_during_the_night_is_not_overwritten(workspace: Workspace) -> None:
    start, edited = workspace.incumbent, FILES["recipe.toml"] + "# mine\n"
    candidate = workspace.commit(start, CANDIDATE, "trial 1", WHEN)
    (workspace.path / "recipe.toml").write_text(edited)
    merge = workspace.merge(start, candidate, "keep trial 1", WHEN)
    (told,) = workspace.move_incumbent(merge)
    assert told.endswith("recipe.toml was edited by hand: it is left as it is")
    assert workspace.incumbent == merge and (workspace.path / "recipe.toml").read_text() == edited
    with pytest.raises(UserError, match=r"recipe\.toml was edited by hand"):
        workspace.reconcile(merge, set())


@pytest.mark.parametrize("left", [b"", b"\0" * 300], ids=["empty", "zeros"])
def test_a_file_that_a_power_cut_left_empty_is_no_edit(workspace: Workspace, left: bytes) -> None:
    (workspace.path / "recipe.toml").write_bytes(left)
    assert workspace.reconcile(workspace.incumbent, set()) == []
    assert (workspace.path / "recipe.toml").read_text() == FILES["recipe.toml"]


@pytest.mark.parametrize("name", ["recipe.toml", "menu.toml"])
def test_a_file_edited_by_hand_is_refused_and_not_overwritten(workspace: Workspace, name: str) -> None:
    edited = FILES[name] + "# mine\n"
    (workspace.path / name).write_text(edited)
    with pytest.raises(UserError, match=rf"{name} was edited by hand.*git -C .* checkout incumbent -- {name}"):
        workspace.reconcile(workspace.incumbent, set())
    assert (workspace.path / name).read_text() == edited
    git(workspace.path, "checkout", "incumbent", "--", name)  # as the message says
    workspace.reconcile(workspace.incumbent, set())


def test_a_branch_that_a_person_looked_at_is_left_for_the_incumbent(workspace: Workspace) -> None:
    git(workspace.path, "checkout", "--quiet", "-b", "mine")
    (workspace.path / "notes.txt").write_text("a person's notes\n")
    workspace.reconcile(workspace.incumbent, set())
    assert git(workspace.path, "symbolic-ref", "HEAD").strip() == "refs/heads/incumbent"
    assert (workspace.path / "notes.txt").exists()
