"""How an endpoint is asked for JSON: what it enforces is found out once, remembered, and found out again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from endpoint import KEY, Endpoint, completion, way_of
from endpoint_replies import completion_of
from histories import history
from studies import change

from autoresearch.config import ProposerSettings
from autoresearch.proposers.forms import FILE, MOST_REMEMBERED, QUESTIONS_BETWEEN_LOOKS, WAYS, Form
from autoresearch.proposers.llm import LlmProposer
from autoresearch.proposers.tpe import TpeProposer
from trainer.cache import cache_folder

GOOD = change("lr", 0.004)
SCHEMA_WAYS = WAYS[:3]


def llm(**settings: Any) -> LlmProposer:
    return LlmProposer(ProposerSettings(**{"max_retries": 0, **settings}), TpeProposer())


def refusal(why: str, status: int = 400) -> tuple[int, str]:
    return status, json.dumps({"error": {"message": why}})


def asked(endpoint: Endpoint) -> list[str]:
    return [way_of(request) for request in endpoint.requests]


def probed(endpoint: Endpoint) -> list[str]:
    return [way_of(request) for request in endpoint.probes]


def remembered() -> list[dict[str, Any]]:
    return json.loads((cache_folder() / FILE).read_text())


@pytest.mark.parametrize("refuses", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_knows_one_way_is_asked_in_it(way: str, refuses: bool, endpoint: Endpoint) -> None:
    endpoint.forms, endpoint.refuses = {way}, refuses
    proposer = llm()
    assert proposer.propose(history()).raw == proposer.propose(history()).raw == GOOD
    assert probed(endpoint) == list(WAYS[: WAYS.index(way) + 1])
    assert asked(endpoint) == [way, way]
    assert [(entry["way"], entry["bounds"]) for entry in remembered()] == [(way, way in SCHEMA_WAYS)]


def test_the_schema_stands_where_the_server_looks_for_it(endpoint: Endpoint) -> None:
    places: dict[str, Callable[[dict[str, Any]], Any]] = {
        "json_schema": lambda request: request["response_format"]["json_schema"]["schema"],
        "guided_json": lambda request: request["nvext"]["guided_json"],
        "structured_outputs": lambda request: request["structured_outputs"]["json"],
    }
    for number, (way, schema) in enumerate(places.items()):
        endpoint.forms = {way}
        llm(model=f"model-{number}").propose(history())
        assert schema(endpoint.requests[-1])["anyOf"]
        assert schema(endpoint.probes[-1])["properties"]["word"] == {"type": "string", "enum": ["quartz"]}


@pytest.mark.parametrize("way", SCHEMA_WAYS)
def test_a_schema_without_bounds_of_numbers_is_told_from_one_with_them(way: str, endpoint: Endpoint) -> None:
    endpoint.forms, endpoint.bounds = {way}, False
    form = llm().forms.look()
    assert (form.way, form.bounds) == (way, False) and "but not the bounds" in str(form)


def test_the_best_way_of_several_is_taken(endpoint: Endpoint) -> None:
    endpoint.forms = {"json_object", "structured_outputs", "text"}
    assert llm().forms.look() == Form("structured_outputs", True)


def test_what_an_endpoint_can_do_is_remembered_for_the_next_night(endpoint: Endpoint) -> None:
    endpoint.forms = {"guided_json"}
    llm().propose(history())
    known = len(endpoint.probes)
    assert llm().propose(history()).raw == GOOD
    assert len(endpoint.probes) == known and asked(endpoint) == ["guided_json", "guided_json"]
    assert llm(model="another").propose(history()).raw == GOOD
    assert len(endpoint.probes) == 2 * known, "another model may be served by another server"


def test_a_way_that_is_refused_from_now_on_is_found_out_again(endpoint: Endpoint) -> None:
    def answer(request: dict[str, Any]) -> tuple[int, str]:
        if way_of(request) in {*endpoint.forms, "text"}:
            return 200, completion(GOOD)
        return refusal("no such form")

    proposer = llm()
    proposer.propose(history())
    endpoint.answer, endpoint.forms = answer, {"json_object"}
    assert [proposer.propose(history()).raw for _ in range(3)] == [GOOD] * 3
    assert asked(endpoint) == ["json_schema", "json_schema", "text", "json_object", "json_object"]
    assert [entry["way"] for entry in remembered()] == ["json_object"]


@pytest.mark.parametrize("status", [400, 422, 501])
def test_a_schema_that_is_enforced_but_not_this_one_costs_no_trial(status: int, endpoint: Endpoint) -> None:
    endpoint.forms = {"json_schema", "json_object"}
    endpoint.answer = lambda request: (status, "{}") if way_of(request) == "json_schema" else (200, completion(GOOD))
    proposer = llm()
    assert [proposer.propose(history()).raw for _ in range(3)] == [GOOD] * 3
    assert asked(endpoint) == ["json_schema", "text", "json_object", "json_object"]


def test_a_fault_in_answering_costs_no_trial_and_says_nothing_of_the_form(endpoint: Endpoint) -> None:
    endpoint.answer = lambda request: (500, "{}") if len(endpoint.requests) == 1 else (200, completion(GOOD))
    proposer = llm()
    assert [proposer.propose(history()).raw for _ in range(2)] == [GOOD] * 2
    assert asked(endpoint) == ["json_schema", "text", "json_schema"]


def test_a_way_that_gives_nothing_to_read_is_found_out_again_but_not_each_time(endpoint: Endpoint) -> None:
    llm().forms.look()
    endpoint.forms, endpoint.refuses = {"json_object"}, False
    endpoint.answer = lambda request: (200, completion("I would rather not."))
    forms = llm().forms
    request = {"model": "test/model", "messages": [{"role": "user", "content": "?"}]}
    for _ in range(2 + QUESTIONS_BETWEEN_LOOKS):
        forms.ask(request, lambda _: {}, until=math.inf)
    assert asked(endpoint) == ["json_schema"] * 2 + ["json_object"] * QUESTIONS_BETWEEN_LOOKS
    assert len(endpoint.probes) == 1 + 4
    forms.ask(request, lambda _: {}, until=math.inf)
    assert len(endpoint.probes) == 1 + 4 + 4


def test_one_bad_answer_now_and_then_makes_no_doubt(endpoint: Endpoint) -> None:
    proposer = llm()
    endpoint.answer = lambda request: (200, completion(GOOD if len(endpoint.requests) % 2 else "no"))
    for _ in range(8):
        proposer.propose(history())
    assert len(endpoint.probes) == 1


def test_a_refusal_for_its_length_says_nothing_of_the_form(endpoint: Endpoint) -> None:
    endpoint.answer = lambda request: refusal("the maximum context length is 8 tokens")
    assert llm(lineage=False).propose(history()).proposer == "tpe"
    assert asked(endpoint) == ["json_schema"]


def test_an_endpoint_that_is_down_is_not_remembered(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "shown", lambda request: (503, "{}"))
    proposal = llm().propose(history())
    assert proposal.proposer == "tpe" and "status 503" in proposal.notes[0]
    assert probed(endpoint) == ["json_schema"] and endpoint.requests == []
    assert not (cache_folder() / FILE).exists()


def test_a_model_that_is_not_there_is_not_remembered(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "shown", lambda request: refusal("no such model", 404))
    assert "no such model" in llm().propose(history()).notes[0]
    assert not (cache_folder() / FILE).exists()


def test_a_fault_of_one_way_is_stepped_over_and_tried_again_tomorrow(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.forms, usual = {"json_object"}, endpoint.shown
    monkeypatch.setattr(endpoint, "shown", lambda request: (500, "") if "nvext" in request else usual(request))
    assert llm().propose(history()).raw == GOOD
    assert asked(endpoint) == ["json_object"] and not (cache_folder() / FILE).exists()


def test_a_model_that_thinks_first_gets_the_tokens_for_it(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = endpoint.shown

    def shown(request: dict[str, Any]) -> tuple[int, str]:
        if request["max_tokens"] < 100:
            return 200, completion_of({"content": None, "reasoning_content": "Amber, hm."}, "length")
        return usual(request)

    monkeypatch.setattr(endpoint, "shown", shown)
    endpoint.forms, endpoint.refuses = {"guided_json"}, False
    assert llm().forms.look() == Form("guided_json", True)
    assert probed(endpoint) == ["json_schema", "json_schema", "guided_json"]


def test_a_model_without_room_for_thoughts_is_judged_by_what_it_says(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(request: dict[str, Any]) -> tuple[int, str]:
        if request["max_tokens"] > 100:
            return refusal("max_tokens is too large")
        return 200, completion_of({"content": "Amber and"}, "length")

    monkeypatch.setattr(endpoint, "shown", shown)
    assert llm().forms.look() == Form("text")


def test_a_slow_endpoint_is_asked_plainly_meanwhile(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = endpoint.shown

    def shown(request: dict[str, Any]) -> tuple[int, str]:
        if way_of(request) == "structured_outputs":
            endpoint.closed.wait()
        return usual(request)

    monkeypatch.setattr(endpoint, "shown", shown)
    endpoint.forms, endpoint.refuses = {"json_object"}, False
    assert llm(timeout_seconds=2).propose(history()).raw == GOOD
    assert asked(endpoint) == ["text"] and not (cache_folder() / FILE).exists()


# --- what is remembered ---


@pytest.mark.parametrize(
    "garbage",
    [
        b"", b"\xff\xfe", b"null", b"7", b"{}", b"[" * 100_000, b"[null, 7, {}, []]", b" " * 2**17,
        b'[{"address": 1, "model": 2, "way": [], "bounds": {}}]',
    ],
)  # fmt: skip
def test_a_garbled_memory_is_none(garbage: bytes, endpoint: Endpoint) -> None:
    (cache_folder() / FILE).write_bytes(garbage)
    assert llm().propose(history()).raw == GOOD
    assert [entry["way"] for entry in remembered()] == ["json_schema"]


@pytest.mark.parametrize("way", ["telepathy", None, 7, {}, ["text"]])
def test_a_way_that_nobody_knows_is_not_remembered(way: object, endpoint: Endpoint) -> None:
    entry = {"address": endpoint.url, "model": "test/model", "way": way, "bounds": True}
    (cache_folder() / FILE).write_text(json.dumps([entry]))
    assert llm().propose(history()).raw == GOOD
    assert probed(endpoint) == ["json_schema"]


def test_without_a_place_for_it_nothing_is_remembered(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache_folder() / FILE).mkdir()
    assert llm().propose(history()).raw == llm().propose(history()).raw == GOOD
    assert [path.name for path in cache_folder().iterdir()] == [FILE], "nothing is left lying about"
    nowhere = tmp_path / "file"
    nowhere.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(nowhere))
    monkeypatch.setattr("tempfile.tempdir", str(nowhere))
    assert llm().propose(history()).raw == GOOD


def test_the_latest_few_are_remembered(endpoint: Endpoint) -> None:
    entry = {"address": endpoint.url, "way": "text", "bounds": False}
    older = [entry | {"model": f"model-{number}"} for number in range(MOST_REMEMBERED)]
    (cache_folder() / FILE).write_text(json.dumps(older))
    for model in ("new", "model-5"):
        assert llm(model=model).forms.look().way == "json_schema"
    models = [entry["model"] for entry in remembered()]
    assert len(models) == MOST_REMEMBERED and models[0] == "model-1" and models[-2:] == ["new", "model-5"]


def test_no_secret_is_remembered(endpoint: Endpoint) -> None:
    host = endpoint.url.removeprefix("http://")
    proposer = llm(base_url=f"http://anna:hunter2@{host}?api_key=passing-by", model=f"model-{KEY}")
    assert proposer.propose(replace(history(), number=3)).proposer == "llm"
    text = (cache_folder() / FILE).read_text()
    assert endpoint.url in text and not any(secret in text for secret in (KEY, "anna", "hunter2", "passing-by"))
