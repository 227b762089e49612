"""What `autoresearch doctor` says of a language model: what its endpoint can do now, or why it does not answer."""

from __future__ import annotations

import json

import pytest
from endpoint import KEY, Endpoint

from autoresearch.cli import machine
from autoresearch.cli.machine import language_model


@pytest.mark.parametrize(
    ("way", "bounds", "words"),
    [
        ("json_schema", True, "enforces a JSON schema (json_schema), also the bounds of numbers"),
        ("guided_json", False, "enforces a JSON schema (guided_json), but not the bounds of numbers"),
        ("json_object", False, "enforces JSON but no schema (json_object)"),
        ("text", False, "enforces no form; answers are read out of its text"),
    ],
)
def test_what_an_endpoint_can_do_is_said(way: str, bounds: bool, words: str, endpoint: Endpoint) -> None:
    endpoint.forms, endpoint.bounds = {way}, bounds
    finding = language_model()
    assert finding.fine and finding.found == f"test/model at {endpoint.url}: {words}"


def test_it_is_found_out_now_whatever_is_remembered(endpoint: Endpoint) -> None:
    language_model()
    endpoint.forms = {"json_object"}
    assert "json_object" in language_model().found


def test_an_endpoint_that_does_not_answer_loses_no_night(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    said = json.dumps({"error": {"message": f"who is {KEY}?"}})
    monkeypatch.setattr(endpoint, "shown", lambda request: (401, said))
    finding = language_model()
    assert finding.fine and "does not answer (AuthenticationError" in finding.found
    assert finding.found.endswith("; until it does, the optimizer proposes") and KEY not in finding.found


def test_a_silent_endpoint_is_not_waited_for(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(request: object) -> tuple[int, str]:
        endpoint.closed.wait()
        return 200, ""

    monkeypatch.setattr(endpoint, "shown", shown)
    monkeypatch.setattr(machine, "LOOK_SECONDS", 0.1)
    assert "does not answer (no whole answer in" in language_model().found


def test_without_a_model_the_optimizer_is_named(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name)
    finding = language_model()
    assert finding.fine and finding.found.startswith("none configured; gp proposes (set OPENAI_BASE_URL")


def test_an_address_that_is_none_is_bad(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://anna:hunter2@[::1/v1")
    finding = language_model()
    assert not finding.fine and "cannot be used" in finding.found and "hunter2" not in finding.found
