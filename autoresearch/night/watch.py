"""Watches what a program of one's own does besides: whether it heeds its seed, and writes where others read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autoresearch import words
from autoresearch.evidence import Evidence
from autoresearch.evidence.sentences import seed_ignored
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import Observer
from autoresearch.trial import Run, Trial
from rails import clean
from trainer.protocol import RunResult

MOST_NAMED = 5
NO_MATTER = ("__pycache__",)

Look = dict[str, tuple[int, int]]  # name of what lies in a folder -> its time of change and size


class Watch(Observer):
    """Says each thing once a night, to the person and in the study's events; nothing of it ends a run."""

    def __init__(self, folder: StudyFolder, note: Callable[[str], None]) -> None:
        self.folder, self._note = folder, note
        own = folder.settings.trainer
        self._place = Path(own.folder) if own and own.folder else None
        self._before = _look(self._place)

    def run_finished(self, run: Run, result: RunResult) -> None:
        if self._place and self._before is not None and (now := _look(self._place)) != self._before:
            changed = sorted(name for name in now or {} if (now or {})[name] != self._before.get(name))
            gone = sorted(self._before.keys() - (now or {}).keys())
            self._before = None  # once a night is enough
            named = ", ".join(clean(name, 60) for name in [*changed, *gone][:MOST_NAMED])
            self._say(
                f"while {words.run(run.trial, run.seed)} was under way something changed in {self._place}: {named}; "
                "runs that write there, and not into AUTORESEARCH_FOLDER, change what later runs find"
            )

    def trial_closed(self, trial: Trial) -> None:
        if trial.number == 0 and (told := seed_ignored(Evidence(self.folder))):
            self._say(told)

    def _say(self, text: str) -> None:
        self._note(text)
        self.folder.store.log("program", text)


def _look(place: Path | None) -> Look | None:
    """The folder itself, not what lies deeper; hidden files and compiled code left out."""
    if place is None:
        return None
    found: Look = {}
    try:
        for path in place.iterdir():
            if not path.name.startswith(".") and path.name not in NO_MATTER:
                facts = path.lstat()
                found[path.name] = facts.st_mtime_ns, facts.st_size
    except OSError:
        return None
    return found
