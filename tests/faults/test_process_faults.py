"""What happens to the process of a night: its workers die, it is killed, its terminal goes, an error ends it."""

from __future__ import annotations

import errno
import os
import pty
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from studies import GOOD, change, make_study, query, run_study, wait_until

from autoresearch.errors import BaselineFails, UserError
from autoresearch.night.daemon import Daemon
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import Observer
from autoresearch.terminal.streams import Lasting
from trainer.cache import cache_folder

CLI = (sys.executable, str(Path(__file__).parents[1] / "support" / "stub_cli.py"))
ALWAYS: dict[str, Any] = {"schedule__start": "00:00", "schedule__stop": "00:00"}
DIES, DIES_ONCE = 1, 2  # n_layer, for the stub


class Notes(Observer):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def note(self, text: str) -> None:
        self.heard.append(text)


def set_baseline(folder: StudyFolder, knob: str, value: object) -> object:
    """What the stub makes of the baseline; returns the value there was."""
    before = query(folder, f"SELECT json_extract(recipe, '$.{knob}') FROM trials WHERE number = 0")[0][0]
    with folder.store.db.conn:
        folder.store.db.execute(f"UPDATE trials SET recipe = json_set(recipe, '$.{knob}', ?) WHERE number = 0", [value])
    return before


def messages(folder: StudyFolder, kind: str) -> list[str]:
    return [event["message"] for event in folder.store.events_of(kind)]


# --- an unlucky baseline ---


def test_a_baseline_whose_workers_died_is_tried_again_by_the_next_night(tmp_path: Path) -> None:
    folder, notes = make_study(tmp_path), Notes()
    layers = set_baseline(folder, "n_layer", DIES)
    for _ in range(2):
        with pytest.raises(BaselineFails, match=r"the baseline itself fails \(seed 0: worker_died.*worker\.log"):
            run_study(folder, [change("lr", GOOD)], workers=1)
    set_baseline(folder, "n_layer", layers)
    run_study(folder, [change("lr", GOOD)], workers=1, observer=notes)
    assert [trial.outcome for trial in folder.store.trials()] == ["baseline", "keep"]
    told = "the baseline failed last time (seed 0: worker_died: the worker process ended with exit code 7)"
    assert notes.heard == [f"{told}; it is tried again"]
    assert messages(folder, "baseline_again") == notes.heard * 2, "once by each night that tried"
    (run,) = [run for run in folder.store.runs(0) if run.seed == 0]
    assert (run.state, run.failure, run.message) == ("complete", None, "")


def test_a_baseline_that_diverged_leaves_nothing_that_could_be_taken_for_the_next(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    beta1 = set_baseline(folder, "beta1", 0.5)
    with pytest.raises(BaselineFails, match="diverged"):
        run_study(folder, [], workers=1)
    joules = sum(run.energy_joules or 0.0 for run in folder.store.runs(0))
    set_baseline(folder, "beta1", beta1)
    run_study(folder, [], workers=1)
    assert [run.state for run in folder.store.runs(0)[:3]] == ["complete"] * 3
    assert [run.failed_step for run in folder.store.runs(0)[:3]] == [None] * 3
    assert sum(run.energy_joules or 0.0 for run in folder.store.runs(0)) > joules > 0, "what it cost stays counted"


def test_a_killed_runner_and_one_dead_worker_are_not_two_dead_workers(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    folder.store.queue_runs([(0, 0, "reference")])
    for _ in range(3):  # nights that were killed while it ran
        folder.store.hand_out_run(folder.store.runs(0)[0])
    set_baseline(folder, "n_layer", DIES_ONCE)
    run_study(folder, [], workers=1)
    assert folder.store.trials()[0].outcome == "baseline"
    assert query(folder, "SELECT attempts FROM runs WHERE seed = 0") == [(5,)], "the database goes on counting"


def test_a_home_that_cannot_be_written_costs_no_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.write_text("no folder, so that root cannot write in it either")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = cache_folder()
    assert found == tmp_path / f"autoresearch-{os.getuid()}" == cache_folder(str(home / "cache"))
    assert found.stat().st_mode & 0o777 == 0o700
    found.chmod(0o777)  # anybody may have put something there
    other = cache_folder()
    assert other != found and other.parent == tmp_path and other.stat().st_mode & 0o777 == 0o700
    assert cache_folder(str(tmp_path / "mine")) == tmp_path / "mine"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "autoresearch"


# --- a daemon that loses a night ---


class House:
    """A daemon whose window never closes; `nights` are what its nights do, one after another, and then it stops."""

    def __init__(self, folder: StudyFolder, *nights: Callable[[], object]) -> None:
        self.folder, self.notes, self.nights = folder, list[str](), list(nights)
        self.settings = [folder.settings]  # as each night had them
        self.daemon = Daemon(folder, self._night, self.notes.append, rest_seconds=(0.001, 0.002))

    def _night(self, until: object) -> str:
        self.settings.append(self.folder.settings)
        if self.nights:
            self.nights.pop(0)()
            raise AssertionError("it goes well")  # a lost night: so the next begins at once
        self.folder.store.set_control("stop", "enough")
        return "done"

    def run(self) -> list[str]:
        assert self.daemon.run() == "stopped"
        return self.notes

    def edit(self, old: str, new: str) -> Callable[[], None]:
        path = self.folder.path / "study.toml"

        def edit() -> None:
            text = path.read_text()
            assert old in text
            path.write_text(text.replace(old, new))

        return edit


def fail(error: BaseException) -> Callable[[], None]:
    def failing() -> None:
        raise error

    return failing


def test_a_night_that_is_lost_to_an_error_is_told_and_tried_again(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **ALWAYS)
    full = OSError(errno.ENOSPC, "No space left on device")
    house = House(folder, fail(sqlite3.OperationalError("database or disk is full")), fail(full), fail(MemoryError()))
    said = house.run()
    assert [text.partition(" (")[0] for text in said] == [
        "the night was lost: OperationalError: database or disk is full",
        "the night was lost: OSError: [Errno 28] No space left on device",
        "the night was lost: MemoryError",
        "night ended: done",
    ]
    assert "resting for 0.0010 s" in said[0] and "resting for 0.0020 s" in said[1] and "0.0020 s" in said[2]
    assert messages(folder, "daemon") == said[:3]
    log = folder.path / "errors.log"
    assert all(f"traceback in {log}" in text for text in said[:3])
    assert log.read_text().count("Traceback (most recent call last)") == 3 and "in failing" in log.read_text()


def test_a_baseline_that_fails_is_tried_again_in_the_same_window(tmp_path: Path) -> None:
    said = House(make_study(tmp_path, **ALWAYS), fail(BaselineFails("the baseline itself fails"))).run()
    assert said[0].startswith("the night was lost: the baseline itself fails; resting for") and len(said) == 2


def test_a_persons_mistake_stops_the_daemon(tmp_path: Path) -> None:
    house = House(make_study(tmp_path, **ALWAYS), fail(UserError("the text is gone: restore it")))
    with pytest.raises(UserError, match="the text is gone"):
        house.daemon.run()
    assert len(house.settings) == 2, "and it was not tried again"


def test_an_error_whose_traceback_cannot_be_written_is_an_error_like_any_other(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **ALWAYS)
    (folder.path / "errors.log").mkdir()
    said = House(folder, fail(RuntimeError("\x1b[2J"))).run()
    assert "its traceback could not be written to" in said[0] and "\x1b" not in said[0] and len(said) == 2


# --- study.toml between the nights ---


def test_settings_are_read_again_before_each_night(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **ALWAYS)
    house = House(folder, lambda: None)
    house.nights = [house.edit("# trials = 100", "trials = 7")]
    house.run()
    assert [settings.limits.trials for settings in house.settings] == [None, None, 7]
    assert messages(folder, "daemon")[1] == "study.toml is read again: limits in it has changed"


@pytest.mark.parametrize(
    "old, new, told",
    [
        ("[limits]", "[limits", "study.toml is not valid TOML"),
        ("[limits]", "[limits]\ntrails = 7", "unknown key limits.trails; the nearest valid key is trials"),
        ("tokens = 200_000", "tokens = 300_000", 'study.toml: budget was {"tokens": 200000.0} when'),
        ('start = "00:00"', 'start = "00:00"\ntimezone = "Mars/Olympus"', "schedule.timezone is 'Mars/Olympus'"),
    ],
)
def test_settings_that_cannot_be_taken_leave_those_of_before(tmp_path: Path, old: str, new: str, told: str) -> None:
    folder = make_study(tmp_path, **ALWAYS)
    folder.store.queue_runs([(0, 0, "reference")])  # from its first run on, a study keeps its budget
    house = House(folder)
    house.nights = [house.edit(old, new), lambda: None, house.edit(new, old), lambda: None]
    house.run()
    assert all(settings == house.settings[0] for settings in house.settings) and len(house.settings) == 6
    said = [text for text in messages(folder, "daemon") if "night was lost" not in text]
    assert len(said) == 2, "once, not before each night"
    assert told in said[0] and said[0].endswith("until that is mended the settings of before are in force")
    assert said[1] == "study.toml is read again: nothing in it has changed"


def test_another_window_counts_at_once_for_a_daemon_that_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoresearch.night.daemon.CONTROL_POLL_SECONDS", 0.005)
    folder = make_study(tmp_path, schedule__start="00:00", schedule__stop="00:00", schedule__timezone="UTC")
    house = House(folder)
    far = {"start": "03:00", "stop": "03:01"} if datetime.now(UTC).hour >= 12 else {"start": "15:00", "stop": "15:01"}
    folder.settings = folder.settings.model_copy(update={"schedule": folder.settings.schedule.model_copy(update=far)})
    note, edit = house.notes.append, house.edit('stop = "00:00"', 'stop = "0:00"')

    def hear(text: str) -> None:
        note(text)
        if text.startswith("resting until"):
            edit()  # the file, which says all day

    house.daemon.note = hear
    said = house.run()
    assert said[0].endswith(f"{far['start']}") and said[1:] == [
        "study.toml is read again: schedule in it has changed",
        "night ended: done",
    ]


# --- a terminal that goes ---


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    """A study that runs its baseline and then pauses, until it is told to go on."""
    folder = make_study(tmp_path, "mine", proposer__name="random", **ALWAYS)
    folder.store.set_data(str(folder.path), "of a stub")
    folder.store.set_control("pause", "for a moment")
    folder.store.queue_idea(change("lr", GOOD))
    monkeypatch.setenv("AUTORESEARCH_HOME", str(tmp_path))
    return folder


def baseline_is_done(folder: StudyFolder) -> bool:
    return query(folder, "SELECT state FROM trials WHERE number = 0") == [("complete",)]


def assert_the_night_went_on(folder: StudyFolder) -> None:
    assert [trial.outcome for trial in folder.store.trials()] == ["baseline", "keep"]
    assert messages(folder, "ended") == ["1 trial done, as asked"]
    report = (folder.path / "report" / "report.md").read_text()
    assert "not running, the last night ended: 1 trial done, as asked, as of" in report


def test_a_terminal_that_is_closed_ends_no_night(waiting: StudyFolder) -> None:
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm"
        os.execv(CLI[0], [*CLI, "run", "mine", "--trials", "1"])
    try:
        wait_until(lambda: os.read(terminal, 4096) and baseline_is_done(waiting))
        os.close(terminal)  # the kernel tells the process, and what it writes from now on is an error
        waiting.store.set_control("run", "go on")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    except BaseException:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        raise
    assert_the_night_went_on(waiting)


@pytest.mark.parametrize("closed", ["a pipe that nobody reads", "no output at all"])
def test_output_that_nobody_reads_is_no_error(waiting: StudyFolder, closed: str) -> None:
    arguments: list[Any] = [*CLI, "run", "mine", "--trials", "1"]
    if closed == "no output at all":
        process = subprocess.Popen(["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *arguments])
    else:
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None and process.stdout.readline()
        process.stdout.close()
    try:
        wait_until(lambda: baseline_is_done(waiting))
        waiting.store.set_control("run", "go on")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert_the_night_went_on(waiting)


def test_a_daemon_does_not_hear_a_closed_terminal_and_hears_stop(waiting: StudyFolder) -> None:
    process = subprocess.Popen([*CLI, "daemon", "mine"], stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: baseline_is_done(waiting))
        process.send_signal(signal.SIGHUP)
        waiting.store.set_control("stop", "enough")
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and said.endswith("daemon stopped\n"), said
    finally:
        process.kill()
        process.wait()


def test_a_full_disk_is_not_taken_for_a_reader_that_has_gone() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with pytest.raises(OSError, match="No space left"):
            Lasting(full).write(b"a")
        lasting = Lasting(writer)
        assert [lasting.write(b"abc"), lasting.write(b"d")] == [3, 1]
        assert os.path.samestat(os.fstat(writer), Path(os.devnull).stat())
    finally:
        os.close(full)
        os.close(writer)
