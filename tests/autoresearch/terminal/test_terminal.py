"""What a person reads in the terminal: tables, one trial whole, the end of a night, in any encoding."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from studies import GOOD, change, make_study, run_study

from autoresearch import words
from autoresearch.evidence import Evidence
from autoresearch.evidence.meters import measure
from autoresearch.evidence.status import status
from autoresearch.study.folder import StudyFolder
from autoresearch.study.lock import RunnerLock
from autoresearch.terminal.bars import RunBars
from autoresearch.terminal.meters import meter_lines, meters_view
from autoresearch.terminal.outcome import show_outcome
from autoresearch.terminal.status import status_view
from autoresearch.terminal.trials import trial_view, trials_table
from autoresearch.workers.launcher import Progress

HOSTILE = "[red]\x1b[2J\u202e<b>"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A keep, a failure, a proposal that is blocked and says hostile things, and a discard."""
    folder = make_study(tmp_path_factory.mktemp("ran"))
    answers = [change("lr", GOOD), change("beta1", 0.55), change("lr", 9.0, HOSTILE), change("d_ff", 1024)]
    run_study(folder, answers, workers=1)
    return folder


def shown(view: RenderableType, width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(view)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_every_trial_has_a_line_with_its_score_interval_and_outcome(ran: StudyFolder) -> None:
    evidence = Evidence(ran)
    lines = shown(trials_table(evidence)).splitlines()[1:]
    assert len(lines) == 5 and lines[0].rstrip().endswith("baseline")
    kept = evidence.trials[1]
    assert words.plus_minus(kept.val_bpb, evidence.noise.half_width(kept.n_runs)) in lines[1]
    assert words.gain(kept.improvement, kept.improvement_low, kept.improvement_high) in lines[1]
    assert "failed: seed 1: diverged" in lines[2] and "blocked range" in lines[3]
    assert len(shown(trials_table(evidence, last=2)).splitlines()) == 3


def test_one_trial_is_shown_with_the_words_of_the_table(ran: StudyFolder) -> None:
    evidence = Evidence(ran)
    kept = evidence.trials[1]
    text = shown(trial_view(evidence, kept, evidence.runs[1], ran.store.proposal(1), ""))
    assert "1, on trial 0" in text and f"over {kept.n_runs} runs" in text and "than trial 0" in text
    assert words.energy(kept.energy_joules, ["estimate"]) in text
    discarded = evidence.trials[4]
    text = shown(trial_view(evidence, discarded, evidence.runs[4], ran.store.proposal(4), ""))
    assert f"over {words.count(discarded.n_runs, 'run')}" in text


def test_a_models_text_is_shown_as_text(ran: StudyFolder) -> None:
    evidence = Evidence(ran)
    text = shown(trial_view(evidence, evidence.trials[3], [], ran.store.proposal(3), f"+{HOSTILE}"))
    assert "[red]" in text and "<b>" in text and "\x1b" not in text and "\u202e" not in text


def test_status_says_who_runs_the_study_and_what_stands(ran: StudyFolder) -> None:
    with RunnerLock(ran.path):
        text = shown(status_view(status(ran)))
    assert f"running by process {os.getpid()}" in text
    assert re.search(r"baseline +trial 0: val_bpb \d\.\d{4} ± \d\.\d{4} \(\d+ runs\), test", text)
    assert "1 blocked, 1 discard, 1 failed, 1 keep" in text
    assert "one, not running" not in text and "not running" in shown(status_view(status(ran)))


def test_a_study_without_a_number_says_so(tmp_path: Path) -> None:
    text = shown(status_view(status(make_study(tmp_path))))
    assert text.count("not measured yet") == 2 and "none yet" in text


def test_each_meter_has_a_line_where_there_is_something_to_tell(ran: StudyFolder, tmp_path: Path) -> None:
    lines = {line.name: line for line in meter_lines(measure(Evidence(ran)))}
    assert lines["proposals"].text == "4, 3 trained, 1 blocked, 1 failed"
    assert lines["knobs turned"].value == "3 of 13" and "never turned: n_layer" in lines["knobs turned"].note
    assert lines["blocked"].note == "by rail: range 1"
    assert lines["gain"].value.startswith("0.16") and "per kWh" in lines["gain"].note
    nothing = measure(Evidence(make_study(tmp_path)))
    assert {line.name for line in meter_lines(nothing)} == {"proposals", "knobs turned", "different ideas", "plateau"}
    assert shown(meters_view(nothing)).startswith("researching: 0 proposals so far")


def test_the_end_of_a_night_says_what_came_of_it_and_what_to_do_next(ran: StudyFolder) -> None:
    console = Console(width=200, file=io.StringIO(), highlight=False)
    show_outcome(console, ran, "2 trials done, as asked")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"The best recipe, trial 1's, is better than the baseline by 0\.1\d+ ± 0\.\d+ bits per byte", text)
    assert "Ended: 2 trials done, as asked." in text and "autoresearch promote one" in text
    assert text.rstrip().endswith("report/index.html")


def test_a_run_in_flight_has_a_bar_until_it_ends() -> None:
    bars = RunBars(Console(file=io.StringIO()))
    bars.progress(Progress("0001-0", "train", 1, 2, 3.0))  # of a run that nobody began: nothing to draw
    bars.begin("0001-0", "trial 1 seed 0")
    bars.progress(Progress("0001-0", "train", 5, 10, 3.25))
    (task,) = bars.bars.tasks
    assert (task.completed, task.total, task.fields["note"]) == (5, 10, "train loss 3.250")
    bars.end("0001-0")
    bars.end("0001-0")
    assert bars.bars.tasks == []


@pytest.mark.parametrize(("encoding", "sign"), [("utf-8", "±"), ("ascii", "+-"), ("latin-1", "±")])
def test_signs_that_an_encoding_lacks_are_written_in_letters(ran: StudyFolder, encoding: str, sign: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autoresearch", "trials", "one", "--home", str(ran.path.parent)],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"val_bpb {sign} 95 %" in done.stdout.decode(encoding)
