"""What the report says of the nights themselves: that the model was silent, why a night ended, that none goes on."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from studies import GOOD, change, make_study, run_study

from autoresearch.evidence import Evidence
from autoresearch.evidence.nights import ending, silence, trouble
from autoresearch.evidence.status import status
from autoresearch.morning.report.facts import facts
from autoresearch.morning.report.markdown import markdown
from autoresearch.proposers import make_proposer
from autoresearch.proposers.classic import ScriptedProposer
from autoresearch.study.folder import StudyFolder
from autoresearch.study.lock import RunnerLock
from autoresearch.terminal.outcome import show_outcome
from autoresearch.trial import History, Proposal


class Model:
    """A language model that answers the trials in `answers`, and tpe that stands in for it."""

    name = "llm"

    def __init__(self, answers: set[int]) -> None:
        self.answers = answers
        self.script = ScriptedProposer([change("lr", value) for value in (GOOD, 0.0039, 0.0041, 0.0042, 0.0038)])

    def propose(self, history: History) -> Proposal:
        found = self.script.propose(history)
        if history.number in self.answers:
            return replace(found, proposer="llm", model="m")
        note = "http://m does not answer (APIConnectionError: a; b); tpe proposes until trial 9"
        return replace(found, proposer="tpe", notes=[note] if history.number % 2 else [])


def night(home: Path, answers: set[int]) -> StudyFolder:
    folder = make_study(home)
    run_study(folder, proposer=Model(answers), trials=5, workers=1)
    return folder


@pytest.mark.parametrize(
    "answers, told",
    [
        (set[int](), "The language model never answered: it was asked 3 times in vain since trial 1 (2"),
        ({1, 2}, "The language model has not answered since trial 3 (2"),
        ({2, 5}, "The language model did not answer 2 times, from trial 1 to 3; instead of it proposed tpe 3 trials."),
    ],
)
def test_a_silent_model_is_told_everywhere(tmp_path: Path, answers: set[int], told: str) -> None:
    folder = night(tmp_path, answers)
    (said,) = silence(Evidence(folder))
    assert said.startswith(told)
    assert f"; instead of it proposed tpe {5 - len(answers)} trials. " in said
    assert said.endswith('The last time: "http://m does not answer (APIConnectionError: a; b)".')
    assert facts(folder).warnings[0] == said, "nothing is graver"
    assert told.partition(" (")[0] in markdown(facts(folder))
    assert status(folder).trouble == [said]
    console = Console(width=1000)
    with console.capture() as shown:
        show_outcome(console, folder, "5 trials done, as asked")
    assert said in shown.get()


def test_a_model_that_answers_is_not_spoken_of(tmp_path: Path) -> None:
    folder = night(tmp_path, {1, 2, 3, 4, 5})
    assert trouble(Evidence(folder), running=False) == [] == silence(Evidence(folder))


def test_a_real_endpoint_that_is_down_is_told(tmp_path: Path) -> None:
    with socket.socket() as nobody:  # bound and not listened on: refused at once
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        folder = make_study(tmp_path, proposer__name="llm", proposer__base_url=url, proposer__max_retries=0)
        run_study(folder, proposer=make_proposer(folder.settings.proposer), trials=2)
    (said,) = silence(Evidence(folder))
    assert said.startswith("The language model never answered: it was asked 1 time in vain since trial 1 (")
    assert "instead of it proposed gp 2 trials" in said and url in said


def test_why_the_last_night_ended_is_told_once_it_is_over(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    assert ending(Evidence(folder)) == ""
    run_study(folder, [change("lr", GOOD)])
    told = "the last night ended: the script has no more answers"
    assert ending(Evidence(folder)) == told
    assert f"not running, {told}, as of" in facts(folder).study.status
    assert status(folder).last_night == told
    with RunnerLock(folder.path):
        assert f"running, {told}" not in facts(folder).study.status and status(folder).last_night == ""
        assert f"not running, {told}" in facts(folder, running=False).study.status, "as the night itself says last"


def test_how_busy_the_last_nights_cluster_was_is_told_with_its_end(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [])
    folder.store.log("began", "a night begins in process 42")
    folder.store.log("ended", "6 trials done, as asked")
    folder.store.log("cluster", "up to 6 slots at once on 3 nodes, busy 91 % of their time")
    told = "6 trials done, as asked; its cluster had up to 6 slots at once on 3 nodes, busy 91 % of their time"
    assert status(folder).last_night == f"the last night ended: {told}"
    assert told in facts(folder).study.status
    folder.store.log("began", "a night begins in process 43")
    folder.store.log("ended", "on this machine alone")
    assert status(folder).last_night == "the last night ended: on this machine alone"


def test_a_night_that_was_cut_off_is_not_said_to_run(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [])
    folder.store.log("began", "a night begins in process 42")  # and is killed
    folder.store.queue_runs([(0, 9, "reference")])
    folder.store.hand_out_run(folder.store.runs(0)[-1])
    (said,) = trouble(Evidence(folder), running=False)
    assert said.startswith("The night that began 2") and "was cut off: nobody wrote down its end" in said
    found = facts(folder)
    assert said in found.warnings and "not running, 1 run cut off, as of" in found.study.status
    assert status(folder).in_flight == []
    with RunnerLock(folder.path):
        assert facts(folder).warnings == [text for text in found.warnings if text != said]
        assert "running, 1 run in flight" in facts(folder).study.status


def test_a_night_that_an_error_ended_is_told(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    folder.store.log("began", "a night begins in process 42")
    folder.store.log("night_lost", "OSError: No space left on device \x1b[2J")
    (said,) = facts(folder).warnings[:1]
    assert said.startswith("The last night was lost to an error (2") and "No space left on device" in said
    assert "\x1b" not in said
