"""Keeps the report of a running study up to date, and warns when its search turns to flailing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from autoresearch.evidence.meters import Verdicts
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import LONG, Observer, Pace
from autoresearch.trial import Trial
from rails import clean


class Reporter(Observer):
    """Rewrites the report after every trial; a long one at a pace, by another process. `note` hears its warnings."""

    def __init__(self, folder: StudyFolder, note: Callable[[str], None]) -> None:
        self.folder, self._note = folder, note
        self._verdicts = Verdicts(folder)
        self._verdict, _ = self._verdicts.now()
        self._pace = Pace()
        self._apart: subprocess.Popen[str] | None = None
        self._began = 0.0
        self._failed = False

    def trial_closed(self, trial: Trial) -> None:
        self._warn()
        if trial.number > LONG:  # seconds, and memory that would not come back
            self._write_apart()
        else:
            self.write()

    def write(self, *, night_is_over: bool = False) -> None:
        """Writes it here and now, after one that is being written has ended.

        night_is_over: said by the night itself, which holds the runner's lock a moment longer.
        """
        from autoresearch.morning.report.page import write_report

        if self._apart:
            self._hear_of(self._apart)
        try:
            write_report(self.folder, running=False if night_is_over else None)
            self._failed = False
        except Exception as error:  # the night goes on whatever becomes of its report
            self._tell(f"{type(error).__name__}: {error}")

    def _write_apart(self) -> None:
        if self._apart and self._apart.poll() is not None:
            self._hear_of(self._apart)
        if self._apart is None and self._pace.is_rested:
            command = ["-m", "autoresearch", "report", self.folder.name, "--home", str(self.folder.path.parent)]
            self._began = time.monotonic()
            self._apart = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C in the terminal is the runner's to handle
            )

    def _hear_of(self, apart: subprocess.Popen[str]) -> None:
        """What came of a report that was written apart; waits for it."""
        _, complaint = apart.communicate()
        self._pace.took(time.monotonic() - self._began)
        self._apart = None
        if apart.returncode:
            self._tell(complaint.strip().rpartition("\n")[2] or f"exit code {apart.returncode}")
        else:
            self._failed = False

    def _tell(self, problem: str) -> None:
        if not self._failed:
            self._note(f"the report could not be written ({clean(problem, 200)})")
        self._failed = True

    def _warn(self) -> None:
        verdict, why = self._verdicts.now()
        if verdict == "flailing" != self._verdict:
            message = (
                f"the search is flailing: {why}. Look at `autoresearch inspect {self.folder.name}`; another "
                "proposer (study.toml, [proposer]) or an idea of yours (`autoresearch propose`) may help"
            )
            self.folder.store.log("flailing", message)
            self._note(message)
        self._verdict = verdict
