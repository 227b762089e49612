"""When to ask a proposer that takes long: as late as it can be, so that it knows most, and before a worker is idle."""

from __future__ import annotations

import time
from collections.abc import Callable

from autoresearch.workers.launcher import Progress

FIRST_SECONDS = 10.0  # that an answer is thought to take, until one has come
MARGIN = 1.5  # times the last answer's


class Ahead:
    """Knows how long the runs in flight still take, by their steps, and how long answers took."""

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._first: dict[str, tuple[float, int]] = {}  # run -> when it was first seen training, and at which step
        self._end: dict[str, float] = {}
        self._answer_took = FIRST_SECONDS

    def progress(self, event: Progress) -> None:
        now = self._seconds()
        began, at = self._first.setdefault(event.run_id, (now, event.step))
        if event.step > at:
            self._end[event.run_id] = now + (now - began) / (event.step - at) * (event.steps - event.step)

    def ended(self, run_id: str) -> None:
        self._first.pop(run_id, None)
        self._end.pop(run_id, None)

    def answered(self, took_seconds: float) -> None:
        """0: no model was asked after all, which says nothing of the next time."""
        self._answer_took = took_seconds or self._answer_took

    def is_time(self) -> bool:
        """Whether an answer that is asked for now would come about when the first run ends."""
        return bool(self._end) and min(self._end.values()) - self._seconds() <= MARGIN * self._answer_took
