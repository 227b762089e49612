"""The menu that a study began with is the one it has, whatever becomes of the files and of git."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from studies import BAD, git, make_study, query, run_study

from autoresearch.errors import UserError
from autoresearch.study.folder import StudyFolder
from autoresearch.study.restore import put_right

CHANGES = [("lr", BAD), ("d_ff", 256), ("weight_decay", 0.05)]


def swap_menu(folder: StudyFolder) -> str:
    """A person commits a menu that allows more."""
    menu = folder.path / "recipe" / "menu.toml"
    menu.write_text(menu.read_text().replace("high = 3e-2", "high = 1e9"))
    git(folder, "-c", "user.name=p", "-c", "user.email=p@example.org", "commit", "-qam", "a wider menu")
    return git(folder, "rev-parse", "HEAD").strip()


def test_a_menu_swapped_in_git_is_refused(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    commit = swap_menu(folder)
    with sqlite3.connect(folder.path / "study.db") as database:
        database.execute("UPDATE studies SET incumbent_commit = ?", [commit])
    with pytest.raises(UserError, match="not the one this study began with"):
        put_right(StudyFolder(tmp_path, "one"))


def test_a_menu_swapped_in_the_folder_changes_nothing_that_the_rails_allow(tmp_path: Path) -> None:
    swap_menu(make_study(tmp_path))
    assert StudyFolder(tmp_path, "one").menu.knobs["lr"].high == 3e-2


def test_a_database_with_another_menu_is_refused(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    folder.store.keep_menu(folder.menu_text + "\n# wider\n")
    with pytest.raises(UserError, match="not the one this study began with"):
        StudyFolder(tmp_path, "one")


@pytest.mark.parametrize("git_is_gone", [False, True], ids=["from git", "from the preset"])
def test_a_study_from_before_its_menu_was_kept_gets_it(tmp_path: Path, git_is_gone: bool) -> None:
    folder = make_study(tmp_path)
    folder.store.db.execute("UPDATE studies SET menu = NULL")
    folder.store.db.conn.commit()
    if git_is_gone:
        (folder.path / "recipe" / ".git").rename(tmp_path / "lost")
    assert StudyFolder(tmp_path, "one").menu_text == folder.menu_text
    assert query(folder, "SELECT menu FROM studies") == [(folder.menu_text,)]


def test_a_menu_that_nobody_has_any_more_is_named(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    folder.store.db.execute("UPDATE studies SET menu = NULL, menu_sha256 = '0'")
    folder.store.db.conn.commit()
    with pytest.raises(UserError, match=r"recipe: menu\.toml .*restore the folder"):
        StudyFolder(tmp_path, "one")


def test_how_many_knobs_a_proposal_may_change_is_for_study_toml_to_say(tmp_path: Path) -> None:
    folder = make_study(tmp_path, proposer__max_changes=2)
    assert folder.menu.max_changes == 2 and folder.menu.knobs == StudyFolder(tmp_path, "one").menu.knobs
    three, two = ({"changes": dict(changes), "reason": "because"} for changes in (CHANGES, CHANGES[:2]))
    run_study(folder, [json.dumps(three), json.dumps(two)], workers=1)
    assert [(trial.state, trial.rail) for trial in folder.store.trials()[1:]] == [
        ("blocked", "schema"),
        ("complete", None),
    ]
    settings = folder.path / "study.toml"
    settings.write_text(settings.read_text().replace("max_changes = 2", "max_changes = 4"))
    assert folder.reread_settings() == ["proposer"] and folder.menu.max_changes == 4
    settings.write_text(settings.read_text().replace("max_changes = 4\n", ""))
    assert folder.reread_settings() == ["proposer"] and folder.menu.max_changes == 13
