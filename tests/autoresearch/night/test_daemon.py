"""The window and the daemon: a night begins when it should, ends when it should, and none is lost or had twice."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import apscheduler.schedulers.base
import pytest
from apscheduler.schedulers.background import BackgroundScheduler
from studies import make_study, wait_until

from autoresearch.config import ScheduleSettings
from autoresearch.errors import StudyBusy, UserError
from autoresearch.night import daemon as schedule
from autoresearch.night.daemon import Daemon, next_time, window_end, zone
from autoresearch.study.folder import StudyFolder

ZURICH = ZoneInfo("Europe/Zurich")


def at(text: str) -> datetime:
    """ "10 22:00" -> that moment of March 2026 in Zurich."""
    return datetime.strptime(f"2026-03-{text}", "%Y-%m-%d %H:%M").replace(tzinfo=ZURICH)


def window(start: str, stop: str) -> ScheduleSettings:
    return ScheduleSettings(start=start, stop=stop, timezone="Europe/Zurich")


@pytest.mark.parametrize(
    "clock, now, then",
    [
        ("07:00", "10 06:59", "10 07:00"),
        ("07:00", "10 07:00", "11 07:00"),
        ("7:00", "10 22:00", "11 07:00"),
        ("00:00", "10 22:00", "11 00:00"),
        ("23:59", "31 23:58", "31 23:59"),
    ],
)
def test_the_next_time_is_the_next_moment_that_the_clock_shows_it(clock: str, now: str, then: str) -> None:
    assert next_time(clock, at(now)) == at(then)


@pytest.mark.parametrize(
    "start, stop, now, end",
    [
        ("22:00", "07:00", "10 21:59", None),
        ("22:00", "07:00", "10 22:00", "11 07:00"),
        ("22:00", "07:00", "11 00:00", "11 07:00"),
        ("22:00", "07:00", "11 06:59", "11 07:00"),
        ("22:00", "07:00", "11 07:00", None),
        ("09:00", "17:00", "10 08:59", None),
        ("09:00", "17:00", "10 09:00", "10 17:00"),
        ("09:00", "17:00", "10 17:00", None),
        ("00:00", "06:00", "10 00:00", "10 06:00"),
        ("18:00", "00:00", "10 23:59", "11 00:00"),
        ("07:00", "07:00", "10 12:00", "11 07:00"),
        ("7:00", "07:00", "10 12:00", "11 07:00"),
        ("07:00", "07:00", "10 07:00", "11 07:00"),
    ],
)
def test_a_window_ends_at_its_stop_and_is_closed_outside(start: str, stop: str, now: str, end: str | None) -> None:
    assert window_end(window(start, stop), at(now)) == (at(end) if end else None)


@pytest.mark.parametrize("day, hours", [("2026-03-28", 8), ("2026-10-24", 10), ("2026-06-01", 9)])
def test_a_night_ends_by_the_clock_when_the_clocks_change(day: str, hours: int) -> None:
    start = datetime.fromisoformat(f"{day} 22:00").replace(tzinfo=ZURICH)
    end = window_end(window("22:00", "07:00"), start)
    assert end is not None and (end.hour, end.minute) == (7, 0)
    assert end.astimezone(UTC) - start.astimezone(UTC) == timedelta(hours=hours)


@pytest.mark.parametrize("name", ["Nowhere/City", "Europe", "", "../../etc/passwd", "/etc/localtime", "Zürich"])
def test_an_unknown_timezone_is_the_persons_to_mend(name: str) -> None:
    with pytest.raises(UserError, match=r"schedule\.timezone is .* Europe/Zurich"):
        zone(ScheduleSettings(timezone=name))


def test_the_machines_own_timezone_knows_summer_and_winter() -> None:
    # A daemon outlives the change of the clocks: a fixed offset would begin every night an hour late from then on.
    code = """
from datetime import datetime
from autoresearch.config import ScheduleSettings
from autoresearch.night.daemon import zone
print(*(datetime(2026, month, 1, tzinfo=zone(ScheduleSettings())).utcoffset() for month in (1, 7)))
"""
    environment = {**os.environ, "TZ": "Europe/Zurich"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1:00:00", "2:00:00"]


class House:
    """A study with a daemon whose clock a test moves by hand; `night` and `heard` are what happens in it."""

    def __init__(self, folder: StudyFolder, monkeypatch: pytest.MonkeyPatch, now: str) -> None:
        self.folder = folder
        self.now = at(now)
        self.nights: list[datetime] = []
        self.notes: list[str] = []
        self.night: Callable[[], object] = lambda: None
        self.heard: Callable[[str], object] = lambda note: self.daemon.stop() if note.startswith("resting") else None
        house = self

        class Clock(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
                return house.now.astimezone(tz)  # type: ignore[arg-type]

        class Scheduler(BackgroundScheduler):  # type: ignore[misc]  # it has no types
            def start(self) -> None:
                house.scheduler = self
                super().start()

        monkeypatch.setattr(schedule, "datetime", Clock)
        monkeypatch.setattr(apscheduler.schedulers.base, "datetime", Clock)
        monkeypatch.setattr(schedule, "BackgroundScheduler", Scheduler)
        monkeypatch.setattr(schedule, "CONTROL_POLL_SECONDS", 0.005)
        monkeypatch.setattr(schedule, "BUSY_SECONDS", 0.005)
        self.scheduler: BackgroundScheduler
        self.daemon = Daemon(folder, self._run_night, self._note)

    def _run_night(self, end: datetime) -> str:
        self.nights.append(end)
        self.night()
        return "12 trials done, as asked"

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.heard(text)

    def busy_once(self) -> None:
        if len(self.nights) == 1:
            raise StudyBusy("study one is run by process 42 already")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return make_study(tmp_path_factory.mktemp("home"))


@pytest.fixture
def house(study: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> Callable[..., House]:
    def make(now: str, start: str = "22:00", stop: str = "07:00") -> House:
        study.store.set_control("run", "a new test")
        study.settings = study.settings.model_copy(update={"schedule": window(start, stop)})
        return House(study, monkeypatch, now)

    return make


def test_inside_the_window_the_night_begins_at_once_and_then_the_daemon_rests(house: Callable[..., House]) -> None:
    home = house("10 23:10")
    assert home.daemon.run() == "stopped"
    assert home.nights == [at("11 07:00")]
    assert home.notes == ["night ended: 12 trials done, as asked", "resting until 2026-03-11 22:00"]


def test_outside_the_window_the_trigger_begins_the_night(house: Callable[..., House]) -> None:
    home = house("10 12:00")

    def evening(note: str) -> None:
        if len(home.notes) == 1:
            home.now = at("10 22:00")
        elif note.startswith("resting"):
            home.daemon.stop()

    home.heard = evening
    home.daemon.run()
    assert home.nights == [at("11 07:00")]
    assert home.notes[0] == "resting until 2026-03-10 22:00"


def test_a_laptop_that_slept_through_the_start_gets_the_rest_of_its_night(house: Callable[..., House]) -> None:
    # The clock jumps, as it does when a machine wakes: no timer that was set before may be relied on.
    home = house("10 12:00")

    def wake_up(note: str) -> None:
        if len(home.notes) == 1:
            home.now = at("11 03:30")
        elif note.startswith("resting"):
            home.daemon.stop()

    home.heard = wake_up
    home.daemon.run()
    assert home.nights == [at("11 07:00")]


def test_every_night_has_its_turn(house: Callable[..., House]) -> None:
    home = house("10 12:00")

    def days_pass(note: str) -> None:
        if note.startswith("resting"):
            home.now = at(f"{10 + len(home.nights)} 22:00")
            if len(home.nights) == 3:
                home.daemon.stop()

    home.heard = days_pass
    home.daemon.run()
    assert home.nights == [at("11 07:00"), at("12 07:00"), at("13 07:00")]


def test_a_start_that_fell_into_a_late_night_is_not_lost(house: Callable[..., House]) -> None:
    home = house("10 12:00", start="07:00", stop="07:00")

    def overrun() -> None:
        if len(home.nights) == 1:
            home.now = at("11 07:05")  # the trials in flight took five minutes more
            home.scheduler.wakeup()
            wait_until(lambda: home.scheduler.get_jobs()[0].next_run_time == at("12 07:00"))
        else:
            home.daemon.stop()

    home.night = overrun
    home.heard = lambda note: None
    home.daemon.run()
    assert home.nights == [at("11 07:00"), at("12 07:00")]


def test_while_somebody_else_runs_the_study_the_daemon_waits_and_tries_again(house: Callable[..., House]) -> None:
    home = house("10 23:10")
    home.night = home.busy_once
    home.daemon.run()
    assert home.nights == [at("11 07:00")] * 2
    assert home.notes[0] == "study one is run by process 42 already"


def test_a_daemon_that_waits_for_somebody_else_does_not_spin(
    house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = house("10 12:00")
    monkeypatch.setattr(schedule, "BUSY_SECONDS", 600.0)
    home.night = home.busy_once

    def heard(note: str) -> None:
        if note.startswith("resting"):
            home.now = at("10 22:00")  # woken by the trigger, which must not count as the end of the next wait
        elif "42" in note:
            threading.Timer(0.1, home.daemon.stop).start()

    home.heard = heard
    home.daemon.run()
    assert len(home.nights) == 1


def test_the_word_stop_ends_a_daemon_that_rests(house: Callable[..., House]) -> None:
    home = house("10 12:00")
    home.heard = lambda note: home.folder.store.set_control("stop", "stop")
    assert home.daemon.run() == "stopped"
    assert home.nights == []


def test_the_word_stop_ends_the_night_and_the_daemon(house: Callable[..., House]) -> None:
    home = house("10 23:10")
    home.night = lambda: home.folder.store.set_control("stop", "stop")
    assert home.daemon.run() == "stopped"
    assert home.notes == ["night ended: 12 trials done, as asked"]


def test_the_word_stop_ends_a_daemon_that_waits_for_somebody_else(house: Callable[..., House]) -> None:
    # Else it would begin a night as soon as the other one has obeyed.
    home = house("10 23:10")
    home.night = home.busy_once
    home.heard = lambda note: home.folder.store.set_control("stop", "stop")
    assert home.daemon.run() == "stopped"
    assert len(home.nights) == 1


def test_a_signal_in_the_night_ends_the_daemon_after_it(house: Callable[..., House]) -> None:
    home = house("10 23:10")
    home.night = home.daemon.stop
    assert home.daemon.run() == "stopped"
    assert len(home.nights) == 1 and not any(note.startswith("resting") for note in home.notes)


def test_a_signal_before_anything_began_is_heard(house: Callable[..., House]) -> None:
    home = house("10 23:10")
    home.daemon.stop()
    assert home.daemon.run() == "stopped"
    assert home.nights == []


@pytest.mark.timeout(30)
@pytest.mark.parametrize("now", ["10 12:00", "10 23:10"])
def test_a_signal_at_the_very_moment_when_the_daemon_lies_down_is_heard(house: Callable[..., House], now: str) -> None:
    home = house(now)
    home.heard = lambda note: None
    if now == "10 23:10":
        home.night = home.busy_once

    class Wake(threading.Event):
        def clear(self) -> None:
            home.daemon.stop()
            super().clear()

    home.daemon._wake = Wake()
    assert home.daemon.run() == "stopped"


def test_trouble_in_a_night_is_not_hidden_and_leaves_no_thread(house: Callable[..., House]) -> None:
    home = house("10 23:10")

    def trouble() -> None:
        raise UserError("the baseline itself fails")

    home.night = trouble
    with pytest.raises(UserError, match="baseline"):
        home.daemon.run()
    assert not home.scheduler.running
