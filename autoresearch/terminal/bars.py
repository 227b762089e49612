"""Progress bars: of text that is being prepared and of runs in flight."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from autoresearch.workers import launcher
from rails import clean


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
