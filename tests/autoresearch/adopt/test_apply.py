"""What a study found goes back to its script's repository: one commit on a branch, and nothing else is touched."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from scripts import SCRIPT, adopted, commit, git, repository
from studies import change, query, run_study

from autoresearch.adopt.apply import apply
from autoresearch.errors import UserError
from autoresearch.study.folder import StudyFolder

BRANCH = "autoresearch/one"
KEPT = change("lr", 0.004)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A script's repository and a study that has kept a better learning rate: made once, copied for each test."""
    place = tmp_path_factory.mktemp("night")
    folder = adopted(place / "home", repository(place / "own"))
    run_study(folder, [KEPT])
    assert query(folder, "SELECT incumbent FROM studies") == [(1,)]
    folder.store.close()
    return place


@pytest.fixture
def script(tmp_path: Path, night: Path) -> Path:
    shutil.copytree(night / "own", tmp_path / "own")
    return tmp_path / "own" / "train.py"


@pytest.fixture
def study(tmp_path: Path, night: Path, script: Path) -> StudyFolder:
    shutil.copytree(night / "home", tmp_path / "home")
    settings = tmp_path / "home" / "one" / "study.toml"
    settings.write_text(settings.read_text().replace(str(night / "own"), str(script.parent)))
    return StudyFolder(tmp_path / "home", "one")


def everything(folder: Path) -> dict[str, bytes | str]:
    """All that a person has: files, index, references, and what is checked out."""
    files: dict[str, bytes | str] = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    index, head = (folder / ".git" / "index").read_bytes(), (folder / ".git" / "HEAD").read_text()
    return files | {".index": index, ".head": head, ".refs": git(folder, "for-each-ref")}


def refused(study: StudyFolder, branch: str | None = None) -> str:
    """Why; and nothing has changed."""
    assert study.settings.trainer and study.settings.trainer.folder
    own = Path(study.settings.trainer.folder)
    before = everything(own)
    with pytest.raises(UserError) as told:
        apply(study, branch)
    assert everything(own) == before
    assert "\n" not in str(told.value)
    return str(told.value)


def test_the_best_recipe_becomes_one_commit_on_a_branch_and_nothing_else_changes(
    study: StudyFolder, script: Path
) -> None:
    own = script.parent
    script.write_text(SCRIPT + "# a person is at work\n")
    (own / "staged.txt").write_text("half done")
    git(own, "add", "staged.txt")
    before = everything(own)
    found = apply(study)
    assert found.new and found.branch == BRANCH
    assert git(own, "rev-parse", BRANCH).strip() == found.commit
    assert git(own, "rev-parse", f"{BRANCH}^") == git(own, "rev-parse", "main")
    assert git(own, "show", f"{BRANCH}:train.py") == SCRIPT.replace("LR = 1e-3", "LR = 0.004")
    assert git(own, "diff", "--name-only", "main", BRANCH).split() == ["train.py"]
    after = everything(own)
    refs = {kept[".refs"] for kept in (before, after)}
    assert {**before, ".refs": ""} == {**after, ".refs": ""} and len(refs) == 2


def test_the_message_tells_change_gain_interval_and_runs(study: StudyFolder, script: Path) -> None:
    apply(study)
    message = git(script.parent, "log", "-1", "--format=%B", BRANCH)
    assert message.startswith("train.py: LR 0.001 -> 0.004\n\nval_bpb: 2.8")
    assert " ± " in message and " runs); before: 2.9" in message and "better than the baseline by" in message
    assert message.rstrip().endswith("Autoresearch-Study: one\nAutoresearch-Trial: 1")
    assert git(script.parent, "log", "-1", "--format=%an %cn", BRANCH).strip() == "autoresearch autoresearch"


def test_applied_twice_it_is_there_already(study: StudyFolder) -> None:
    first = apply(study)
    again = apply(study)
    assert first.new and not again.new
    assert (again.commit, again.message) == (first.commit, first.message)


def test_a_later_find_goes_on_top_of_the_earlier_one(study: StudyFolder, script: Path) -> None:
    first = apply(study)
    run_study(study, [KEPT, change("beta2", 0.8125)])
    second = apply(study)
    assert git(script.parent, "rev-parse", f"{second.commit}^").strip() == first.commit
    assert "LR = 0.004" in git(script.parent, "show", f"{BRANCH}:train.py")
    assert "BETA2 = 0.8125" in git(script.parent, "show", f"{BRANCH}:train.py")


def test_a_branch_with_somebody_elses_commit_is_left_as_it_is(study: StudyFolder, script: Path) -> None:
    own = script.parent
    apply(study)
    git(own, "checkout", "--quiet", BRANCH)
    script.write_text(script.read_text() + "# mine\n")
    commit(own, "by hand")
    git(own, "checkout", "--quiet", "main")
    assert "somebody else's" in refused(study)
    assert apply(study, "better").branch == "better"


def test_a_branch_that_is_amended_is_somebody_elses(study: StudyFolder, script: Path) -> None:
    own = script.parent
    apply(study)
    git(own, "checkout", "--quiet", BRANCH)
    git(own, "commit", "--quiet", "--amend", "--no-edit", "--date=now")
    git(own, "checkout", "--quiet", "main")
    assert "somebody else's" in refused(study)


def test_a_branch_of_another_study_is_somebody_elses(study: StudyFolder, script: Path, tmp_path: Path) -> None:
    other = adopted(tmp_path / "home", script, "two")
    run_study(other, [change("lr", 0.003)])
    apply(other)
    assert "somebody else's" in refused(study, "autoresearch/two")


def test_a_branch_that_stands_where_the_study_began_is_gone_on_with(study: StudyFolder, script: Path) -> None:
    git(script.parent, "branch", "mine", "main")
    found = apply(study, "mine")
    assert git(script.parent, "rev-parse", "mine^") == git(script.parent, "rev-parse", "main")
    assert found.new


def test_what_is_checked_out_is_not_moved(study: StudyFolder, script: Path, tmp_path: Path) -> None:
    git(script.parent, "branch", "elsewhere")
    git(script.parent, "worktree", "add", "--quiet", str(tmp_path / "tree"), "elsewhere")
    assert "is checked out" in refused(study, "main")
    assert "is checked out" in refused(study, "elsewhere")


@pytest.mark.parametrize("branch", ["a..b", "a b", "-x", "@{-1}", "x.lock", "/", "a\nb", "autoresearch/one/"])
def test_a_name_that_git_does_not_take_is_refused(study: StudyFolder, branch: str) -> None:
    assert "no name for a branch" in refused(study, branch)


def test_a_branch_in_the_way_of_a_folder_is_refused(study: StudyFolder, script: Path) -> None:
    git(script.parent, "branch", "autoresearch", "main")
    assert "autoresearch" in refused(study)


def test_a_script_that_changed_elsewhere_is_built_upon_as_it_is_now(study: StudyFolder, script: Path) -> None:
    script.write_text("import os\n\n" + SCRIPT + "print(os.name)\n")
    head = commit(script.parent, "more")
    apply(study)
    assert git(script.parent, "rev-parse", f"{BRANCH}^").strip() == head
    assert git(script.parent, "show", f"{BRANCH}:train.py") == script.read_text().replace("LR = 1e-3", "LR = 0.004")


def test_other_files_may_change_and_the_commit_still_stands_where_the_study_began(
    study: StudyFolder, script: Path
) -> None:
    began = git(script.parent, "rev-parse", "main")
    (script.parent / "notes.txt").write_text("later")
    commit(script.parent, "notes")
    apply(study)
    assert git(script.parent, "rev-parse", f"{BRANCH}^") == began


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("BETA1 = 0.9", "BETA1 = 0.8", "BETA1 is 0.8 and was 0.9"),
        ("BETA1 = 0.9", "B1 = 0.9", "has no constant BETA1 any more"),
        ("BETA1 = 0.9", "BETA1 = (", "no Python"),
    ],
)
def test_a_script_with_other_constants_than_then_is_refused(
    study: StudyFolder, script: Path, before: str, after: str, said: str
) -> None:
    script.write_text(SCRIPT.replace(before, after))
    commit(script.parent, "other")
    assert said in refused(study)


def test_a_script_that_is_gone_from_the_commit_is_refused(study: StudyFolder, script: Path) -> None:
    git(script.parent, "rm", "--quiet", "--cached", "train.py")
    git(script.parent, "commit", "--quiet", "--message", "gone")
    assert "is not in commit" in refused(study)


def test_nothing_kept_is_nothing_to_write_back(tmp_path: Path, script: Path) -> None:
    assert "kept nothing yet" in refused(adopted(tmp_path / "other", script))


def test_a_script_in_no_repository_stays_where_the_study_has_it(tmp_path: Path) -> None:
    script = tmp_path / "loose" / "train.py"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    folder = adopted(tmp_path / "home", script)
    run_study(folder, [KEPT])
    with pytest.raises(UserError, match="is in no git repository") as told:
        apply(folder)
    best = Path(str(told.value).rpartition(" ")[2])
    assert best.read_text() == SCRIPT.replace("LR = 1e-3", "LR = 0.004")


def test_a_script_that_was_not_committed_then_is_built_upon_once_it_is(tmp_path: Path, script: Path) -> None:
    script.write_text(SCRIPT + "# not committed\n")
    folder = adopted(tmp_path / "home", script)
    run_study(folder, [KEPT])
    head = commit(script.parent, "now it is")
    apply(folder)
    assert git(script.parent, "rev-parse", f"{BRANCH}^").strip() == head


def test_hooks_modes_odd_names_and_a_shell_in_another_repository_play_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    script = repository(own, SCRIPT.replace("\n", "\r\n"), "a b/-größe [x]*.py")
    script.chmod(0o755)
    commit(own, "may be run")
    hook = own / ".git" / "hooks" / "reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    hook.chmod(0o755)
    folder = adopted(tmp_path / "home", script)
    run_study(folder, [KEPT])
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "nowhere" / "index"))
    apply(folder)
    monkeypatch.undo()
    assert not (tmp_path / "ran").exists()
    name = "a b/-größe [x]*.py"
    raw = git(own, "-c", "core.quotePath=false", "diff", "--raw", "main", BRANCH).split("\n")
    assert raw[0].startswith(":100755 100755 ") and raw[0].endswith(f"M\t{name}") and raw[1:] == [""]
    assert "LR = 0.004" in git(own, "show", f"{BRANCH}:{name}")
