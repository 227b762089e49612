"""Whatever a power cut, a `git gc` or a person leaves of a study's repository, the next night goes on from there."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import command_line
import pytest
from studies import BAD, GOOD, Clock, assert_git_and_database_agree, change, git, make_study, query, run_study

from autoresearch.errors import UserError
from autoresearch.study import git_objects
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import Observer
from autoresearch.study.restore import put_right
from autoresearch.study.workspace import Workspace
from autoresearch.trial import Run, Trial
from autoresearch.workers.local import LocalLauncher
from trainer.protocol import RunRequest

KEPT, DISCARDED, OPEN = 1, 2, 3
ANSWERS = [change("lr", GOOD, 'so "it" is: \u00fc \u96ea'), change("lr", BAD)]
IN_FLIGHT = change("d_ff", 256)
SHORT: dict[str, Any] = {"decision__baseline_runs": 2, "decision__reference_runs": 3, "decision__max_runs": 3}
DAMAGES: dict[str, Callable[[Path], object]] = {
    "emptied": lambda file: file.write_bytes(b""),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "removed": lambda file: file.unlink(),
}
damages = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
# What of the last trial and of the last merge a power cut can take.
OBJECTS = [
    *(f"refs/trials/{OPEN:04d}{part}" for part in ("", "^{tree}", ":recipe.toml", ":menu.toml")),
    *(f"incumbent{part}" for part in ("", "^{tree}", ":recipe.toml", "^2", "^")),
    f"tags/trial/{KEPT:04d}",
]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose study has kept a trial, discarded one, and was cut off in the middle of the next."""
    home = tmp_path_factory.mktemp("night")
    folder = make_study(home, clock=Clock(), **SHORT)
    run_study(folder, ANSWERS, workers=1)
    folder.store.close()
    if (child := os.fork()) == 0:
        usual = LocalLauncher.submit

        def submit(self: LocalLauncher, request: RunRequest, timeout_seconds: float) -> None:
            if request.run_id.startswith(f"{OPEN:04d}"):
                os.kill(os.getpid(), signal.SIGKILL)
            usual(self, request, timeout_seconds)

        try:
            LocalLauncher.submit = submit  # type: ignore[method-assign]
            run_study(StudyFolder(home, "one"), [*ANSWERS, IN_FLIGHT], workers=1)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    return home


@pytest.fixture
def folder(tmp_path: Path, night: Path) -> StudyFolder:
    found = StudyFolder(shutil.copytree(night, tmp_path / "home"), "one")
    states = [("complete", None), ("complete", "keep"), ("complete", "discard"), ("running", None)]
    assert query(found, "SELECT state, decision FROM trials ORDER BY number") == states
    return found


def inside(folder: StudyFolder) -> Path:
    return folder.path / "recipe" / ".git"


def loose(folder: StudyFolder, id: str) -> Path:
    return inside(folder) / "objects" / id[:2] / id[2:]


def story(folder: StudyFolder) -> str:
    """Every reference and every object that hangs on one; git has looked at each of them."""
    git(folder, "fsck", "--full", "--strict", "--no-dangling")
    return git(folder, "show-ref") + "".join(sorted(git(folder, "rev-list", "--objects", "--all")))


def assert_mended(folder: StudyFolder, before: str, *told: str) -> None:
    found = put_right(folder)
    assert len(found) == len(told) and all(part in text for part, text in zip(told, found, strict=True)), found
    assert story(folder) == before
    assert_git_and_database_agree(folder)


@damages
def test_a_lost_object_is_made_again_to_the_same_id(folder: StudyFolder, damage: Callable[[Path], object]) -> None:
    before = story(folder)
    for name in OBJECTS:
        file = loose(folder, git(folder, "rev-parse", name).strip())
        file.chmod(0o644)
        damage(file)
        assert put_right(folder) == ["git had lost 1 object: made again from the database"], name
        assert story(folder) == before, name
    assert put_right(folder) == [], "nothing is left to mend"
    assert_git_and_database_agree(folder)


@damages
def test_the_night_goes_on_after_every_object_was_lost(folder: StudyFolder, damage: Callable[[Path], object]) -> None:
    ids = query(folder, 'SELECT "commit", merge_commit FROM trials ORDER BY number')
    for _, file in list(git_objects.loose_files(inside(folder) / "objects")):
        file.chmod(0o644)
        damage(file)
    run_study(folder, workers=1)
    assert query(folder, 'SELECT "commit", merge_commit FROM trials ORDER BY number') == ids
    assert query(folder, f"SELECT state FROM trials WHERE number = {OPEN}") == [("complete",)]
    assert_git_and_database_agree(folder)
    ((told,),) = query(folder, "SELECT message FROM events WHERE kind = 'git'")
    assert told.startswith("git had lost ") and told.endswith("made again from the database")


@damages
def test_an_object_that_the_database_does_not_know_yet_is_not_in_the_way(
    folder: StudyFolder, damage: Callable[[Path], object]
) -> None:
    """As when the power fails between the commit of a candidate and the database's word of it."""
    recipe = query(folder, f"SELECT recipe FROM trials WHERE number = {OPEN}")[0][0]
    commit = query(folder, f'SELECT "commit" FROM trials WHERE number = {OPEN}')[0][0]
    folder.store.db.execute(
        f"UPDATE trials SET state = 'proposed', \"commit\" = NULL, recipe = '{{}}', recipe_key = NULL, "
        f"changes = '{{}}', hypothesis = '' WHERE number = {OPEN}"
    )
    folder.store.db.execute(f"DELETE FROM runs WHERE trial = {OPEN}")
    folder.store.db.conn.commit()
    files = [
        loose(folder, git(folder, "rev-parse", f"{commit}{name}").strip()) for name in ("", "^{tree}", ":recipe.toml")
    ]
    for file in files:
        file.chmod(0o644)
        damage(file)
    run_study(folder, workers=1)
    found = query(folder, f'SELECT recipe, "commit", state FROM trials WHERE number = {OPEN}')
    assert found == [(recipe, commit, "complete")]
    assert_git_and_database_agree(folder)


REFERENCES = ["heads/incumbent", f"tags/trial/{KEPT:04d}", f"trials/{OPEN:04d}"]


@damages
def test_lost_references_are_set_again(folder: StudyFolder, damage: Callable[[Path], object]) -> None:
    before = story(folder)
    for name in REFERENCES:
        damage(inside(folder) / "refs" / name)
    assert_mended(folder, before, "git had lost 2 references")  # that of the open trial stands in no history


GARBLED = {"emptied": b"", "zeros": bytes(64), "nonsense": b"\xff[what\n\n"}
garbled = pytest.mark.parametrize("content", GARBLED.values(), ids=GARBLED)


@garbled
def test_a_garbled_file_of_git_is_not_in_the_way(folder: StudyFolder, content: bytes) -> None:
    before = story(folder)
    for name in ("index", "HEAD", "config", "packed-refs", "logs/HEAD"):
        file = inside(folder) / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        assert put_right(folder) == [], name
    assert story(folder) == before
    assert_git_and_database_agree(folder)


def packed(folder: StudyFolder) -> str:
    git(folder, "gc", "--quiet", "--prune=now")
    assert not list(git_objects.loose_files(inside(folder) / "objects"))
    return story(folder)


def test_a_gc_during_a_trial_takes_nothing_away(folder: StudyFolder) -> None:
    before = story(folder)
    assert packed(folder) == before
    assert_mended(folder, before)
    run_study(folder, workers=1)
    assert_git_and_database_agree(folder)


@damages
@pytest.mark.parametrize("suffix", ["pack", "idx"])
def test_a_damaged_pack_is_made_up_for(folder: StudyFolder, suffix: str, damage: Callable[[Path], object]) -> None:
    packed(folder)
    (pack,) = (inside(folder) / "objects" / "pack").glob(f"*.{suffix}")
    pack.chmod(0o644)
    damage(pack)
    (told,) = put_right(folder)
    assert told.startswith("git had lost ") and "object" in told
    assert_git_and_database_agree(folder)


@garbled
def test_garbled_packed_references_are_read_as_far_as_they_can_be(folder: StudyFolder, content: bytes) -> None:
    git(folder, "branch", "mine", "incumbent")
    before, file = packed(folder), inside(folder) / "packed-refs"
    file.write_bytes(file.read_bytes() + content)
    assert_mended(folder, before)
    file.write_bytes(content)
    put_right(folder)
    assert_git_and_database_agree(folder)


@pytest.mark.parametrize("name", ["recipe", "recipe/.git", "recipe/.git/refs", "recipe/.git/objects"])
def test_a_whole_folder_that_is_gone_is_made_again(folder: StudyFolder, name: str) -> None:
    before = story(folder)
    shutil.rmtree(folder.path / name)
    assert_mended(folder, before, "git had lost ")


def test_stale_locks_are_not_in_the_way(folder: StudyFolder) -> None:
    for name in (
        "index.lock",
        "HEAD.lock",
        "config.lock",
        "packed-refs.lock",
        *(f"refs/{name}.lock" for name in REFERENCES),
    ):
        (inside(folder) / name).touch()
    assert_mended(folder, story(folder))
    assert not list(inside(folder).rglob("*.lock"))


def test_mending_that_is_cut_off_anywhere_can_be_done_again(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    before, usual = story(folder), Workspace._run
    for name in REFERENCES:
        (inside(folder) / "refs" / name).write_bytes(b"")
    for _, file in list(git_objects.loose_files(inside(folder) / "objects")):
        file.unlink()
    step = 0
    while True:
        home = shutil.copytree(folder.path.parent, tmp_path / f"cut-{step}")
        left, cut = step, StudyFolder(home, "one")

        def run(self: Workspace, *arguments: str, _usual: Callable[..., str] = usual, **options: object) -> str:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return _usual(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Workspace, "_run", run)
            try:
                put_right(cut)
                break
            except Killed:
                pass
        put_right(cut)
        assert story(cut) == before
        step += 5
    assert step > 9


class Person(Observer):
    """Commits notes and a recipe of their own on the incumbent while the first candidate is trained."""

    def __init__(self, folder: StudyFolder) -> None:
        self.folder, self.commit = folder, ""

    def run_started(self, run: Run, trial: Trial) -> None:
        if run.trial == KEPT and not self.commit:
            files = self.folder.path / "recipe"
            (files / "notes.txt").write_text("mine\n")
            (files / "recipe.toml").write_text("lr = 1.0\n")
            git(self.folder, "add", ".")
            git(self.folder, "-c", "user.name=p", "-c", "user.email=p@example.org", "commit", "-qm", "I know better")
            self.commit = git(self.folder, "rev-parse", "HEAD").strip()


def test_a_commit_made_by_hand_during_a_night_is_kept_and_named(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **SHORT)
    person = Person(folder)
    run_study(folder, ANSWERS, workers=1, observer=person)
    ((merge,),) = query(folder, f"SELECT merge_commit FROM trials WHERE number = {KEPT}")
    branch = f"kept/{person.commit[:12]}"
    assert git(folder, "rev-parse", "incumbent", branch).split() == [merge, person.commit]
    assert query(folder, "SELECT message FROM events WHERE kind = 'git'") == [
        (f"commit {person.commit[:12]} was made by hand: it is kept on branch {branch}",)
    ]
    assert (folder.path / "recipe" / "notes.txt").read_text() == "mine\n"
    assert (folder.path / "recipe" / "recipe.toml").read_text() == git(folder, "show", "incumbent:recipe.toml")


def test_a_commit_in_the_words_of_another_version_is_named_when_it_is_lost(folder: StudyFolder) -> None:
    lost = git(folder, "rev-parse", f"trial/{DISCARDED:04d}^{{commit}}").strip()
    folder.store.db.execute(f"UPDATE trials SET hypothesis = 'in other words' WHERE number IN ({DISCARDED}, {OPEN})")
    folder.store.db.conn.commit()
    assert put_right(folder) == [], "as long as git has it, nobody asks for its words"
    loose(folder, lost).unlink()
    (told,) = put_right(folder)
    assert told.startswith("git has lost 1 commit that another version of autoresearch made")
    run_study(folder, workers=1)


def test_a_needed_commit_that_cannot_be_made_again_ends_in_one_line(folder: StudyFolder) -> None:
    lost = git(folder, "rev-parse", f"refs/trials/{OPEN:04d}").strip()
    folder.store.db.execute(f"UPDATE trials SET hypothesis = 'in other words' WHERE number = {OPEN}")
    folder.store.db.conn.commit()
    loose(folder, lost).unlink()
    with pytest.raises(UserError, match=rf"git has lost commit {lost[:12]}.*restore that folder"):
        put_right(folder)


@pytest.mark.parametrize("kind", ["sha1", "sha256"])
def test_objects_have_the_ids_that_git_gives_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("GIT_DEFAULT_HASH", kind)
    when = datetime(2026, 11, 21, 3, 4, 5, tzinfo=UTC)
    texts = {"menu.toml": "# \u00fc\n", "recipe.toml": "lr = 0.001\n"}
    workspace = Workspace.create(tmp_path / "recipe", texts, when)
    blobs = {name: git_objects.blob(text, kind).id for name, text in texts.items()}
    made = git_objects.commit(git_objects.tree(blobs, kind).id, [], "baseline: the recipe as it stands", when, kind)
    assert made.id == workspace.incumbent
    workspace.tag(7, made.id, "trial 7: keep \n\nreason: \u96ea ", when)
    tag = git_objects.tag("trial/0007", made.id, "trial 7: keep \n\nreason: \u96ea ", when, kind)
    assert workspace.references("refs/tags") == {"refs/tags/trial/0007": tag.id}
    assert workspace.missing([made, tag]) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["trials"],
        ["show", "1"],
        ["show", "3"],
        ["report"],
        ["inspect"],
        ["plan"],
        ["export", "--format", "jsonl"],
    ],
    ids=" ".join,
)
def test_views_and_export_need_no_git(
    folder: StudyFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.setenv("AUTORESEARCH_HOME", str(folder.path.parent))
    monkeypatch.chdir(folder.path)
    monkeypatch.setenv("TERM", "dumb")
    name, *rest = arguments
    whole = command_line.run(monkeypatch, capsys, name, "one", *rest)
    shutil.rmtree(folder.path / "recipe")
    without = command_line.run(monkeypatch, capsys, name, "one", *rest)
    assert whole.code == 0 and whole.out and without == whole
