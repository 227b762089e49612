"""Keeps the report of a running study up to date, and warns when its search turns to flailing."""

from __future__ import annotations

from collections.abc import Callable

from autoresearch.evidence.meters import SearchVerdict, meters_of
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import Observer
from autoresearch.trial import Trial
from rails import clean


class Reporter(Observer):
    """Rewrites the report after every trial; `note` hears its warnings."""

    def __init__(self, folder: StudyFolder, note: Callable[[str], None]) -> None:
        self.folder, self._note = folder, note
        self._verdict: SearchVerdict = meters_of(folder).verdict
        self._failed = False

    def trial_closed(self, trial: Trial) -> None:
        self._warn()
        self.write()

    def write(self, *, night_is_over: bool = False) -> None:
        """night_is_over: said by the night itself, which holds the runner's lock a moment longer."""
        from autoresearch.morning.report.page import write_report

        try:
            write_report(self.folder, running=False if night_is_over else None)
            self._failed = False
        except Exception as error:  # the night goes on whatever becomes of its report
            if not self._failed:
                self._note(f"the report could not be written ({type(error).__name__}: {clean(str(error), 200)})")
            self._failed = True

    def _warn(self) -> None:
        meters = meters_of(self.folder)
        if meters.verdict == "flailing" != self._verdict:
            message = (
                f"the search is flailing: {meters.why}. Look at `autoresearch inspect {self.folder.name}`; another "
                "proposer (study.toml, [proposer]) or an idea of yours (`autoresearch propose`) may help"
            )
            self.folder.store.log("flailing", message)
            self._note(message)
        self._verdict = meters.verdict
