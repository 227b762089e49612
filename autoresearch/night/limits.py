"""When a night ends: trials, hours, energy, cost, free disk, the window's end, or a person's word."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from autoresearch import words
from autoresearch.config import LimitSettings
from autoresearch.cost import cost
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import Clock, iso, utc_now
from autoresearch.workers.energy import JOULES_PER_KWH

GIB = 2**30
SECONDS_PER_HOUR = 3600.0


def uptime() -> float:
    """Seconds since the machine was started, those that it slept among them; setting its clock changes nothing.

    Where a system does not count its sleep (others than Linux), without it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass
class StopRule:
    """Asked before each new trial; what has begun is always finished. All limits count from the start of this night.

    clock: the time of day, for the window's end and for what was written down since. seconds: for the limit in hours,
    a clock that cannot jump. Eight hours are over eight hours later, also for a laptop that slept through some of them.
    """

    folder: StudyFolder
    limits: LimitSettings
    until: datetime | None = None
    clock: Clock = utc_now
    seconds: Callable[[], float] = uptime

    def __post_init__(self) -> None:
        self._began, self._began_seconds = self.clock(), self.seconds()
        self._trials = 0
        self._requested: str | None = None
        self._by_a_person = False
        self.is_over = False  # no run is begun any more; trials that are not settled wait for the next night

    def request(self, reason: str, *, by_a_person: bool = False, is_over: bool = False) -> None:
        """Ends the night at the trial boundary or, is_over, with the runs in flight."""
        self._requested = self._requested or reason
        self._by_a_person = self._by_a_person or by_a_person
        self.is_over = self.is_over or is_over

    @property
    def is_urgent(self) -> bool:
        """Whether a person asked for the end, or the disk does: then nothing is begun any more that could wait."""
        return self._by_a_person or self.folder.store.control == "stop" or self._free_bytes_if_few() is not None

    def trial_started(self) -> None:
        self._trials += 1

    def paused(self) -> bool:
        return self.folder.store.control == "pause"

    @property
    def is_late(self) -> bool:
        """Whether the time is over that this night was given."""
        return self._late() is not None

    def reason(self) -> str | None:
        """Why no new trial may begin, in words; None while one may."""
        limits = self.limits
        if self._requested:
            return self._requested
        if self.folder.store.control == "stop":
            return "stopped by `autoresearch stop`"
        if limits.trials is not None and self._trials >= limits.trials:
            return f"{words.count(self._trials, 'trial')} done, as asked"
        if (late := self._late()) is not None:
            return late
        if limits.kwh is not None or limits.cost is not None:
            spent = self.folder.store.totals(iso(self._began))
            if limits.kwh is not None and spent["joules"] / JOULES_PER_KWH >= limits.kwh:
                return f"the limit of {limits.kwh:g} kWh is reached"
            settings, tokens = self.folder.settings, (spent["prompt_tokens"], spent["completion_tokens"])
            total = cost(settings, spent["joules"], *tokens).total or 0.0
            if limits.cost is not None and total >= limits.cost:
                return f"the limit of {limits.cost:g} {settings.energy.currency} is reached"
        if (free := self._free_bytes_if_few()) is not None:
            return f"only {free / GIB:.1f} GiB of disk are free, limits.min_free_disk_bytes asks for more"
        return None

    def _late(self) -> str | None:
        hours = self.limits.hours
        if self.until and self.clock() >= self.until:
            return f"it is {self.until.astimezone():%H:%M}, the end of the night"
        if hours is not None and self.seconds() - self._began_seconds >= hours * SECONDS_PER_HOUR:
            return f"the limit of {hours:g} hours is reached"
        return None

    def _free_bytes_if_few(self) -> int | None:
        free = shutil.disk_usage(self.folder.path).free
        return free if free < self.limits.min_free_disk_bytes else None
