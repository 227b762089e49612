"""One night: puts machine, text, workers, proposer and study together, and ends it cleanly on a signal."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from autoresearch.config import LimitSettings
from autoresearch.errors import UserError
from autoresearch.morning.reporter import Reporter
from autoresearch.morning.trackers import Trackers
from autoresearch.night.limits import StopRule
from autoresearch.night.loop import StudyLoop
from autoresearch.night.watch import Watch
from autoresearch.proposers import Proposer, make_proposer
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import Observer, Observers
from autoresearch.study.requests import end_workers, machine_of_runs, start_workers
from autoresearch.study.settle import settle_script
from autoresearch.study.store import Store
from autoresearch.terminal.signals import polite_signals
from autoresearch.workers.local import LocalLauncher
from autoresearch.workers.machine import Machine
from rails import clean


class Night:
    """A session on one study; `on_signal` hears, besides the study, when a person wants it to end."""

    def __init__(
        self,
        folder: StudyFolder,
        observer: Observer,
        *,
        limits: LimitSettings | None = None,
        until: datetime | None = None,
        proposer: Proposer | None = None,
        on_signal: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.observer = folder, observer
        self.machine: Machine = machine_of_runs(folder, observer.note)
        self.proposer = proposer or make_proposer(folder.settings.proposer)
        self.stop = StopRule(folder, limits or folder.settings.limits, until)
        self._on_signal = on_signal

    def run(self) -> str:
        """Runs until a limit, the window's end or a signal; returns why. The caller holds the runner's lock."""
        folder = self.folder
        if folder.store.control == "stop":
            folder.store.set_control("run", "started again")
        if folder.store.control == "pause":
            self.observer.note(f"the study is paused: go on with `autoresearch resume {folder.name}`")
        if (fault := self.machine.compile_fault) is not None:
            self.observer.note(f"torch.compile does not work here, so runs go without: {clean(fault, 300)}")
        data_dir = folder.prepare_data()
        if (told := settle_script(folder)) is not None:
            self.observer.note(told)
        with Trackers(folder, folder.settings.trackers, self.observer.note) as trackers:
            launcher = start_workers(folder, self.machine)
            reporter = Reporter(folder, self.observer.note)
            watch = [Watch(folder, self.observer.note)] if folder.settings.trainer else []
            observers = Observers([self.observer, reporter, trackers, *watch])
            loop = StudyLoop(folder, launcher, self.proposer, self.machine, data_dir, self.stop, observers)
            metered_by = getattr(self.proposer, "metered_by", None)
            if metered_by and isinstance(launcher, LocalLauncher):  # a cluster's GPUs answer no questions
                metered_by(launcher.meter)
            try:
                with _written_down(folder.store), polite_signals(self._hear):
                    return loop.run()
            finally:
                self._tell_of_cluster(end_workers(folder, launcher))
                reporter.write(night_is_over=True)

    def _tell_of_cluster(self, used: str | None) -> None:
        if used is None:
            return
        with suppress(sqlite3.Error):  # the night may have ended because nothing can be written
            self.folder.store.log("cluster", used)
        self.observer.note(f"the cluster had {used}")

    def _hear(self, name: str) -> None:
        self.stop.request(f"ended by {name}", by_a_person=True)
        self._on_signal()
        self.observer.note(
            f"{name}: finishing the trials in flight; once more to end at once (nothing is lost either way)"
        )


@contextmanager
def _written_down(store: Store) -> Iterator[None]:
    """That a night begins, and why it ends where the loop cannot say so itself."""
    store.log("began", f"a night begins in process {os.getpid()}")
    try:
        yield
    except BaseException as error:
        kind, why = "ended", "ended at once by a second signal"
        if isinstance(error, UserError):
            why = str(error)
        elif isinstance(error, Exception):
            kind, why = "night_lost", clean(f"{type(error).__name__}: {error}", 300).rstrip(": ")
        with suppress(Exception):  # the error itself may be that nothing can be written
            store.log(kind, why)
        raise
