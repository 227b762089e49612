"""The daemon: waits for the study's window, runs a night, rests, and does so again every night."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.job import Job
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from autoresearch import words
from autoresearch.config import ScheduleSettings, parse_clock
from autoresearch.errors import BaselineFails, StudyBusy, UserError
from autoresearch.study.folder import StudyFolder
from rails import RailsError, clean

CONTROL_POLL_SECONDS = 1.0
BUSY_SECONDS = 30.0
# After the first night that was lost to an error, the second in a row, and so on; the last for all that follow.
REST_SECONDS = (60.0, 300.0, 900.0, 3600.0)


def zone(settings: ScheduleSettings) -> tzinfo:
    """The window's time zone; the machine's own unless study.toml names one."""
    try:
        if settings.timezone is None:  # with its summer and its winter time: a daemon outlives the change
            return BackgroundScheduler().timezone
        return ZoneInfo(settings.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UserError(f"schedule.timezone is {settings.timezone!r}: give a name such as Europe/Zurich") from None


def next_time(clock: str, now: datetime) -> datetime:
    """The next moment at which the clock shows HH:MM, in now's own time zone."""
    hour, minute = parse_clock(clock)
    then = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return then if then > now else then + timedelta(days=1)


def window_end(settings: ScheduleSettings, now: datetime) -> datetime | None:
    """When the window that `now` lies in ends; None outside it. A window may span midnight."""
    end = next_time(settings.stop, now)
    return end if next_time(settings.start, now) >= end else None  # equal: the whole day


class Daemon:
    """Runs `night(until)` in every window: the cron trigger wakes it; `stop` ends it for good.

    study.toml is read again before each night, and when it changes while the daemon rests. A night that is lost to an
    error is tried again after a rest; only a person's mistake ends the daemon. `rest_seconds`: see REST_SECONDS.
    """

    def __init__(
        self,
        folder: StudyFolder,
        night: Callable[[datetime], str],
        note: Callable[[str], None],
        rest_seconds: Sequence[float] = REST_SECONDS,
    ) -> None:
        self.folder, self.night, self.note = folder, night, note
        self.rest_seconds = rest_seconds
        self.zone = zone(folder.settings.schedule)
        self._wake = threading.Event()
        self._ended = False
        self._lost_in_a_row = 0
        self._read, self._in_force = self._content(), True

    def stop(self) -> None:
        """Ends the daemon while it rests; a night in progress ends by its own rule. Safe in a signal handler."""
        self._ended = True

    def run(self) -> str:
        """Returns why it ended: told to stop. Raises UserError for what only a person can mend."""
        scheduler = BackgroundScheduler(timezone=self.zone)
        job = scheduler.add_job(
            self._wake.set,
            self._trigger(),
            coalesce=True,
            misfire_grace_time=None,  # a laptop that slept through the start still gets the rest of its night
        )
        scheduler.start()
        try:
            while not self._ended:
                self._wake.clear()  # before the night: a start that falls into a late one is then not lost
                self._reread(job)
                end = window_end(self.folder.settings.schedule, datetime.now(self.zone))
                if end is not None and (seconds := self._run_night(end)):
                    self._wait(scheduler, job, seconds)
                elif not self._ended and not self._wake.is_set():
                    self.note(f"resting until {job.next_run_time:%Y-%m-%d %H:%M}")
                    self._wait(scheduler, job)
        finally:
            scheduler.shutdown(wait=False)
        return "stopped"

    def _trigger(self) -> CronTrigger:
        hour, minute = parse_clock(self.folder.settings.schedule.start)
        return CronTrigger(hour=hour, minute=minute, timezone=self.zone)

    def _run_night(self, end: datetime) -> float:
        """Seconds to wait before the same window is tried again; 0: the night is over."""
        try:
            reason = self.night(end)
        except StudyBusy as error:
            self.note(str(error))
            return BUSY_SECONDS
        except BaselineFails as error:  # the machine's fault, perhaps, and not for ever
            return self._rest_after(str(error))
        except (UserError, RailsError):
            raise
        except Exception as error:
            problem = clean(f"{type(error).__name__}: {error}", 300).rstrip(": ")
            return self._rest_after(f"{problem} ({self._write_down()})")
        self._lost_in_a_row = 0
        self.note(f"night ended: {reason}")
        self._ended = self._ended or self._told_to_stop()
        return 0.0

    def _rest_after(self, problem: str) -> float:
        seconds = self.rest_seconds[min(self._lost_in_a_row, len(self.rest_seconds) - 1)]
        self._lost_in_a_row += 1
        self._tell(f"the night was lost: {problem}; resting for {words.duration(seconds)}, then it is tried again")
        return seconds

    def _write_down(self) -> str:
        """Where the traceback of the error at hand is found."""
        path = self.folder.path / "errors.log"
        try:
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{datetime.now(self.zone).isoformat()}\n{traceback.format_exc()}\n")
        except OSError as error:
            return f"its traceback could not be written to {path}: {error.strerror}"
        return f"traceback in {path}"

    def _tell(self, text: str) -> None:
        """In the terminal and, where that can be written, among the study's events."""
        with suppress(sqlite3.Error):
            self.folder.store.log("daemon", text)
        self.note(text)

    def _wait(self, scheduler: BackgroundScheduler, job: Job, seconds: float = math.inf) -> None:
        """Until the trigger, a signal, a person's word, another window, or the seconds are over."""
        deadline = time.monotonic() + seconds
        while not self._ended and (left := deadline - time.monotonic()) > 0:
            if self._wake.wait(min(left, CONTROL_POLL_SECONDS)):
                return
            self._ended = self._ended or self._told_to_stop()
            if self._reread(job):
                return
            scheduler.wakeup()  # to look at the clock: when the machine has slept, its timer is late by as much

    def _told_to_stop(self) -> bool:
        with suppress(sqlite3.Error):  # it is asked again in a moment
            return self.folder.store.control == "stop"
        return False

    # --- study.toml ---

    def _reread(self, job: Job) -> bool:
        """Takes over a study.toml that was edited; one that cannot be used changes nothing. True: another window."""
        if (content := self._content()) == self._read:
            return False
        self._read, before = content, self.folder.settings
        try:
            changed = self.folder.reread_settings()
            self.zone = zone(self.folder.settings.schedule)
        except UserError as error:
            self.folder.settings, self._in_force = before, False
            self._tell(f"{error}; until that is mended the settings of before are in force")
            return False
        if changed or not self._in_force:
            self._tell(f"study.toml is read again: {', '.join(changed) or 'nothing'} in it has changed")
        self._in_force = True
        if "schedule" not in changed:
            return False
        job.reschedule(self._trigger())
        return True

    def _content(self) -> bytes | None:
        try:
            return (self.folder.path / "study.toml").read_bytes()
        except OSError:
            return None
