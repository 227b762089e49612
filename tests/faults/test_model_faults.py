"""A model at a misbehaving endpoint, alone or beside an optimizer: a fault is bounded, got over and kept nowhere."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from command_line import run as command
from endpoint import KEY, Endpoint, Reply, assert_nowhere, completion
from endpoint_replies import ANSWERS, GOOD, LATE, LOGIN, NO_ANSWERS, body, completion_of, said
from histories import baseline, history, past_trial
from sample_study import HOSTILE
from studies import change, make_study, query, run_study

from autoresearch.config import ProposerSettings
from autoresearch.morning.report.detail import details
from autoresearch.morning.report.facts import facts
from autoresearch.proposers import Proposer, make_proposer
from autoresearch.proposers.known import passes
from autoresearch.proposers.llm import TRIALS_BETWEEN_ATTEMPTS, USELESS_ANSWERS
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import History, Proposal
from trainer.cache import cache_folder

KINDS = ("llm", "hybrid")
BLOCKED = change("lr", 99.0)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return make_study(tmp_path_factory.mktemp("home"))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def model(kind: str, **settings: Any) -> Proposer:
    """One that is asked as often as it can be."""
    return make_proposer(ProposerSettings(**{"name": kind, "model_share": 1.0, "max_retries": 0, **settings}))


def known(number: int = 15) -> History:
    """Enough for an optimizer."""
    trials = [past_trial(n, "lr", 0.0002 * 1.4**n, 0.02 * n) for n in range(1, 15)]
    return replace(history([baseline(), *trials]), number=number)


def written_down(study: StudyFolder, proposal: Proposal) -> None:
    """All of it is given back by the database, and no key is in it."""
    assert KEY not in repr(proposal)
    number = study.store.open_trial(0, proposal, known())
    assert study.store.attempts(number).get(number, []) == proposal.attempts


def candidates(*each: object) -> str:
    return json.dumps({"candidates": each})


# --- no answer ---


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_without_an_answer_gp_proposes_and_the_model_is_asked_again_later(
    name: str, endpoint: Endpoint, study: StudyFolder
) -> None:
    endpoint.reply, _ = NO_ANSWERS[name]
    proposer = model("hybrid")
    proposal = proposer.propose(known())
    assert proposal.proposer == "gp" and passes(proposal.raw, known())
    (note,) = proposal.notes
    assert note.isprintable() and note.endswith(f"; gp proposes until trial {15 + TRIALS_BETWEEN_ATTEMPTS}")
    written_down(study, proposal)
    asked, endpoint.reply = len(endpoint.requests), said()
    assert proposer.propose(known(19)).proposer == "gp" and len(endpoint.requests) == asked
    assert proposer.propose(known(20)).raw == GOOD


@pytest.mark.parametrize("name", LATE)
def test_beside_an_optimizer_too_an_answer_that_never_ends_is_given_up(name: str, endpoint: Endpoint) -> None:
    endpoint.reply = LATE[name]
    proposal = model("hybrid", timeout_seconds=0.2, max_retries=3).propose(known())
    assert proposal.proposer == "gp" and "(no whole answer in 0.20 s)" in proposal.notes[0]


def test_the_key_does_not_follow_to_another_host(kind: str, endpoint: Endpoint) -> None:
    other = Endpoint()
    for status in (301, 302, 303, 307, 308):
        endpoint.reply = body("", status, Location=f"{other.url}/chat/completions?api_key={KEY}")
        proposal = model(kind).propose(known())
        assert f"elsewhere, to {other.url}/chat/completions:" in proposal.notes[0] and KEY not in proposal.notes[0]
    other.close()
    assert not other.requests and not other.probes


@pytest.mark.parametrize(("wait", "proposer"), [("0.01", "llm"), ("3600", "gp")])
def test_a_wait_that_is_asked_for_is_kept_where_it_is_short(
    wait: str, proposer: str, kind: str, endpoint: Endpoint
) -> None:
    busy = body('{"error": "slow down"}', 429, Retry_After=wait)
    endpoint.reply = lambda handler, closed: (said() if len(endpoint.requests) == 2 else busy)(handler, closed)
    retries = 1 if proposer == "llm" else 0
    assert model(kind, max_retries=retries).propose(known()).proposer == proposer


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_what_finding_out_the_form_ends_with_is_got_over_too(
    status: int, kind: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = endpoint.shown
    monkeypatch.setattr(endpoint, "shown", lambda request: (status, json.dumps({"error": f"no: {KEY} {HOSTILE}"})))
    proposer = model(kind)
    proposal = proposer.propose(known())
    assert proposal.proposer == "gp" and KEY not in proposal.notes[0] and proposal.notes[0].isprintable()
    monkeypatch.setattr(endpoint, "shown", usual)
    assert proposer.propose(known(20)).raw == GOOD
    assert KEY not in (cache_folder() / "endpoints.json").read_text()


# --- bounded time ---


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that each question takes on the clock, though nobody waits for them."""
    real, took = time.monotonic, {"a question": 0.0, "passed": 0.0}
    monkeypatch.setattr(time, "monotonic", lambda: real() + took["passed"])
    usual = BaseHTTPRequestHandler.parse_request

    def parse_request(handler: BaseHTTPRequestHandler) -> bool:
        took["passed"] += took["a question"]
        return usual(handler)

    monkeypatch.setattr(BaseHTTPRequestHandler, "parse_request", parse_request)
    return took


TOO_LONG = body('{"error": "the maximum context length is 8 tokens"}', 400)
SLOW: dict[str, tuple[Reply, str]] = {
    "a blocked answer": (said(BLOCKED), "llm"),
    "prose": (said("I would rather not."), "llm"),
    "a refusal": (body("{}", 400), "gp"),
    "a fault": (body("{}", 500), "gp"),
    "too long a question": (TOO_LONG, "gp"),
    "thoughts without end": (body(completion_of({"content": ""}, "length")), "gp"),
}


@pytest.mark.parametrize(("kind", "knows_the_form"), [("llm", False), ("hybrid", True)])
@pytest.mark.parametrize("name", SLOW)
def test_all_questions_for_one_proposal_have_the_time_of_one(
    name: str, knows_the_form: bool, kind: str, endpoint: Endpoint, takes: dict[str, float], study: StudyFolder
) -> None:
    """Each takes 0.6 of it."""
    endpoint.refuses = False
    if knows_the_form:
        model(kind).propose(known())
    before = len(endpoint.requests) + len(endpoint.probes)
    takes["a question"] = 36.0
    endpoint.reply, expected = SLOW[name]
    proposal = model(kind, timeout_seconds=60).propose(known())
    assert len(endpoint.requests) + len(endpoint.probes) - before == 2
    assert proposal.proposer == expected
    written_down(study, proposal)


def test_a_model_that_answers_but_slowly_is_not_left_alone(
    kind: str, endpoint: Endpoint, takes: dict[str, float]
) -> None:
    model(kind).propose(known())
    proposer, takes["a question"] = model(kind, timeout_seconds=60), 36.0
    endpoint.reply = said(BLOCKED)
    proposal = proposer.propose(known())
    assert [attempt.rail for attempt in proposal.attempts] == ["range", "range"] and not proposal.notes
    endpoint.reply = said()
    assert proposer.propose(known(16)).raw == GOOD


def test_a_second_question_that_hangs_leaves_the_first_answer(kind: str, endpoint: Endpoint) -> None:
    model(kind).propose(known())

    def reply(handler: Any, closed: threading.Event) -> None:
        (said(BLOCKED) if len(endpoint.requests[-1]["messages"]) == 2 else LATE["silence"])(handler, closed)

    endpoint.reply = reply
    proposal = model(kind, timeout_seconds=1.0).propose(known())
    assert (proposal.proposer, proposal.raw, proposal.notes) == ("llm", BLOCKED, [])


def test_a_model_that_thinks_too_slowly_to_show_its_form_is_asked_all_the_same(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(request: dict[str, Any]) -> tuple[int, str]:
        if request["max_tokens"] > 100:
            endpoint.closed.wait()
        return 200, completion_of({"content": ""}, "length")

    monkeypatch.setattr(endpoint, "shown", shown)
    assert model("llm", timeout_seconds=2.0).propose(known()).raw == GOOD
    assert not (cache_folder() / "endpoints.json").exists()


# --- hostile answers ---

OF_NO_USE: dict[str, object] = {
    "a number": 17,
    "null": None,
    "a list": [],
    "a list in a list": [[GOOD]],
    "a text": GOOD,
    "SQL": {"knob": "lr'; DROP TABLE trials; --", "new_value": 1, "reason": "because"},
    "a script": {"knob": "lr", "new_value": "<script>alert(1)</script>", "reason": "because"},
    "escapes and bidi": {"knob": HOSTILE, "new_value": HOSTILE, "reason": HOSTILE},
    "a value that is an object": {"knob": "lr", "new_value": {"a": 1}, "reason": "because"},
    "infinity": {"knob": "lr", "new_value": float("inf"), "reason": "because"},
    "a lone surrogate": {"knob": "\ud800", "new_value": "\udfff", "reason": "\ud83d"},
    "a reason without end": {"knob": "lr", "new_value": 0.003, "reason": "x" * 20_000},
    "the key": {"knob": KEY, "new_value": KEY, "reason": KEY},
}


@pytest.mark.parametrize("name", OF_NO_USE)
def test_of_candidates_the_ones_of_no_use_are_blocked_and_the_good_one_is_taken(
    name: str, endpoint: Endpoint, study: StudyFolder
) -> None:
    bad, good = OF_NO_USE[name], json.loads(change("n_head", 8))
    endpoint.reply = said(candidates(bad, good, bad, bad))
    proposal = model("hybrid").propose(known())
    assert json.loads(proposal.raw) == good and len(proposal.attempts) == 1
    written_down(study, proposal)


DEEP = 5_000
LISTS = {
    **{name: candidates(*[bad] * 4) for name, bad in OF_NO_USE.items()},
    "ten thousand numbers": candidates(*range(10_000)),
    "ten thousand good ones": candidates(*[json.loads(GOOD)] * 10_000),
    "deep lists": '{"candidates": [' + "[" * DEEP + "]" * DEEP + "]}",
    "deep objects": '{"candidates": [' + '{"a": ' * 900 + "1" + "}" * 900 + "]}",
    "an object": json.dumps({"candidates": json.loads(GOOD)}),
    "none": candidates(),
    "itself": candidates({"candidates": [json.loads(GOOD)]}),
}


@pytest.mark.parametrize("name", LISTS)
def test_candidates_of_no_use_are_asked_for_again_and_then_left_to_the_rails(
    name: str, endpoint: Endpoint, study: StudyFolder
) -> None:
    endpoint.reply = said(LISTS[name])
    proposal = model("hybrid").propose(known())
    assert proposal.proposer == "llm" and len(proposal.attempts) == 3
    assert all(attempt.rail and attempt.reason.isprintable() for attempt in proposal.attempts)
    assert not passes(proposal.raw, known())
    assert all(message["content"].strip() for message in endpoint.requests[-1]["messages"])
    written_down(study, proposal)


@pytest.mark.parametrize("spelt", ["\\u0073ecret-key", "secret\\u002dkey", "sec\u200bret-key", "sec\\u001b[0mret-key"])
def test_a_key_that_is_spelt_otherwise_is_not_put_together_again(
    spelt: str, endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.dumps({"knob": "lr", "new_value": 0.003, "reason": "Because of KEY."})
    endpoint.reply = said(told.replace("KEY", spelt))
    folder = make_study(tmp_path)
    run_study(folder, proposer=model("llm"), trials=1, workers=1)
    assert folder.store.trials()[1].hypothesis == "Because of [secret]."
    monkeypatch.setenv("AUTORESEARCH_HOME", str(tmp_path))
    shown = [command(monkeypatch, capsys, "show", "one", "1", *more).out for more in ([], ["--prompt"])]
    assert_nowhere(KEY, folder, repr(details(folder)), *shown)


def test_hostile_answers_are_shown_as_text_and_whole(
    kind: str, endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ideas = [{"knob": "n_head", "new_value": 8, "reason": f"idea {n} " + "is good " * 30} for n in range(4)]
    answers = [HOSTILE, candidates({"knob": HOSTILE, "new_value": HOSTILE, "reason": HOSTILE}), candidates(*ideas)]
    if kind == "llm":
        answers[-1] = json.dumps({**ideas[3], "reason": HOSTILE + "is good " * 30})
    endpoint.answer = lambda request: (200, completion(answers[len(request["messages"]) // 2 - 1]))
    folder = make_study(tmp_path)
    number = folder.store.open_trial(0, proposal := model(kind).propose(known()), known())
    assert [attempt.rail for attempt in proposal.attempts] == ["schema", "schema" if kind == "llm" else "menu", None]
    monkeypatch.setenv("AUTORESEARCH_HOME", str(tmp_path))
    for more in ([], ["--prompt"]):
        shown = command(monkeypatch, capsys, "show", "one", str(number), *more)
        assert shown.code == 0 and all(line.isprintable() for line in shown.out.split("\n"))
        assert "<img src=x onerror=alert(1)>" in shown.out and "> answer 3 of 3 (" in shown.out
        assert kind == "llm" or all(f"idea {n} is good" in " ".join(shown.out.split()) for n in range(4))


# --- the night ---


def one_after_the_other(endpoint: Endpoint, replies: list[Reply], first: int) -> Reply:
    """One for each trial from the first that a model is asked for, and then what is good and new."""

    def reply(handler: BaseHTTPRequestHandler, closed: threading.Event) -> None:
        (number,) = map(int, re.findall(r"Propose trial (\d+)\.", endpoint.requests[-1]["messages"][1]["content"]))
        new = said(change("weight_decay", number / 1000))
        (replies[number - first] if number - first < len(replies) else new)(handler, closed)

    return reply


def test_a_night_of_faults_goes_on_comes_back_to_the_model_and_keeps_no_secret(
    kind: str, endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("autoresearch.proposers.llm.TRIALS_BETWEEN_ATTEMPTS", 0)
    faults = [NO_ANSWERS[name][0] for name in (
        "status 401 with the key in it", "status 403 with the key in it", "status 429", "status 503", "half of a JSON",
        "a message that is null", "noise", "nothing at all", "an error with the key in it", "gzip without end",
    )]  # fmt: skip
    faults += [body(f"<p>{KEY} {HOSTILE}</p>"), body(json.dumps({"error": f"{KEY} {HOSTILE}"}), 418), body(LOGIN, 502)]
    faults += [LATE["a head and silence"], body("", 302, Location=f"http://example.org/?api_key={KEY}")]
    faults += [ANSWERS[name][0] for name in ("its key", "a stream", "a byte that is no UTF-8", "a lone surrogate")]
    faults += [said(LISTS["the key"]), said(LISTS["deep lists"]), said(HOSTILE), said(candidates(*range(10_000)))]
    faults += [said(change("grad_clip", 0.5, f"{KEY} {HOSTILE}"))]
    first = 1 if kind == "llm" else 11
    endpoint.reply = one_after_the_other(endpoint, faults, first)
    folder = make_study(tmp_path, limits__run_seconds=1.5)
    trials = first + len(faults)
    assert (
        run_study(folder, proposer=model(kind, timeout_seconds=2.0), trials=trials) == f"{trials} trials done, as asked"
    )
    proposed = [trial.proposer for trial in folder.store.trials()]
    assert proposed[-1] == "llm" and folder.store.trials()[-1].state != "blocked"
    assert proposed.count("gp") > 10 and len(folder.store.attempts()) >= 6
    assert not query(folder, "SELECT * FROM events WHERE message LIKE '%drawn at random%'")
    monkeypatch.setenv("AUTORESEARCH_HOME", str(tmp_path))
    numbers = [n for n, name in enumerate(proposed) if name == "llm"][-6:]
    told = [command(monkeypatch, capsys, "show", "one", str(n)).out for n in numbers]
    told += [command(monkeypatch, capsys, *arguments).out for arguments in (["report", "one"], ["inspect", "one"])]
    assert all(line.isprintable() for text in told for line in text.split("\n"))
    remembered = (cache_folder() / "endpoints.json").read_text()
    assert_nowhere(KEY, folder, *told, remembered, repr(details(folder)), repr(facts(folder)))


def test_a_night_loses_nothing_to_a_model_that_always_says_the_same(
    kind: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.answer = lambda request: (200, completion(change("weight_decay", 0.01)))
    folder = make_study(tmp_path, limits__run_seconds=1.5)
    assert run_study(folder, proposer=model(kind), trials=24) == "24 trials done, as asked"
    trials = folder.store.trials()[1:]
    blocked = [trial for trial in trials if trial.proposer == "llm" and trial.state == "blocked"]
    assert len(blocked) >= USELESS_ANSWERS and {trial.rail for trial in blocked} <= {"novelty", "range"}
    assert sum("answers were blocked" in event["message"] for event in folder.store.events(99)) >= 1


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_beside_an_optimizer_too_it_is_said_once_why_the_model_is_left_alone(share: float, endpoint: Endpoint) -> None:
    endpoint.answer = lambda request: (200, completion("I would rather not."))
    proposer = model("hybrid", model_share=share)
    trials, notes = list(known().trials), []
    for number in range(15, 120):
        proposal = proposer.propose(replace(known(), number=number, trials=trials))
        notes += proposal.notes
        state: dict[str, Any] = {"state": "blocked", "rail": "schema", "recipe_key": None}
        is_blocked = proposal.proposer == "llm"
        trials.append(past_trial(number, "lr", 0.002, 0.0, proposer=proposal.proposer, **(state if is_blocked else {})))
    answers = sum(trial.proposer == "llm" for trial in trials)
    assert answers > USELESS_ANSWERS and len(notes) in (answers - USELESS_ANSWERS, answers - USELESS_ANSWERS + 1)
    assert [note.partition(" (")[0] for note in notes] == [
        f"the last {count} answers were blocked" for count in range(USELESS_ANSWERS, USELESS_ANSWERS + len(notes))
    ]
