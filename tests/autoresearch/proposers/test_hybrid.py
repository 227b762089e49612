"""A model beside an optimizer: what it is shown, which of its ideas is taken, and how often it is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint, completion
from histories import baseline, history, past_trial
from studies import change, make_study, query, run_study

from autoresearch.config import ProposerSettings
from autoresearch.evidence import Evidence
from autoresearch.evidence.meters import measure
from autoresearch.evidence.proposers import proposer_records, turns
from autoresearch.evidence.sentences import warnings
from autoresearch.proposers import make_proposer
from autoresearch.proposers.hybrid import HybridProposer
from autoresearch.proposers.share import AFTER, ENOUGH, FLOOR, is_models_turn, share
from autoresearch.study import history as remembered
from autoresearch.trial import Trial

ALWAYS = ProposerSettings(name="hybrid", model_share=1.0)


def candidates(*changes: dict[str, Any]) -> str:
    forms = [{"changes": each, "reason": "because", "expected_delta": -0.01} for each in changes]
    return json.dumps({"candidates": forms})


def past(n: int = 14) -> list[Trial]:
    """lr: the higher the better, whatever else; n_head does nothing."""
    rates = [0.0002 * 1.4**step for step in range(n)]
    return [baseline(), *(past_trial(at, "lr", rate, 0.02 * at) for at, rate in enumerate(rates, 1))]


def test_the_first_trials_are_the_optimizers_and_ask_no_model(endpoint: Endpoint) -> None:
    proposer = make_proposer(ALWAYS)
    for number in range(1, AFTER + 1):
        known = history(past(number - 1)[1:])
        assert not proposer.takes_long(known) and proposer.propose(known).proposer == "gp"  # type: ignore[attr-defined]
    assert not endpoint.requests


def test_the_model_is_shown_what_the_optimizer_expects_and_would_try(endpoint: Endpoint) -> None:
    endpoint.answer = lambda request: (200, completion(candidates({"n_head": 8})))
    proposal = make_proposer(ALWAYS).propose(history(past()[1:]))
    assert proposal.proposer == "llm" and proposal.prompt
    told = proposal.prompt.partition("an optimizer")[2]
    assert "the recipe that stands: 2." in told and told.count("- it would try ") == 3
    assert "knobs that move the score most: lr " in told


def test_of_several_ideas_the_one_is_taken_that_the_optimizer_makes_most_of(endpoint: Endpoint) -> None:
    ideas = ({"lr": 0.00011}, {"lr": 99.0}, {"lr": 0.019}, {"n_head": 8})
    endpoint.answer = lambda request: (200, completion(candidates(*ideas)))
    proposal = make_proposer(ALWAYS).propose(history(past()[1:]))
    assert json.loads(proposal.raw)["changes"] == {"lr": 0.019}
    (attempt,) = proposal.attempts
    assert attempt.answer == candidates(*ideas) and attempt.rail is None
    assert attempt.reason.startswith("candidate 3 of 4 is taken, 3 passed: ")


def test_ideas_that_are_all_blocked_go_back_with_what_was_wrong_and_all_is_kept(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    answers = [candidates({"lr": 99.0}, {"lrr": 1}), "two {} {}", candidates({"n_head": 8})]
    endpoint.answer = lambda request: (200, completion(answers[min(2, len(request["messages"]) // 2 - 1)]))
    known = history(past()[1:])
    proposal = make_proposer(ALWAYS).propose(known)
    assert [attempt.rail for attempt in proposal.attempts] == ["range", "schema", None]
    assert "candidate 1: lr must be" in (why := proposal.attempts[0].reason) and "candidate 2: " in why
    last = endpoint.requests[-1]["messages"]
    assert [message["role"] for message in last] == ["system", "user", *["assistant", "user"] * 2]
    assert last[3]["content"] == proposal.attempts[1].asked != "" and "schema" in last[5]["content"]
    assert (proposal.prompt_tokens, proposal.completion_tokens) == (2100, 90)

    folder = make_study(tmp_path)
    store = folder.store
    number = store.open_trial(0, proposal, known)
    assert store.attempts() == {number: proposal.attempts} and store.attempts(number + 1) == {}


def test_a_model_that_is_blocked_three_times_is_asked_no_more_and_the_rails_say_why(endpoint: Endpoint) -> None:
    endpoint.answer = lambda request: (200, completion(change("lr", 99)))
    proposal = make_proposer(ProposerSettings(name="llm")).propose(history())
    assert len(endpoint.requests) == len(proposal.attempts) == 3
    assert proposal.proposer == "llm" and proposal.raw == change("lr", 99)


def test_what_was_answered_before_a_model_fell_silent_is_kept(endpoint: Endpoint) -> None:
    endpoint.answer = lambda request: (
        (200, completion(change("lr", 99))) if len(request["messages"]) == 2 else (400, "{}")
    )
    proposal = make_proposer(ProposerSettings(name="llm", max_retries=0)).propose(history())
    assert proposal.proposer == "gp" and [attempt.rail for attempt in proposal.attempts] == ["range"]


# --- the share ---


def trials(model: Sequence[float | None], optimizer: Sequence[float | None]) -> list[Trial]:
    gains = [*(("llm", gain) for gain in model), *(("gp", gain) for gain in optimizer)]
    made = [past_trial(n, "lr", n / 10_000, gain, proposer=name) for n, (name, gain) in enumerate(gains, 1)]
    return [baseline(), *made]


def test_a_model_keeps_its_share_while_too_little_is_known_and_while_it_earns_as_much() -> None:
    assert share([], 0.3) == share(trials([0.0] * ENOUGH, [0.1] * (ENOUGH - 1)), 0.3) == 0.3
    assert share(trials([0.02, 0.0, 0.0, 0.01, 0.0] * 2, [0.0, 0.0, 0.02, 0.0, 0.0, 0.01] * 2), 0.3) == 0.3
    assert share(trials([0.0] * 12, [0.0] * 12), 0.3) == 0.3, "neither has earned anything"


def test_a_model_that_earns_less_is_asked_less_and_never_less_than_the_floor() -> None:
    some = [0.03, 0.0, 0.0, 0.0, 0.01]
    worse = [share(trials([0.0, -0.5, None, 0.0, 0.02] * n, some * n), 0.3) for n in (2, 4, 20)]
    assert 0.3 > worse[0] > worse[1] >= worse[2] == FLOOR
    assert share(trials([0.0] * 20, some * 4), 0.02) == 0.02, "a person may want it less than that"


@pytest.mark.parametrize("wanted", [0.0, 0.05, 0.3, 1.0])
def test_the_model_is_asked_on_its_share_of_the_trials(wanted: float) -> None:
    turns = [is_models_turn(number, 7, wanted) for number in range(1, 2001)]
    assert not any(turns[:AFTER]) and turns == [is_models_turn(number, 7, wanted) for number in range(1, 2001)]
    assert sum(turns) / 1990 == pytest.approx(wanted, abs=0.035)


def test_a_night_tells_what_each_proposers_ideas_earned_and_what_was_shown_ahead(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """The endpoint's ideas do nothing; the learning rate helps."""
    values = iter(range(1, 10_000))
    endpoint.answer = lambda request: (200, completion(candidates({"weight_decay": next(values) / 10_000})))
    folder = make_study(tmp_path, proposer__name="hybrid", proposer__model_share=0.6, limits__run_seconds=5.0)
    proposer = make_proposer(folder.settings.proposer)
    assert isinstance(proposer, HybridProposer)
    run_study(folder, proposer=proposer, trials=40, workers=2)
    evidence = Evidence(folder)
    records = {record.name: record for record in proposer_records(evidence)}
    assert records["llm"].proposals >= ENOUGH and records["llm"].tokens and records["gp"].tokens is None
    assert records["gp"].gain_per_second is None
    asked = turns(evidence)
    assert asked and asked.most == 0.6 and FLOOR <= asked.share <= 0.6
    said = "\n".join(warnings(evidence, measure(evidence)))
    assert ("have earned less" in said) == (asked.share < 0.6)
    ahead = query(folder, "SELECT trial, asked_tick, opened_tick FROM proposals JOIN trials ON trial = number "
                          "WHERE asked_tick IS NOT NULL")  # fmt: skip
    assert all(asked_tick < opened for _, asked_tick, opened in ahead)
    prompts = dict(query(folder, "SELECT trial, prompt FROM proposals WHERE proposer = 'llm'"))
    for number, prompt in prompts.items():
        then = remembered.at(folder, number)
        assert f"Propose trial {then.number}." in prompt
