"""The daemon: waits for the study's window, runs a night, rests, and does so again every night."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from autoresearch.config import ScheduleSettings, parse_clock
from autoresearch.errors import StudyBusy, UserError
from autoresearch.study.folder import StudyFolder

CONTROL_POLL_SECONDS = 1.0
BUSY_SECONDS = 30.0


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
    """Runs `night(until)` in every window: the cron trigger wakes it; `stop` ends it for good."""

    def __init__(self, folder: StudyFolder, night: Callable[[datetime], str], note: Callable[[str], None]) -> None:
        self.folder, self.night, self.note = folder, night, note
        self.zone = zone(folder.settings.schedule)
        self._wake = threading.Event()
        self._ended = False

    def stop(self) -> None:
        """Ends the daemon while it rests; a night in progress ends by its own rule. Safe in a signal handler."""
        self._ended = True

    def run(self) -> str:
        """Returns why it ended: told to stop."""
        settings = self.folder.settings.schedule
        hour, minute = parse_clock(settings.start)
        scheduler = BackgroundScheduler(timezone=self.zone)
        job = scheduler.add_job(
            self._wake.set,
            CronTrigger(hour=hour, minute=minute, timezone=self.zone),
            coalesce=True,
            misfire_grace_time=None,  # a laptop that slept through the start still gets the rest of its night
        )
        scheduler.start()
        try:
            while not self._ended:
                self._wake.clear()  # before the night: a start that falls into a late one is then not lost
                end = window_end(settings, datetime.now(self.zone))
                if end is not None and not self._run_night(end):
                    self._wait(scheduler, BUSY_SECONDS)
                elif not self._ended and not self._wake.is_set():
                    self.note(f"resting until {job.next_run_time:%Y-%m-%d %H:%M}")
                    self._wait(scheduler)
        finally:
            scheduler.shutdown(wait=False)
        return "stopped"

    def _run_night(self, end: datetime) -> bool:
        """False if somebody else runs the study just now."""
        try:
            reason = self.night(end)
        except StudyBusy as error:
            self.note(str(error))
            return False
        self.note(f"night ended: {reason}")
        self._ended = self._ended or self.folder.store.control == "stop"
        return True

    def _wait(self, scheduler: BackgroundScheduler, seconds: float = math.inf) -> None:
        """Until the trigger, a signal, a person's word, or the seconds are over."""
        deadline = time.monotonic() + seconds
        while not self._ended and time.monotonic() < deadline:
            if self._wake.wait(CONTROL_POLL_SECONDS):
                return
            self._ended = self._ended or self.folder.store.control == "stop"
            scheduler.wakeup()  # to look at the clock: when the machine has slept, its timer is late by as much
