"""Whoever watches a study hears here what happens in it, and may look it through at a pace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from autoresearch.trial import Run, Trial
from autoresearch.workers.launcher import Progress
from trainer.protocol import RunResult


class Observer:
    """Hears what happens, for whoever watches; does nothing by itself."""

    def progress(self, event: Progress) -> None: ...

    def run_started(self, run: Run, trial: Trial) -> None: ...

    def run_finished(self, run: Run, result: RunResult) -> None: ...

    def trial_closed(self, trial: Trial) -> None: ...

    def note(self, text: str) -> None: ...


# A study with more trials is looked through at a pace.
LONG = 200


class Pace:
    """Keeps work that grows with the study at a small share of the night: it rests REST times as long as it took."""

    REST = 20.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._rested = clock, -math.inf

    @property
    def is_rested(self) -> bool:
        return self._clock() >= self._rested

    def took(self, seconds: float) -> None:
        """Work has just ended that took so long."""
        self._rested = self._clock() + self.REST * seconds

    @contextmanager
    def working(self) -> Iterator[None]:
        began = self._clock()
        yield
        self.took(self._clock() - began)


class Observers(Observer):
    """Several that watch, told one after another."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = observers

    def progress(self, event: Progress) -> None:
        for observer in self.observers:
            observer.progress(event)

    def run_started(self, run: Run, trial: Trial) -> None:
        for observer in self.observers:
            observer.run_started(run, trial)

    def run_finished(self, run: Run, result: RunResult) -> None:
        for observer in self.observers:
            observer.run_finished(run, result)

    def trial_closed(self, trial: Trial) -> None:
        for observer in self.observers:
            observer.trial_closed(trial)

    def note(self, text: str) -> None:
        for observer in self.observers:
            observer.note(text)
