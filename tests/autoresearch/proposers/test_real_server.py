"""The language model's proposer before a real server that holds a model to a schema; the model itself is random."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from histories import MENU, baseline, history, past_trial
from studies import make_study, query, run_study

from autoresearch.config import ProposerSettings
from autoresearch.proposers.classic import RandomProposer
from autoresearch.proposers.completion import Answer
from autoresearch.proposers.endpoint import ChatEndpoint, Refused
from autoresearch.proposers.llm import LlmProposer
from autoresearch.proposers.prompt import answer_schema, instructions, render
from autoresearch.trial import History, Trial
from rails import gate, recipe_key

tiny_llm = pytest.importorskip(
    "tiny_llm", reason="xllamacpp is not installed: it has no wheel for some platforms", exc_type=ImportError
)
PASSED = (None, "novelty", "cross", "diff", "compute", "fit")  # what these block has the form of an answer
SMALL_CONTEXT = 4096


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny_llm.write_model(path)
    return path


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def url(model: Path) -> Iterator[str]:
    with tiny_llm.served(model) as address:
        yield address


def ask(url: str, schema: dict[str, Any], text: str = "lr?", seed: int = 0) -> Answer:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    messages = [{"role": "user", "content": text}]
    request = dict(model="tiny", messages=messages, temperature=1.5, max_tokens=2000, seed=seed, response_format=form)
    return ChatEndpoint(url, None, 60, 0).ask(request, time.monotonic() + 60)


def proposer(url: str, lineage_tokens: int) -> LlmProposer:
    # Hot, so that the random model comes to all parts of the schema.
    settings = ProposerSettings(base_url=url, model="tiny", temperature=1.5, lineage_tokens=lineage_tokens)
    return LlmProposer(settings, RandomProposer())


def test_the_same_seed_gives_the_same_model_and_another_seed_another(model: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        tiny_llm.write_model(tmp_path / str(seed), seed)
    assert (tmp_path / "0").read_bytes() == model.read_bytes() != (tmp_path / "1").read_bytes()


def test_a_random_model_is_held_to_a_schema(url: str) -> None:
    schema = {"type": "object", "properties": {"lr": {"enum": [0.0015]}}, "required": ["lr"]}
    for seed in range(5):
        assert json.loads(ask(url, {**schema, "additionalProperties": False}, seed=seed).text) == {"lr": 0.0015}


@pytest.mark.parametrize("most", [1, 2, len(MENU.knobs)])
def test_each_of_several_candidates_keeps_to_the_menu(url: str, most: int) -> None:
    known = history([baseline()], menu=replace(MENU, max_changes=most))
    counts = set()
    for seed in range(8):
        answer = json.loads(ask(url, answer_schema(known, grid=True, candidates=3), seed=seed).text)
        verdicts = [gate(json.dumps(one), known.recipe, known.menu, known.tried) for one in answer["candidates"]]
        assert 1 <= len(verdicts) <= 3 and all(verdict.rail in PASSED for verdict in verdicts)
        counts |= {len(verdict.changes) for verdict in verdicts}
    assert min(counts) == 1 and max(counts) <= most and (max(counts) > 1) == (most > 1)


def test_a_night_of_a_random_models_answers_stays_on_the_menu_and_runs_no_recipe_twice(
    url: str, tmp_path: Path
) -> None:
    folder = make_study(tmp_path, limits__run_seconds=2.0)
    run_study(folder, proposer=proposer(url, 600), trials=50)
    assert query(folder, "SELECT trial FROM proposals WHERE proposer NOT IN ('llm', 'apart', 'carried')") == []
    rails = [rail for (rail,) in query(folder, "SELECT rail FROM proposals WHERE proposer = 'llm'")]
    assert len(rails) >= 40
    kept_to = sum(rail in PASSED for rail in rails)
    others = Counter(rail for rail in rails if rail)
    print(f"{kept_to} of {len(rails)} answers passed schema, menu and range; blocked: {dict(others) or 'none'}")
    assert kept_to >= 0.95 * len(rails)
    assert query(folder, "SELECT recipe_key FROM trials WHERE recipe_key <> '' GROUP BY 1 HAVING COUNT(*) > 1") == []


def test_a_question_that_a_small_context_has_no_room_for_is_told_as_such_by_a_real_server(model: Path) -> None:
    with tiny_llm.served(model, SMALL_CONTEXT) as url, pytest.raises(Refused, match="context size"):
        ask(url, {"enum": [1]}, "x" * SMALL_CONTEXT)


def test_a_lineage_that_outgrows_a_small_context_is_told_in_fewer_words_and_the_night_goes_on(model: Path) -> None:
    trials = [baseline()]
    with tiny_llm.served(model, SMALL_CONTEXT) as url:
        model_behind = proposer(url, 3000)
        for number in range(1, 16):
            known = history(trials)
            assert len(instructions(known) + render(known)) > SMALL_CONTEXT or number < 5
            proposal = model_behind.propose(known)
            assert (proposal.proposer, proposal.notes) == ("llm", [])
            assert proposal.prompt and len(proposal.prompt) < SMALL_CONTEXT
            trials.append(outcome(proposal.raw, known))
    kept_to = sum(trial.rail in PASSED for trial in trials[1:])
    assert kept_to >= 0.95 * len(trials[1:])


def outcome(raw: str, known: History) -> Trial:
    """A trial that gained nothing, or was blocked."""
    verdict = gate(raw, known.recipe, known.menu, known.tried, known.limits)
    recipe = {**known.recipe, **verdict.changes}
    fields: dict[str, Any] = {"proposer": "llm", "changes": verdict.changes, "rail": verdict.rail}
    if verdict.passed:
        fields |= {"recipe": recipe, "recipe_key": recipe_key(recipe), "hypothesis": verdict.hypothesis}
    else:
        fields |= {"recipe": {}, "recipe_key": "", "state": "blocked", "reason": verdict.reason}
    return past_trial(len(known.trials), "lr", 0.001, 0.0 if verdict.passed else None, **fields)
