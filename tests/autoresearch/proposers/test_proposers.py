"""Where changes come from: classics that repeat themselves exactly, and a language model that may be anything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint, completion
from histories import LIMITS, history, past_trial
from studies import change, make_study, query, run_study

from autoresearch.config import ProposerSettings
from autoresearch.proposers import make_proposer
from autoresearch.proposers.bayes import BayesProposer
from autoresearch.proposers.classic import RandomProposer
from autoresearch.proposers.llm import TRIALS_BETWEEN_ATTEMPTS, LlmProposer
from autoresearch.proposers.prompt import whole_prompt
from autoresearch.proposers.tpe import TpeProposer
from autoresearch.trial import Trial
from rails import gate, load_menu

MODEL = ProposerSettings(name="llm")


@pytest.mark.parametrize("proposer", [RandomProposer(), TpeProposer(), BayesProposer()], ids=["random", "tpe", "gp"])
def test_another_study_seed_gives_other_proposals(proposer: Any) -> None:
    answers = {proposer.propose(history(seed=seed)).raw for seed in range(8)}
    assert len(answers) > 5


def test_random_search_reaches_every_knob_and_never_repeats_a_recipe() -> None:
    trials: list[Trial] = []
    for number in range(1, 120):
        known = history(trials)
        answer = json.loads(RandomProposer().propose(known).raw)
        trial = past_trial(number, answer["knob"], answer["new_value"], 0.0)
        assert trial.recipe_key not in known.tried
        trials.append(trial)
    assert {next(iter(trial.changes)) for trial in trials} == set(history().menu.knobs)


def test_tpe_takes_failed_trials_as_worse_and_not_as_numbers() -> None:
    trials = [past_trial(n, "lr", 0.02 + n / 1000, None) for n in range(1, 9)]
    trials += [past_trial(n, "lr", 0.001 + n / 10000, 0.01) for n in range(9, 18)]
    menu = load_menu('[knobs.lr]\ntype = "float"\nlow = 1e-4\nhigh = 3e-2\nscale = "log"\ndefault = 1e-3\ndoc = ""')
    known = [replace(history(trials, seed), menu=menu, recipe={"lr": 1e-3}) for seed in range(25)]
    values = [json.loads(TpeProposer().propose(one).raw)["new_value"] for one in known]
    assert sum(value < 0.01 for value in values) > 20


# --- a language model behind an endpoint ---


def test_another_study_seed_asks_a_model_for_another_draw(endpoint: Endpoint) -> None:
    proposer = LlmProposer(MODEL, RandomProposer())
    for seed in (0, 0, 1):
        proposer.propose(history(seed=seed))
    first, again, other = (request["seed"] for request in endpoint.requests)
    assert first == again != other


def test_a_configured_endpoint_makes_a_hybrid_of_optimizer_and_model_the_default(endpoint: Endpoint) -> None:
    assert make_proposer(ProposerSettings()).name == "hybrid"
    proposer = make_proposer(MODEL)
    proposal = proposer.propose(history())
    assert proposer.name == proposal.proposer == "llm"
    assert proposal.raw == change("lr", 0.004)
    assert (proposal.model, proposal.prompt_tokens, proposal.completion_tokens) == ("test/model", 700, 30)
    request = endpoint.requests[0]
    assert request["model"] == "test/model"
    assert request["response_format"]["json_schema"]["strict"] is True
    assert proposal.prompt == "\n\n".join(message["content"] for message in request["messages"])
    assert endpoint.keys == ["Bearer secret-key"]


def test_without_an_endpoint_the_default_is_bayesian_optimization(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert make_proposer(ProposerSettings()).name == "gp"


def test_a_question_that_the_model_has_no_room_for_is_asked_in_fewer_words_from_then_on(endpoint: Endpoint) -> None:
    trials = [past_trial(n, "lr", n / 10_000, 0.01, hypothesis="because " * 20) for n in range(1, 60)]
    room = len(whole_prompt(history([]))) + 1200

    def answer(request: dict[str, Any]) -> tuple[int, str]:
        if sum(len(message["content"]) for message in request["messages"]) > room:
            said = "This model's maximum context length is 2600 tokens, however you requested more."
            return 400, json.dumps({"error": {"message": said}})
        return 200, completion(change("lr", 0.004))

    endpoint.answer = answer
    proposer = LlmProposer(ProposerSettings(), TpeProposer())
    first = proposer.propose(history(trials))
    asked = len(endpoint.requests)
    assert first.proposer == "llm" and asked > 1 and not first.notes
    assert first.prompt and len(first.prompt) <= room + 2 and "- lr (" in first.prompt
    assert proposer.propose(history(trials)).proposer == "llm" and len(endpoint.requests) > asked
    assert all("response_format" in request for request in endpoint.requests), "the schema was not what was refused"


def test_an_endpoint_without_schemas_is_asked_plainly_from_then_on(endpoint: Endpoint) -> None:
    def answer(request: dict[str, Any]) -> tuple[int, str]:
        if "response_format" in request:
            return 400, json.dumps({"error": {"message": "response_format is not supported"}})
        return 200, completion(change("lr", 0.004))

    endpoint.answer = answer
    proposer = make_proposer(MODEL)
    assert proposer.propose(history()).proposer == "llm"
    assert proposer.propose(history()).proposer == "llm"
    assert ["response_format" in request for request in endpoint.requests] == [True, False, False]


def test_a_passing_fault_is_retried(endpoint: Endpoint) -> None:
    endpoint.answer = lambda request: (
        (500, "{}") if len(endpoint.requests) < 3 else (200, completion(change("lr", 0.004)))
    )
    assert make_proposer(MODEL).propose(history()).proposer == "llm"
    assert len(endpoint.requests) == 3


def test_when_the_endpoint_stays_down_the_optimizer_goes_on_and_says_so(endpoint: Endpoint) -> None:
    endpoint.answer = lambda request: (503, "{}")
    proposer = make_proposer(ProposerSettings(name="llm", max_retries=1))
    first = proposer.propose(history())
    assert first.proposer == "gp" and "gp proposes until trial 6" in first.notes[0]
    asked = len(endpoint.requests)
    assert proposer.propose(replace(history(), number=3)).proposer == "gp"
    assert len(endpoint.requests) == asked, "an outage does not cost every trial its retries"
    endpoint.answer = lambda request: (200, completion(change("lr", 0.004)))
    assert proposer.propose(replace(history(), number=1 + TRIALS_BETWEEN_ATTEMPTS)).proposer == "llm"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "[]",
        "<html>gateway</html>",
        "{}",
        '{"choices": []}',
        '{"choices": [{"message": null}]}',
        completion(""),
        completion("x").replace('"x"', '[{"type": "text", "text": "x"}]'),
        completion("x").replace('"x"', "17"),
        completion("\\ud800 {}"),
        completion("{}").replace("700", '"many"').replace("30,", "{},"),
        completion("{}").replace('"usage": {', '"usage": "none", "other": {'),
    ],
)
def test_an_endpoint_that_answers_nonsense_never_raises(endpoint: Endpoint, body: str) -> None:
    endpoint.answer = lambda request: (200, body)
    proposal = make_proposer(ProposerSettings(name="llm", max_retries=0)).propose(history())
    assert proposal.proposer in ("gp", "llm") and type(proposal.raw) is str
    assert all(type(n) in (int, type(None)) for n in (proposal.prompt_tokens, proposal.completion_tokens))
    verdict = gate(proposal.raw, history().recipe, history().menu, (), LIMITS)
    assert verdict.passed == (proposal.proposer == "gp")


def test_a_night_with_a_language_model_writes_down_what_it_was_shown_and_no_key(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    answers = ["```json\n{}\n```", change("lr", 0.004), change("n_head", 8)]
    endpoint.answer = lambda request: (200, completion(answers[min(len(endpoint.requests), 3) - 1]))
    folder = make_study(tmp_path)
    run_study(folder, proposer=LlmProposer(ProposerSettings(), TpeProposer()), trials=2, workers=1)
    rows = query(folder, "SELECT trial, prompt, raw, passed, rail FROM proposals ORDER BY trial")
    assert [row[2:] for row in rows] == [(change("lr", 0.004), 1, None), (change("n_head", 8), 1, None)]
    assert "lr 0.001 -> 0.004" in rows[1][1]
    first, second = folder.store.attempts(1)[1]
    assert (first.answer, first.rail) == (answers[0], "schema") and second.answer == answers[1]
    assert second.asked.startswith('Blocked by the schema rail: "reason" must be a string')
    assert endpoint.requests[1]["messages"][-1]["content"] == second.asked
    assert b"secret-key" not in (folder.path / "study.db").read_bytes()
