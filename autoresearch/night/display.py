"""The night as it happens: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from autoresearch import words
from autoresearch.evidence import Evidence
from autoresearch.evidence.sentences import improved
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import LONG, Observer, Pace
from autoresearch.terminal.bars import RunBars
from autoresearch.terminal.trials import trials_table
from autoresearch.trial import Run, Trial
from autoresearch.workers import launcher
from rails import clean
from trainer.protocol import RunResult

ROWS = 12
NOTES = 3


class Display(Observer):
    """Watches a study. Use as a context manager around the night."""

    def __init__(self, folder: StudyFolder, console: Console) -> None:
        self.folder, self.console = folder, console
        self._runs = RunBars(console)
        self._notes: deque[str] = deque(maxlen=NOTES)
        self._live = Live(self, console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._began = time.monotonic()
        self._pace, self._is_long, self._behind = Pace(), False, False
        self._read()

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __rich__(self) -> Group:
        # Called from the drawing thread, so it reads no database.
        spent = words.duration(time.monotonic() - self._began)
        head = Text(f"{self.folder.name}, {spent}. {self._headline}", style="bold")
        return Group(head, self._table, self._runs.bars, *(Text(note, style="yellow") for note in self._notes))

    def _read(self) -> None:
        """Now; a long study, where that would take too much of the night, with a later event."""
        self._behind = self._is_long and not self._pace.is_rested
        if not self._behind:
            with self._pace.working():
                evidence = Evidence(self.folder)
                self._table, self._headline = trials_table(evidence, ROWS), improved(evidence)
            self._is_long = len(evidence.trials) > LONG

    def run_started(self, run: Run, trial: Trial) -> None:
        label = words.run(run.trial, run.seed)
        if self._live:
            self._read()
            self._runs.begin(run.id, f"{label:<18}")
        else:
            change = ", ".join(f"{knob} = {words.value(new)}" for knob, new in trial.changes.items()) or "baseline"
            self._say(f"{label}: {change}")

    def progress(self, event: launcher.Progress) -> None:
        self._runs.progress(event)
        if self._behind and self._live:
            self._read()

    def run_finished(self, run: Run, result: RunResult) -> None:
        self._runs.end(run.id)
        if self._live:
            self._read()
        else:
            ending = words.ending(result.val_bpb, result.failure or result.state, result.message, self.folder.metric)
            self._say(f"{words.run(run.trial, run.seed)}: {ending}")

    def trial_closed(self, trial: Trial) -> None:
        if self._live:
            self._read()
        else:
            parent = self.folder.store.trial(trial.parent or 0)
            nothing = "no readable change" if trial.number else "baseline"
            change = words.change(trial.changes, parent.recipe if parent else {}) or nothing
            self._say(f"trial {trial.number}: {change}: {words.state(trial.outcome)} ({trial.reason})")

    def note(self, text: str) -> None:
        if self._live:
            self._notes.append(clean(text, 300))
        else:
            self._say(text)

    def _say(self, text: str) -> None:
        self.console.print(Text(clean(text, 400)), soft_wrap=True)
