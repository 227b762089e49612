"""Whoever watches a study hears here what happens in it."""

from __future__ import annotations

from collections.abc import Sequence

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
