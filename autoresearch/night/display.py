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
from autoresearch.evidence.status import status
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import Observer
from autoresearch.terminal.bars import RunBars
from autoresearch.terminal.views import outcome_line, trials_table
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
        minutes = (time.monotonic() - self._began) / 60
        head = Text(f"{self.folder.name}, {minutes:.1f} min. {self._headline}", style="bold")
        return Group(head, self._table, self._runs.bars, *(Text(note, style="yellow") for note in self._notes))

    def _read(self) -> None:
        self._table = trials_table(Evidence(self.folder), ROWS)
        self._headline = outcome_line(status(self.folder))

    def run_started(self, run: Run, trial: Trial) -> None:
        label = f"trial {run.trial} seed {run.seed}"
        if self._live:
            self._read()
            self._runs.begin(run.id, f"{label:<18}")
        else:
            change = ", ".join(f"{knob} = {value}" for knob, value in trial.changes.items()) or "baseline"
            self._say(f"{label}: {change}")

    def progress(self, event: launcher.Progress) -> None:
        self._runs.progress(event)

    def run_finished(self, run: Run, result: RunResult) -> None:
        self._runs.end(run.id)
        if self._live:
            self._read()
        else:
            score = (
                f"val_bpb {result.val_bpb:.4f}"
                if result.val_bpb is not None
                else f"{result.failure or result.state}: {result.message}"
            )
            self._say(f"trial {run.trial} seed {run.seed}: {score}")

    def trial_closed(self, trial: Trial) -> None:
        if self._live:
            self._read()
        else:
            parent = self.folder.store.trial(trial.parent or 0)
            change = words.change(trial.changes, parent.recipe if parent else {}) or "baseline"
            self._say(f"trial {trial.number}: {change}: {trial.decision or trial.state} ({trial.reason})")

    def note(self, text: str) -> None:
        if self._live:
            self._notes.append(clean(text, 300))
        else:
            self._say(text)

    def _say(self, text: str) -> None:
        self.console.print(Text(clean(text, 400)), soft_wrap=True)
