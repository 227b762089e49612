"""The night as it happens: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from autoresearch import launcher, story
from autoresearch.evidence import Evidence
from autoresearch.folder import StudyFolder
from autoresearch.observer import Observer
from autoresearch.trial import Run, Trial
from autoresearch.views import outcome_line, status, trials_table
from rails import clean
from trainer.protocol import RunResult

ROWS = 12
NOTES = 3


def bars(console: Console) -> Progress:
    """Progress bars in the house's style; the caller shows them."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(24), TaskProgressColumn(), TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(), console=console,
    )  # fmt: skip


class PrepareProgress:
    """Shows the stages of preparing text. Use as a context manager; call with (stage, done, total)."""

    def __init__(self, console: Console) -> None:
        self._progress = bars(console)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> PrepareProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tasks:
            self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._progress.start()  # only now: text that is ready needs no bars
        if stage not in self._tasks:
            for task in self._progress.tasks:  # totals of reading are a guess; a stage that is over is all done
                self._progress.update(task.id, completed=task.total)
            self._tasks[stage] = self._progress.add_task(f"prepare: {clean(stage, 40)}", total=total, note="")
        self._progress.update(self._tasks[stage], completed=done, total=total)


class RunBars:
    """A progress bar for each run in flight; whoever shows `bars` shows them."""

    def __init__(self, console: Console) -> None:
        self.bars = bars(console)
        self._tasks: dict[str, TaskID] = {}

    def begin(self, run_id: str, label: str) -> None:
        self._tasks[run_id] = self.bars.add_task(label, total=None, note="starting")

    def progress(self, event: launcher.Progress) -> None:
        if event.run_id in self._tasks:
            loss = f"loss {event.loss:.3f}" if event.loss is not None else ""
            task, note = self._tasks[event.run_id], f"{event.phase} {loss}"
            self.bars.update(task, completed=event.step, total=event.steps, note=note)

    def end(self, run_id: str) -> None:
        if run_id in self._tasks:
            self.bars.remove_task(self._tasks.pop(run_id))


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
                f"val_bpb {result.val_bpb:.4f}" if result.val_bpb is not None else f"{result.failure}: {result.message}"
            )
            self._say(f"trial {run.trial} seed {run.seed}: {score}")

    def trial_closed(self, trial: Trial) -> None:
        if self._live:
            self._read()
        else:
            parent = self.folder.store.trial(trial.parent or 0)
            change = story.changed(trial.changes, parent.recipe if parent else {}) or "baseline"
            self._say(f"trial {trial.number}: {change}: {trial.decision or trial.state} ({trial.reason})")

    def note(self, text: str) -> None:
        if self._live:
            self._notes.append(clean(text, 300))
        else:
            self._say(text)

    def _say(self, text: str) -> None:
        self.console.print(Text(clean(text, 400)), soft_wrap=True)
