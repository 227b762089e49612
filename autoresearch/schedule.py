"""The daemon: waits for the study's window, runs a night, rests, and does so again every night."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from autoresearch.config import ScheduleSettings, parse_clock
from autoresearch.errors import StudyBusy, UserError
from autoresearch.folder import StudyFolder

CONTROL_POLL_SECONDS = 1.0
BUSY_SECONDS = 30.0


def zone(settings: ScheduleSettings) -> tzinfo:
    """The window's time zone; the machine's own unless study.toml names one."""
    if settings.timezone is None:
        local = datetime.now().astimezone().tzinfo
        assert local is not None
        return local
    try:
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
    return end if next_time(settings.start, now) > end or settings.start == settings.stop else None


class Daemon:
    """Runs `night(until)` in every window: the cron trigger wakes it; `stop` ends it for good."""

    def __init__(self, folder: StudyFolder, night: Callable[[datetime], str], note: Callable[[str], None]) -> None:
        self.folder, self.night, self.note = folder, night, note
        self.zone = zone(folder.settings.schedule)
        self._wake = threading.Event()
        self._ended = False

    def stop(self) -> None:
        """Ends the daemon while it rests; a night in progress ends by its own rule."""
        self._ended = True
        self._wake.set()

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
                end = window_end(settings, datetime.now(self.zone))
                if end is not None and not self._run_night(end):
                    self._wake.wait(BUSY_SECONDS)
                elif not self._ended:
                    self._rest(job.next_run_time)
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

    def _rest(self, until: datetime) -> None:
        self._wake.clear()
        self.note(f"resting until {until:%Y-%m-%d %H:%M}")
        while not self._wake.wait(CONTROL_POLL_SECONDS):
            if self.folder.store.control == "stop":
                self._ended = True
                return
