"""Whatever an endpoint answers, drips or withholds: the night goes on, stops at a word, and no key is written down."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import run as command
from endpoint import KEY, Endpoint, assert_nowhere, completion, named_by_environment
from endpoint_replies import ANSWERS, GOOD, LATE, NO_ANSWERS, completion_of, said
from histories import history, past_trial
from studies import MACHINE, STUB, change, make_study, query, run_study

from autoresearch.config import EnergySettings, LimitSettings, ProposerSettings
from autoresearch.night.limits import StopRule
from autoresearch.night.loop import StudyLoop
from autoresearch.proposers.classic import RandomProposer, ScriptedProposer
from autoresearch.proposers.llm import ANSWER_TOKENS, MOST_ANSWER_TOKENS, LlmProposer
from autoresearch.proposers.tpe import TpeProposer
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import Observer
from autoresearch.study.store import Store
from autoresearch.terminal.signals import polite_signals
from autoresearch.trial import MAX_RAW_BYTES, History, Proposal, Trial
from autoresearch.workers.local import LocalLauncher

FOR_EVER = 3600.0


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return make_study(tmp_path_factory.mktemp("home"))


def llm(**settings: Any) -> LlmProposer:
    return LlmProposer(ProposerSettings(**{"max_retries": 0, **settings}), TpeProposer())


def assert_written_down(study: StudyFolder, proposal: Proposal) -> None:
    """The database gives back what was proposed, and the key is nowhere in it."""
    assert KEY not in repr(proposal)
    row = study.store.proposal(study.store.open_trial(0, proposal))
    assert row is not None
    for name in ("proposer", "raw", "prompt", "model", "latency_seconds", "prompt_tokens", "completion_tokens"):
        assert row[name] == getattr(proposal, name)


@pytest.mark.parametrize("name", ANSWERS)
def test_an_odd_answer_is_written_down_as_text_and_whole_numbers(
    name: str, endpoint: Endpoint, study: StudyFolder
) -> None:
    endpoint.reply, expected = ANSWERS[name]
    proposal = llm().propose(history())
    assert (proposal.proposer, proposal.raw) == ("llm", expected)
    assert all(type(count) in (int, type(None)) for count in (proposal.prompt_tokens, proposal.completion_tokens))
    assert_written_down(study, proposal)


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_without_an_answer_tpe_proposes_and_a_note_says_why(name: str, endpoint: Endpoint, study: StudyFolder) -> None:
    endpoint.reply, expected = NO_ANSWERS[name]
    proposal = llm().propose(history())
    assert proposal.proposer == "tpe"
    (note,) = proposal.notes
    assert re.search(expected, note) and note.isprintable() and len(note) < 400
    assert note.startswith(f"{endpoint.url} does not answer (") and note.endswith("; tpe proposes until trial 6")
    assert_written_down(study, proposal)


@pytest.mark.parametrize("name", LATE)
def test_an_answer_that_never_ends_is_given_up_in_time(name: str, endpoint: Endpoint, study: StudyFolder) -> None:
    endpoint.reply = LATE[name]
    proposer = llm(timeout_seconds=0.2, max_retries=3)
    proposal = proposer.propose(history())
    assert proposal.proposer == "tpe" and "no whole answer in 0.20 s" in proposal.notes[0]
    assert_written_down(study, proposal)


def test_after_one_that_never_ended_the_next_question_is_answered(endpoint: Endpoint) -> None:
    endpoint.reply = LATE["a dripping body"]
    proposer = llm(timeout_seconds=3.0)
    assert proposer.propose(history()).proposer == "tpe"
    endpoint.reply = said()
    assert proposer.propose(replace(history(), number=6)).raw == GOOD


def test_nobody_at_the_address_is_said_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with named_by_environment(monkeypatch) as gone:
        pass
    proposal = llm().propose(history())
    assert "Connection refused" in proposal.notes[0] and gone.url in proposal.notes[0]


def test_there_are_sixty_faults_and_more() -> None:
    assert len(ANSWERS) + len(NO_ANSWERS) + len(LATE) >= 60


ODD_VALUES = [None, 0, [], 17, b"\xff{}", ["a", {"text": "b"}], {"x": {1, 2}}, object(), "\ud800\0"]


@pytest.mark.parametrize("value", ODD_VALUES)
def test_a_proposal_of_anything_can_be_written_down(value: Any, study: StudyFolder) -> None:
    proposal = Proposal(value, value, value, value, value, value, value, notes=value)
    assert type(proposal.raw) is type(proposal.proposer) is str and proposal.proposer
    assert_written_down(study, proposal)


def test_a_long_proposal_is_kept_in_part_with_its_size(study: StudyFolder) -> None:
    proposal = Proposal("é" * MAX_RAW_BYTES, "llm", notes=["so it is"])
    assert proposal.raw == "é" * (MAX_RAW_BYTES // 2)
    assert proposal.notes == ["the proposal had 131,072 bytes; its first 65,536 are kept", "so it is"]
    assert replace(proposal, model="m").notes == proposal.notes
    assert_written_down(study, proposal)


# --- the night ---


def test_a_night_of_odd_answers_goes_on_to_its_end(endpoint: Endpoint, tmp_path: Path) -> None:
    odd = [ANSWERS[name][0] for name in ("a list of text parts", "a lone surrogate", "usage of objects", "NUL bytes")]
    odd += [ANSWERS["usage beyond SQLite"][0], ANSWERS["its key"][0], NO_ANSWERS["an error with the key in it"][0]]
    folder = make_study(tmp_path)
    endpoint.reply = lambda handler, closed: odd[min(len(endpoint.requests), len(odd)) - 1](handler, closed)
    assert run_study(folder, proposer=llm(), trials=3) == "3 trials done, as asked"
    assert [trial.proposer for trial in folder.store.trials()[1:]] == ["llm"] * 2 + ["tpe"] * 2
    assert_nowhere(KEY, folder)


class Anything:
    """A proposer that returns what it was given, as no proposer should."""

    name = "anything"

    def __init__(self, value: Any) -> None:
        self.value = value

    def propose(self, history: History) -> Proposal:
        return self.value


@pytest.mark.parametrize("value", [None, GOOD, {"raw": GOOD}, Proposal(["x"], 7, prompt_tokens={})])  # type: ignore[arg-type]
@pytest.mark.parametrize("takes_long", [False, True])
def test_what_is_no_proposal_does_not_end_the_night(value: Any, takes_long: bool, tmp_path: Path) -> None:
    class Odd(Anything):
        pass

    Odd.takes_long = lambda self, history: takes_long  # type: ignore[attr-defined]
    folder = make_study(tmp_path)
    folder.store.queue_idea(change("lr", 0.002))
    run_study(folder, proposer=Odd(value), trials=2, workers=1)
    proposed = [trial.proposer for trial in folder.store.trials()[1:]]
    assert proposed[0] == "queue" and proposed[1] == ("7" if isinstance(value, Proposal) else "random")


def night(folder: StudyFolder, proposer: LlmProposer, stop: StopRule, observer: Observer | None = None) -> str:
    launcher = LocalLauncher(["cpu"], EnergySettings(), folder.path / "workers.log", command=STUB)
    try:
        return StudyLoop(folder, launcher, proposer, MACHINE, folder.path, stop, observer).run()
    finally:
        launcher.close()


def test_a_night_is_stopped_at_once_while_the_model_thinks(endpoint: Endpoint, tmp_path: Path) -> None:
    folder = make_study(tmp_path)

    def reply(handler: Any, closed: threading.Event) -> None:
        with sqlite3.connect(folder.path / "study.db", timeout=10) as database:
            database.execute("UPDATE studies SET control = 'stop'")
        LATE["a dripping body"](handler, closed)

    endpoint.reply = reply
    stop = StopRule(folder, LimitSettings(min_free_disk_bytes=0))
    assert night(folder, llm(timeout_seconds=FOR_EVER), stop) == "stopped by `autoresearch stop`"
    assert len(folder.store.trials()) == 1, "nobody answered"


def test_the_first_signal_is_heard_while_the_model_thinks(endpoint: Endpoint, tmp_path: Path) -> None:
    def reply(handler: Any, closed: threading.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        LATE["a dripping body"](handler, closed)

    endpoint.reply = reply
    folder = make_study(tmp_path)
    stop = StopRule(folder, LimitSettings(min_free_disk_bytes=0))
    with polite_signals(lambda name: stop.request(f"ended by {name}")):
        assert night(folder, llm(timeout_seconds=FOR_EVER), stop) == "ended by SIGTERM"


def test_hours_count_while_the_model_thinks(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.reply = LATE["silence"]
    folder = make_study(tmp_path)
    stop = StopRule(folder, LimitSettings(min_free_disk_bytes=0, hours=1.0 / 3600))
    assert "hours is reached" in night(folder, llm(timeout_seconds=FOR_EVER), stop)


def test_runs_go_on_while_the_model_thinks(endpoint: Endpoint, tmp_path: Path) -> None:
    folder, closed_meanwhile = make_study(tmp_path), threading.Event()

    class Watcher(Observer):
        def trial_closed(self, trial: Trial) -> None:
            if trial.proposer == "queue":
                closed_meanwhile.set()

    def reply(handler: Any, closed: threading.Event) -> None:
        if not closed_meanwhile.is_set():
            Store(folder.path / "study.db").queue_idea(change("lr", 0.003))
            assert closed_meanwhile.wait(60)
        said()(handler, closed)

    endpoint.reply = reply
    stop = StopRule(folder, LimitSettings(min_free_disk_bytes=0, trials=2))
    assert night(folder, llm(timeout_seconds=FOR_EVER), stop, Watcher()) == "2 trials done, as asked"
    assert [trial.proposer for trial in folder.store.trials()] == ["baseline", "queue", "llm"]
    assert len(endpoint.requests) == 1, "one question at a time"


# --- a model of no use ---


def blocked(number: int, proposer: str = "llm") -> Trial:
    state: dict[str, Any] = {"state": "blocked", "rail": "schema", "reason": "no JSON", "recipe": {}}
    return past_trial(number, "lr", 99.0, None, proposer=proposer, recipe_key=None, **state)


def test_a_useless_model_is_left_alone_for_longer_and_longer_and_asked_again(endpoint: Endpoint) -> None:
    endpoint.answer = lambda request: (200, completion("I would rather not."))
    proposer = LlmProposer(ProposerSettings(), RandomProposer())
    trials, proposed = [past_trial(0, "lr", 0.001, None, proposer="baseline")], ""
    for number in range(1, 250):
        proposal = proposer.propose(replace(history(trials), number=number))
        proposed += proposal.proposer[0]
        trials.append(blocked(number) if proposal.proposer == "llm" else past_trial(number, "lr", 0.002, 0.0))
    assert proposed.startswith("lllll" + "l".join("r" * pause for pause in (5, 10, 20, 40, 80)) + "l")
    assert "r" * 81 not in proposed, "there is always a next time"


def test_the_first_trial_without_a_useless_model_says_why_and_the_next_does_not(endpoint: Endpoint) -> None:
    endpoint.answer = lambda request: (200, completion("no"))
    proposer, trials = llm(), [past_trial(0, "lr", 0.001, None), *(blocked(n) for n in range(1, 5))]
    assert proposer.propose(history(trials)).proposer == "llm"
    first = proposer.propose(replace(history([*trials, blocked(5)]), number=6))
    assert first.notes == ["the last 5 answers were blocked (test/model); tpe proposes until trial 11"]
    second = proposer.propose(replace(history([*trials, blocked(5), past_trial(6, "lr", 0.002, 0.0)]), number=7))
    assert (second.proposer, second.notes) == ("tpe", [])


def test_an_answer_that_passes_makes_up_for_those_before_it(endpoint: Endpoint) -> None:
    trials = [blocked(n) for n in range(1, 9)] + [past_trial(9, "lr", 0.002, None, proposer="llm")]
    proposer = llm()
    for more in range(4):
        known = history([*trials, *(blocked(10 + n) for n in range(more))])
        assert proposer.propose(replace(known, number=10 + more)).proposer == "llm"


def test_a_night_begins_with_a_question_to_a_model_that_was_of_no_use(endpoint: Endpoint) -> None:
    useless = replace(history([blocked(n) for n in range(1, 12)]), number=12)
    assert llm().propose(useless).proposer == "llm"


def test_a_night_with_a_useless_model_goes_on_with_tpe(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda request: (200, completion("lr should be 99"))
    folder = make_study(tmp_path)
    assert run_study(folder, proposer=llm(), trials=7) == "7 trials done, as asked"
    proposed = "".join(trial.proposer[0] for trial in folder.store.trials()[1:])
    assert proposed == "lllll" + "ttttt" + "l" + "tt"
    notes = [event["message"] for event in folder.store.events(99) if event["kind"] == "proposer"]
    assert [note.partition(" (")[0] for note in notes] == [f"the last {n} answers were blocked" for n in (5, 6)]


def test_only_where_tpe_finds_nothing_new_either_does_the_night_end(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda request: (200, completion("no"))
    proposer = LlmProposer(ProposerSettings(), ScriptedProposer(["nothing new"] * 99))
    assert "25 proposals in a row were blocked" in run_study(make_study(tmp_path), proposer=proposer)


# --- a model that thinks first ---


def test_a_model_that_used_up_its_tokens_gets_more_and_keeps_them(endpoint: Endpoint) -> None:
    def answer(request: dict[str, Any]) -> tuple[int, str]:
        if request["max_tokens"] < 1600:
            usage = {"prompt_tokens": 700, "completion_tokens": request["max_tokens"]}
            return 200, completion_of({"content": None, "reasoning_content": "Let me see"}, "length", usage)
        return 200, completion(GOOD)

    endpoint.answer = answer
    proposer = llm()
    first, second = (proposer.propose(replace(history(), number=number)) for number in (1, 2))
    assert first.raw == second.raw == GOOD
    assert (first.prompt_tokens, first.completion_tokens) == (3 * 700, ANSWER_TOKENS + 800 + 30)
    assert (second.prompt_tokens, second.completion_tokens) == (700, 30)
    assert [request["max_tokens"] for request in endpoint.requests] == [ANSWER_TOKENS, 800, 1600, 1600]


def test_a_model_that_never_stops_thinking_is_asked_so_often_and_no_more(endpoint: Endpoint) -> None:
    endpoint.answer = lambda request: (200, completion_of({"content": ""}, "length"))
    assert llm().propose(history()).raw == ""
    assert endpoint.requests[-1]["max_tokens"] == MOST_ANSWER_TOKENS


def test_more_tokens_than_the_model_has_room_for_are_asked_for_once(endpoint: Endpoint) -> None:
    def answer(request: dict[str, Any]) -> tuple[int, str]:
        if request["max_tokens"] > ANSWER_TOKENS:
            return 400, json.dumps({"error": {"message": "max_tokens is too large"}})
        return 200, completion_of({"content": "Hm"}, "length")

    endpoint.answer = answer
    proposer = llm()
    assert proposer.propose(history()).raw == "Hm"
    asked = len(endpoint.requests)
    assert proposer.propose(replace(history(), number=2)).raw == "Hm"
    assert len(endpoint.requests) == asked + 1
    assert "response_format" in endpoint.requests[-1], "it was not the schema that was refused"


def test_an_answer_that_can_be_read_is_not_asked_for_again(endpoint: Endpoint) -> None:
    endpoint.reply = said(GOOD, "length")
    assert llm().propose(history()).raw == GOOD
    assert len(endpoint.requests) == 1


# --- what an older version wrote down ---


def test_numbers_of_the_wrong_type_in_the_database_break_nothing(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_study(tmp_path)
    run_study(folder, proposer=llm(), trials=1, workers=1)
    odd = {"prompt_tokens": "many", "completion_tokens": 2.5, "latency_seconds": "soon", "model": b"\xff", "prompt": 7}
    with sqlite3.connect(folder.path / "study.db") as database:
        for name, value in odd.items():
            database.execute(f"UPDATE proposals SET {name} = ?", [value])
    assert query(folder, "SELECT typeof(prompt_tokens), typeof(latency_seconds) FROM proposals") == [("text", "text")]
    monkeypatch.setenv("AUTORESEARCH_HOME", str(tmp_path))
    out = tmp_path / "out"
    for arguments in (
        ["show", "one", "1"], ["trials", "one"], ["status", "one"], ["inspect", "one"], ["report", "one"],
        *(["export", "one", "--format", kind, "--out", str(out)] for kind in ("jsonl", "tsv17", "csv", "optuna")),
    ):  # fmt: skip
        said = command(monkeypatch, capsys, *arguments)
        assert said.code == 0, said.err
    row = folder.store.proposal(1)
    assert row is not None
    assert [row[name] for name in ("prompt_tokens", "completion_tokens", "latency_seconds")] == [None, None, 0.0]
