"""A full disk, and a database that is empty, locked, damaged or not to be written: one line each, and nothing lost."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from command_line import Command
from serving import served
from studies import GOOD, assert_git_and_database_agree, change, make_study, query, run_study

from autoresearch.cli.faults import line_of
from autoresearch.errors import UserError
from autoresearch.study.folder import StudyFolder, home
from autoresearch.study.observer import Observer
from autoresearch.study.store import opening
from autoresearch.trial import Trial

ANSWERS = [change("lr", GOOD), change("d_ff", 1024), "no JSON", change("lr", 0.003), change("lr", 0.005)]
# Of Linux, see capabilities(7).
CAPABILITIES_VERSION_3, DAC_OVERRIDE = 0x20080522, 1 << 1
LOOKS = (
    ["status", "one"], ["status", "one", "--json"], ["trials", "one"], ["show", "one", "1"], ["inspect", "one"],
    ["report", "one", "--markdown"], *(["export", "one", "--format", kind] for kind in ("jsonl", "csv", "results-tsv")),
)  # fmt: skip
WRITES = (
    ["run", "one", "--trials", "1"], ["propose", "one", "--knob", "lr", "--value", "0.002"], ["pause", "one"],
    ["stop", "one"], ["report", "one"],
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the study `one`."""
    at = tmp_path_factory.mktemp("finished")
    folder = make_study(at, decision__max_runs=2)
    run_study(folder, ANSWERS[:3])
    folder.store.close()
    return at


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, where the command line looks."""
    return shutil.copytree(finished, tmp_path / "home", symlinks=True) / "one"


def one_line(command: Command, *arguments: str) -> str:
    said = command(*arguments)
    assert (said.code, len(said.err.splitlines())) == (2, 1), said.err
    assert said.err.startswith("error: ") and "Traceback" not in said.err
    return said.err


# --- a database that cannot be used ---


def test_an_empty_database_is_called_damaged_and_is_left_as_it_is(study: Path, command: Command) -> None:
    (study / "study.db").write_bytes(b"")
    for suffix in ("-wal", "-shm"):
        (study / f"study.db{suffix}").unlink(missing_ok=True)
    for arguments in (*LOOKS, *WRITES):
        assert "study.db is empty: the study is damaged. Put back a copy" in one_line(command, *arguments)
    assert (study / "study.db").stat().st_size == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"no database at all, but long enough to be looked at" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:4096]),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(path.read_bytes()[:1000] + b"\xff" * 30_000),
        lambda path: (path.unlink(), sqlite3.connect(path).execute("CREATE TABLE other (a)")),
    ],
    ids=["text", "cut off after a page", "cut off in its head", "overwritten", "of another program"],
)  # fmt: skip
def test_a_damaged_database_is_one_line(study: Path, command: Command, damage: Callable[[Path], object]) -> None:
    damage(study / "study.db")
    for arguments in (["status", "one"], ["report", "one"], ["pause", "one"]):
        assert "study.db" in one_line(command, *arguments) or "damaged" in one_line(command, *arguments)


def test_a_locked_database_is_waited_for_and_then_one_line(
    study: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "BUSY_SECONDS", 0.05)
    other = sqlite3.connect(study / "study.db", isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    for arguments in (["status", "one"], ["pause", "one"], ["trials", "one"]):
        assert "study.db is locked by another program" in one_line(command, *arguments)
    other.close()
    other = sqlite3.connect(study / "study.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # it writes, and others may read meanwhile
    assert command("status", "one").code == 0
    assert "locked by another program" in one_line(command, "pause", "one")
    other.execute("ROLLBACK")
    other.close()
    assert command("pause", "one").code == 0


def test_bytes_that_are_no_text_are_not_queued(study: Path, command: Command) -> None:
    broken = os.fsdecode(b'{"knob": "lr", "new_value": 0.002, "reason": "\xff\xfe"}')
    assert "UTF-8" in one_line(command, "propose", "one", "--raw", broken)
    assert "UTF-8" in one_line(command, "propose", "one", "--knob", "lr", "--value", os.fsdecode(b"\xff"))
    assert query(StudyFolder(study.parent, "one"), "SELECT COUNT(*) FROM proposals WHERE trial IS NULL") == [(0,)]


# --- a study that may only be looked at ---


@contextmanager
def without_roots_rights() -> Iterator[None]:
    """This thread, and those that it starts, keep to the rights that files have: root has them by a capability."""
    libc, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION_3, 0)
    before = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, twice 32 bits each
    libc.capget(header, before)
    after = (ctypes.c_uint32 * 6)(before[0] & ~DAC_OVERRIDE, *before[1:])
    libc.capset(header, after)
    try:
        yield
    finally:
        libc.capset(header, before)


@contextmanager
def unwritable(study: Path) -> Iterator[Path]:
    """A copy of its home, with all rights to write gone."""
    home = shutil.copytree(study.parent, study.parent.with_name("unwritable"), symlinks=True)
    paths = [home, *home.rglob("*")]
    try:
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
        with without_roots_rights():
            yield home
    finally:
        for path in paths:
            path.chmod(0o755)


def test_a_study_that_may_not_be_written_can_be_looked_at(
    study: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [command(*arguments).out for arguments in LOOKS]
    with unwritable(study) as home:
        monkeypatch.setenv("AUTORESEARCH_HOME", str(home))
        before = sorted(path.name for path in home.rglob("*"))
        for arguments, out in zip(LOOKS, expected, strict=True):
            said = command(*arguments)
            assert (said.code, said.err) == (0, ""), arguments
            assert said.out.replace(str(home), str(study.parent)).split() == out.split()
        assert sorted(path.name for path in home.rglob("*")) == before


def test_whoever_would_write_to_it_is_told_in_one_line(
    study: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with unwritable(study) as home:
        monkeypatch.setenv("AUTORESEARCH_HOME", str(home))
        for arguments in WRITES:
            told = one_line(command, *arguments)
            assert "may not be written" in told or "may not be read or written" in told
        assert "no study can be made" in one_line(command, "init", "two")


def test_a_study_that_may_not_be_written_can_be_served(study: Path) -> None:
    with served(study.parent) as client:
        facts, trial = client.get("/facts.json").json(), client.get("/trials/1.json").json()
    with unwritable(study) as home, served(home) as client:
        assert (client.get("/facts.json").json(), client.get("/trials/1.json").json()) == (facts, trial)
        assert client.get("/sql/study.json?sql=SELECT+COUNT(*)+AS+n+FROM+trials&_shape=array").json() == [{"n": 4}]
        sent = {"X-Autoresearch": "1"}
        answer = client.post("/control", json={"control": "pause"}, headers=sent)
        assert (answer.status_code, len(answer.text.splitlines())) == (503, 1)


def test_what_a_killed_night_left_in_the_log_is_seen_there(
    study: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = sqlite3.connect(study / "study.db")
    killed.execute("PRAGMA wal_autocheckpoint = 0")
    killed.execute("UPDATE trials SET reason = 'only in the log' WHERE number = 1")
    killed.commit()
    left = {suffix: (study / f"study.db{suffix}").read_bytes() for suffix in ("", "-wal")}
    killed.close()
    for suffix, data in left.items():
        (study / f"study.db{suffix}").write_bytes(data)
    (study / "study.db-shm").unlink(missing_ok=True)
    with unwritable(study) as home:
        monkeypatch.setenv("AUTORESEARCH_HOME", str(home))
        assert "only in the log" in command("show", "one", "1").out


def test_a_study_of_an_older_version_can_be_looked_at_without_an_upgrade(
    study: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(study / "study.db") as database:
        database.execute("DELETE FROM _sqlite_migrations WHERE name >= 'm004'")
        for table in ("promotions", "attempts", "lessons", "reflections", "repeats"):
            database.execute(f"DROP TABLE {table}")
        for table, column in (
            ("studies", "tick"), ("trials", "opened_tick"), ("trials", "closed_tick"), ("runs", "ended_tick"),
            ("proposals", "limits"), ("proposals", "deviation"), ("studies", "menu"), ("runs", "flops"),
            ("runs", "window_bpb"), ("proposals", "carries"), ("studies", "begun_from"), ("studies", "first_seed"),
            ("trials", "kept_until"), ("proposals", "asked_tick"), ("proposals", "asked_on"),
            ("proposals", "energy_joules"), ("proposals", "energy_source"),
            ("studies", "script_name"), ("studies", "script"), ("studies", "script_commit"),
        ):  # fmt: skip
            database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        database.execute("PRAGMA writable_schema = ON")
        for later in (", ''cancelled''", ", ''confirmation''", ", ''stopped''"):
            database.execute(
                f"UPDATE sqlite_master SET sql = replace(sql, '{later}', '') WHERE name IN ('runs', 'trials')"
            )
    with unwritable(study) as home:
        monkeypatch.setenv("AUTORESEARCH_HOME", str(home))
        assert command("report", "one", "--markdown").code == 0
        assert "may not be" in one_line(command, "pause", "one")


# --- a disk that is full ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


class Filler(Observer):
    """Fills the disk when a trial has closed, but for some pages."""

    def __init__(self, ballast: Path, trial: int, left: int) -> None:
        self.ballast, self.trial, self.left = ballast, trial, left

    def trial_closed(self, trial: Trial) -> None:
        if trial.number == self.trial:
            fill(self.ballast, self.left)


def told(error: Exception) -> str:
    """What a person reads of it."""
    assert isinstance(error, (UserError, OSError, sqlite3.Error))
    line = str(error) if isinstance(error, UserError) else line_of(error)
    assert line is not None
    return line


def fill(ballast: Path, left: int = 0) -> None:
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    os.truncate(ballast, max(0, ballast.stat().st_size - left))


@pytest.mark.parametrize("left", [0, 4096, 4 * 4096, 16 * 4096])
def test_a_night_on_a_full_disk_ends_in_one_line_and_the_next_goes_on(small_disk: Path, left: int) -> None:
    folder = make_study(small_disk / "home", decision__max_runs=2)
    ballast = small_disk / "ballast"
    with pytest.raises((OSError, sqlite3.Error, UserError)) as caught:
        run_study(folder, ANSWERS, workers=1, observer=Filler(ballast, 1, left))
    line = told(caught.value)
    assert "disk is full" in line or "No space left" in line
    kept = [trial for trial in folder.store.trials() if trial.finished_at]
    assert len(kept) >= 2
    ballast.unlink()
    folder.store.close()
    again = StudyFolder(small_disk / "home", "one")
    run_study(again, ANSWERS, workers=1)
    assert [trial.state for trial in again.store.trials()] == ["complete"] * 3 + ["blocked"] + ["complete"] * 2
    assert again.store.trials()[: len(kept) - 1] == kept[:-1]
    assert_git_and_database_agree(again)
    assert query(again, "PRAGMA integrity_check") == [("ok",)]


def test_each_command_on_a_full_disk_is_one_line_or_its_answer(
    study: Path, small_disk: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shutil.copytree(study.parent, small_disk / "home", symlinks=True)
    monkeypatch.setenv("AUTORESEARCH_HOME", str(home))
    StudyFolder(home, "one").store.close()
    fill(small_disk / "ballast")
    export = ["export", "one", "--format", "csv", "--out", f"{home}/out.csv"]
    for arguments in (*LOOKS, *WRITES, ["init", "two"], export):
        said = command(*arguments)
        assert "Traceback" not in said.err
        assert said.code == 0 or (said.code, len(said.err.splitlines())) == (2, 1), said.err
    (small_disk / "ballast").unlink()
    assert sorted(path.name for path in home.iterdir() if not path.name.startswith(".")) == ["one"]
    assert command("pause", "one").code == 0
    assert query(StudyFolder(home, "one"), "PRAGMA integrity_check") == [("ok",)]


def test_a_file_that_may_not_grow_ends_a_night_like_a_full_disk(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "home", decision__max_runs=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Limit(Observer):
        def trial_closed(self, trial: Trial) -> None:
            if trial.number == 1:
                most = max(path.stat().st_size for path in folder.path.glob("study.db*"))
                resource.setrlimit(resource.RLIMIT_FSIZE, (most + 4096, hard))

    try:
        with pytest.raises((OSError, sqlite3.Error, UserError)) as caught:
            run_study(folder, ANSWERS, workers=1, observer=Limit())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told(caught.value)
    folder.store.close()
    again = StudyFolder(tmp_path / "home", "one")
    run_study(again, ANSWERS, workers=1)
    assert len(again.store.trials()) == len(ANSWERS) + 1
    assert_git_and_database_agree(again)


# --- where a study is ---


def test_a_home_and_a_study_behind_symbolic_links_are_one_study(
    study: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(study.parent, target_is_directory=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "one").symlink_to(study, target_is_directory=True)
    monkeypatch.chdir(tmp_path / "link")
    places = [study.parent, tmp_path / "link", tmp_path / "other", Path(), Path("..") / "link"]
    assert {StudyFolder(home(place), "one").path for place in places} == {study.resolve()}
    for place in places:
        assert command("status", "one", "--home", str(place), "--json").code == 0
    assert str(study.parent.resolve()) in command("init", "two", "--home", str(tmp_path / "link")).out
    assert command("status", "two").code == 0


def test_a_link_that_leads_nowhere_is_one_line(tmp_path: Path, command: Command) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "one").symlink_to(tmp_path / "gone")
    assert "exists already" in one_line(command, "init", "one")
    assert "there is no study" in one_line(command, "status", "one")
    (tmp_path / "file").write_text("in the way")
    assert "no study can be made" in one_line(command, "init", "one", "--home", str(tmp_path / "file"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "loop" in one_line(command, "init", "one", "--home", str(tmp_path / "loop"))
