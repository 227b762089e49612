"""A study on disk: made whole or not at all, opened only if sound, and run by one process at a time."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import pytest
from studies import BAD, GOOD, MACHINE, assert_git_and_database_agree, change, git, make_study, query, run_study

from autoresearch.config import PRESETS
from autoresearch.errors import StudyBusy, UserError
from autoresearch.study import folder as folder_module
from autoresearch.study.folder import (
    StudyFolder,
    continue_study,
    create_study,
    home,
    study_names,
)
from autoresearch.study.lock import RunnerLock, lock_holder
from autoresearch.study.store import Store
from autoresearch.study.workspace import Workspace
from autoresearch.workers.machine import Machine
from rails import RailsError

# --- making one ---


def test_a_new_study_has_all_its_parts_and_nothing_else(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "not" / "there" / "yet")
    assert {path.name for path in folder.path.iterdir()} - {"study.db-wal", "study.db-shm"} == {
        "study.toml",
        "study.db",
        "recipe",
        "runs",
    }
    assert [path.name for path in folder.path.parent.iterdir()] == ["one"]
    assert query(folder, "SELECT name, incumbent, control FROM studies") == [("one", 0, "run")]
    assert query(folder, "SELECT number, state, proposer FROM trials") == [(0, "running", "baseline")]
    assert git(folder, "log", "--format=%s", "incumbent").splitlines() == ["baseline: the recipe as it stands"]
    assert git(folder, "rev-parse", "incumbent").strip() == folder.store.study()["incumbent_commit"]


def test_a_study_begun_from_another_measures_its_incumbent_anew_with_seeds_never_used_there(tmp_path: Path) -> None:
    before = make_study(tmp_path, decision__max_runs=5)
    run_study(before, [change("lr", GOOD), change("d_ff", 256)], workers=1)
    after = continue_study(tmp_path, "two", before, {"workers": 3})
    assert after.store.trials()[0].recipe == before.store.trials()[1].recipe
    assert after.menu_text == before.menu_text and after.settings.decision == before.settings.decision
    assert after.settings.workers.most == 3
    assert query(after, "SELECT begun_from FROM studies") == [('{"study": "one", "trial": 1}',)]
    assert query(before, "SELECT begun_from FROM studies") == [(None,)]
    run_study(after, [change("d_ff", 256), change("lr", BAD)], workers=1)
    seeds = [{seed for (seed,) in query(folder, "SELECT DISTINCT seed FROM runs")} for folder in (before, after)]
    assert len(seeds[1]) >= 3 and max(seeds[0]) < min(seeds[1])
    assert len(after.store.runs(0)) >= 3 and after.store.trials()[1].parent == 0
    assert_git_and_database_agree(after)
    third = continue_study(tmp_path, "three", after, {})
    assert third.store.study()["first_seed"] > max(seeds[1])


@pytest.mark.parametrize(
    "owner, step",
    [(folder_module, "load_settings"), (Workspace, "create"), (Store, "create_study"), (Path, "rename")],
)
def test_a_study_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, step: str
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, full)
        with pytest.raises(OSError, match="No space left"):
            make_study(tmp_path)
    assert list(tmp_path.iterdir()) == []
    make_study(tmp_path)


def test_what_a_killed_init_left_is_no_study_and_not_in_the_way(tmp_path: Path) -> None:
    partial = tmp_path / ".one.partial"
    (partial / "recipe" / ".git").mkdir(parents=True)
    (partial / "study.db").write_bytes(b"half")
    assert study_names(tmp_path) == []
    make_study(tmp_path)
    assert study_names(tmp_path) == ["one"] and not partial.exists()


@pytest.mark.parametrize(
    "setting, value, words",
    [
        ("proposer__name", "oracle", "proposer.name"),
        ("workers", 0, "workers"),
        ("budget__tokens", 10, "does not fit the study's budget.*warmup"),
        ("data__sorce", "text", "unknown key data.sorce; the nearest valid key is source"),
    ],
)
def test_settings_that_do_not_fit_are_refused_and_leave_nothing(
    tmp_path: Path, setting: str, value: str | int, words: str
) -> None:
    overrides: dict[str, Any] = {setting: value}
    with pytest.raises(UserError, match=words) as error:
        make_study(tmp_path, **overrides)
    assert ".partial" not in str(error.value), "that file is gone when the person reads this"
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_is_refused_and_the_study_untouched(tmp_path: Path) -> None:
    make_study(tmp_path)
    (tmp_path / "one" / "study.toml").write_text("mine")
    with pytest.raises(UserError, match=r"exists already.*autoresearch run one"):
        make_study(tmp_path)
    assert (tmp_path / "one" / "study.toml").read_text() == "mine"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/tmp/x",
        ".hidden",
        "-rf",
        "_x",
        "a b",
        "a\nb",
        "a\n",
        "x" * 65,
        "caf\u00e9",
        "a\0b",
    ],
)
def test_a_name_that_could_lead_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    for attempt in (lambda: make_study(tmp_path / "home", name), lambda: StudyFolder(tmp_path / "home", name)):
        with pytest.raises(UserError, match="is no name for a study"):
            attempt()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "Night-1_b.2", "x" * 64])
def test_a_usual_name_is_a_folder(tmp_path: Path, name: str) -> None:
    assert make_study(tmp_path, name).path == tmp_path / name


def test_a_preset_that_is_none_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no preset 'gpt-5': choose one of cpu-nano, cpu-nano-wide, gpt-354m"):
        create_study(tmp_path, "one", "gpt-5", MACHINE, {})


def test_settings_given_at_init_keep_the_files_comments(tmp_path: Path) -> None:
    folder = make_study(tmp_path, data__source='a "quoted" # path', workers=3, limits__trials=5)
    assert folder.settings.data.source == 'a "quoted" # path'
    assert (folder.settings.workers.most, folder.settings.limits.trials) == (3, 5)
    preset = (PRESETS / "cpu-nano" / "study.toml").read_text("utf-8").splitlines()
    written = (folder.path / "study.toml").read_text("utf-8").splitlines()
    comments = [line.partition("#")[2] for line in preset if "#" in line and not line.startswith("source")]
    assert [line.partition("#")[2] for line in written if "#" in line and not line.startswith("source")] == comments
    changed = ("source", "confirmation_runs")
    assert set(preset) - set(written) == {line for line in preset if line.startswith(changed)}


def test_fp8_is_the_default_where_the_machine_can(tmp_path: Path) -> None:
    hopper = Machine("cuda", "H200", 1, 140 * 2**30, ("fp32", "bf16", "fp8"))
    ampere = replace(hopper, name="A100", precisions=("fp32", "bf16"))
    found = {}
    for name, preset, machine in (("h", "gpt-354m", hopper), ("a", "gpt-354m", ampere), ("n", "cpu-nano", hopper)):
        folder = create_study(tmp_path, name, preset, machine, {})
        found[name] = tomllib.loads(git(folder, "show", "incumbent:recipe.toml"))["precision"]
        assert folder.store.trials()[0].recipe["precision"] == found[name]
    assert found == {"h": "fp8", "a": "bf16", "n": "bf16"}


# --- opening one ---


def test_a_study_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    make_study(tmp_path, "first-night")
    with pytest.raises(UserError, match=r"no study 'frist-night'.*there: first-night.*autoresearch init frist-night"):
        StudyFolder(tmp_path, "frist-night")
    with pytest.raises(UserError, match="no study 'one'"):
        StudyFolder(tmp_path / "nowhere", "one")


def test_studies_live_where_the_option_says_then_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AUTORESEARCH_HOME", raising=False)
    assert home() == Path("trajectories").absolute()
    monkeypatch.setenv("AUTORESEARCH_HOME", "")
    assert home() == Path("trajectories").absolute()
    monkeypatch.setenv("AUTORESEARCH_HOME", str(tmp_path))
    assert home() == tmp_path and home(Path("here")) == Path("here").absolute()


def test_a_study_opened_by_a_relative_path_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_study(tmp_path / "trajectories")
    monkeypatch.chdir(tmp_path)
    folder = StudyFolder(Path("trajectories"), "one")
    monkeypatch.chdir("/")
    assert folder.workspace.incumbent and folder.store.trials() and folder.path.is_absolute()


def test_a_study_that_was_moved_is_still_whole(tmp_path: Path) -> None:
    make_study(tmp_path).store.close()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "one").rename(tmp_path / "elsewhere" / "two")
    folder = StudyFolder(tmp_path / "elsewhere", "two")
    assert folder.workspace.incumbent == folder.store.study()["incumbent_commit"]


def test_a_database_that_is_none_is_called_damaged(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    folder.store.close()
    for suffix in ("-wal", "-shm"):
        (folder.path / f"study.db{suffix}").unlink(missing_ok=True)
    (folder.path / "study.db").write_bytes(b"no database, and long enough to be told from one" * 20)
    with pytest.raises(UserError, match=r"study\.db.* damaged"):
        StudyFolder(tmp_path, "one")


def test_a_bad_menu_in_a_preset_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RailsError("menu.toml: knob lr has an empty range")

    monkeypatch.setattr(folder_module, "load_preset", broken)
    with pytest.raises(RailsError):
        make_study(tmp_path / "home")
    assert list(tmp_path.iterdir()) == []


# --- one runner ---

HOLDER = """
import sys
from pathlib import Path
from autoresearch.study.lock import RunnerLock
with RunnerLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(study: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs the study."""
    command = [sys.executable, "-c", HOLDER, str(study)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process


def test_a_second_runner_is_refused_and_told_the_first_ones_process_id(tmp_path: Path) -> None:
    study = tmp_path / "mine"
    study.mkdir()
    with holder(study) as process:
        with pytest.raises(StudyBusy, match=rf"study mine is run by process {process.pid} .*autoresearch status mine"):
            RunnerLock(study).__enter__()
        assert lock_holder(study / "runner.lock") == process.pid
        with RunnerLock(study, "daemon"):
            assert lock_holder(study / "daemon.lock") == os.getpid(), "a daemon has a lock of its own"
    assert lock_holder(study / "runner.lock") is None
    with RunnerLock(study):
        pass


def test_a_runner_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / "runner.lock").read_text() == f"{process.pid}\n", "the file stays; it means nothing"
        assert lock_holder(tmp_path / "runner.lock") is None
        with RunnerLock(tmp_path):
            assert lock_holder(tmp_path / "runner.lock") == os.getpid()


def test_a_lock_is_given_back_when_the_night_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), RunnerLock(tmp_path):
        raise RuntimeError
    assert lock_holder(tmp_path / "runner.lock") is None


def test_nobody_holds_a_lock_that_was_never_taken(tmp_path: Path) -> None:
    assert lock_holder(tmp_path / "runner.lock") is None
    assert not (tmp_path / "runner.lock").exists(), "looking leaves no trace"


def test_somebody_who_looks_at_the_lock_does_not_refuse_a_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `status` takes the lock for an instant to see whether it is free.
    (tmp_path / "runner.lock").touch()
    onlooker = (tmp_path / "runner.lock").open()
    fcntl.flock(onlooker, fcntl.LOCK_SH)
    original = fcntl.flock

    def flock(file: TextIO, operation: int) -> None:
        try:
            original(file, operation)
        except BlockingIOError:
            onlooker.close()
            raise

    monkeypatch.setattr(fcntl, "flock", flock)
    with RunnerLock(tmp_path):
        assert lock_holder(tmp_path / "runner.lock") == os.getpid()
