"""The report of a running study: there after every trial, and never what ends a night."""

from __future__ import annotations

from pathlib import Path

import pytest
from studies import GOOD, change, make_study, run_study

from autoresearch.morning import reporter
from autoresearch.morning.reporter import Reporter
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import Observer, Observers
from autoresearch.trial import Trial


class Notes(Observer):
    """Keeps what is said, and the report as it stood when each trial had closed."""

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder
        self.heard: list[str] = []
        self.reports: list[str] = []

    def note(self, text: str) -> None:
        self.heard.append(text)

    def trial_closed(self, trial: Trial) -> None:
        report = self.folder.path / "report" / "report.md"
        self.reports.append(report.read_text() if report.is_file() else "")


def watch(folder: StudyFolder) -> tuple[Notes, Observers]:
    notes = Notes(folder)
    return notes, Observers([Reporter(folder, notes.note), notes])


def test_the_report_is_written_anew_after_every_trial(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "home")
    notes, observers = watch(folder)
    run_study(folder, [change("lr", GOOD), change("d_ff", 1024)], workers=1, observer=observers)
    assert ["Nothing has been tried yet" in report for report in notes.reports] == [True, False, False]
    assert ["2 changes were trained" in report for report in notes.reports] == [False, False, True]
    assert [path.name for path in sorted((folder.path / "report").iterdir())] == ["index.html", "report.md"]


def test_the_night_warns_once_when_the_search_turns_to_flailing(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "home", decision__max_runs=2)
    notes, observers = watch(folder)
    run_study(folder, [change("lr", GOOD)] * 15, workers=1, observer=observers)
    assert sum("flailing" in text for text in notes.heard) == 1
    assert [event["kind"] for event in folder.store.events(100)].count("flailing") == 1


def test_a_report_that_cannot_be_written_is_told_once_and_the_night_goes_on(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "home")
    (folder.path / "report").write_text("in the way")
    notes, observers = watch(folder)
    run_study(folder, [change("lr", GOOD), change("d_ff", 1024)], workers=1, observer=observers)
    assert [trial.state for trial in folder.store.trials()] == ["complete"] * 3
    assert sum("the report could not be written" in text for text in notes.heard) == 1


def test_a_long_report_is_written_by_a_process_of_its_own_and_once_more_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "LONG", 1)
    folder = make_study(tmp_path / "home")
    keeper = Reporter(folder, print)
    run_study(folder, [change("lr", GOOD), change("d_ff", 1024)], workers=1)
    first, *_, last = folder.store.trials()
    keeper.trial_closed(last)
    apart = keeper._apart
    assert apart is not None and apart.wait(60) == 0
    report = folder.path / "report" / "report.md"
    assert "2 changes were trained" in report.read_text()
    report.unlink()
    keeper.trial_closed(last)  # it rests
    assert keeper._apart is None and not report.exists()
    keeper.write()
    assert "2 changes were trained" in report.read_text()
    keeper.trial_closed(first)
    assert keeper._apart is None


def test_a_long_report_that_cannot_be_written_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "LONG", -1)
    folder = make_study(tmp_path / "home")
    (folder.path / "report").write_text("in the way")
    heard: list[str] = []
    keeper = Reporter(folder, heard.append)
    keeper.trial_closed(folder.store.trials()[0])
    keeper.write()
    (told,) = heard
    assert told.startswith("the report could not be written (") and "report" in told
