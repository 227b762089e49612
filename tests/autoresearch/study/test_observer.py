"""Whoever watches a study hears all of it, in the order in which it happened."""

from __future__ import annotations

from pathlib import Path

from studies import GOOD, change, make_study, run_study

from autoresearch.study.observer import Observer, Observers, Pace
from autoresearch.trial import Run, Trial
from autoresearch.workers.launcher import Progress
from trainer.protocol import RunResult


class Diary(Observer):
    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def progress(self, event: Progress) -> None:
        self.lines.append(f"progress {event.run_id}")

    def run_started(self, run: Run, trial: Trial) -> None:
        self.lines.append(f"started {run.id} of {trial.number}")

    def run_finished(self, run: Run, result: RunResult) -> None:
        self.lines.append(f"finished {run.id} {result.state}")

    def trial_closed(self, trial: Trial) -> None:
        self.lines.append(f"closed {trial.number} {trial.outcome}")

    def note(self, text: str) -> None:
        self.lines.append(f"note {text}")


def test_all_who_watch_hear_the_same_and_one_who_does_nothing_may_watch_too(tmp_path: Path) -> None:
    one, other = Diary([]), Diary([])
    answers = [change("lr", GOOD), change("n_layer", 2), change("lr", 9.0)]
    run_study(make_study(tmp_path), answers, workers=1, observer=Observers([one, Observer(), other]))
    assert one.lines == other.lines
    heard = one.lines
    assert heard[:3] == ["started 0000-0 of 0", "progress 0000-0", "finished 0000-0 complete"]
    assert [line for line in heard if line.startswith("closed")] == [
        "closed 0 baseline",
        "closed 1 keep",
        "closed 2 discard",
        "closed 3 blocked",
    ]
    assert heard.index("closed 0 baseline") < heard.index("started 0001-1 of 1")
    assert any("exit code 7" in line and "once more" in line for line in heard if line.startswith("note"))


def test_work_rests_twenty_times_as_long_as_it_took() -> None:
    now = 100.0
    pace = Pace(clock=lambda: now)
    assert pace.is_rested
    with pace.working():
        now += 2
    now += 39
    assert not pace.is_rested
    now += 1
    assert pace.is_rested
