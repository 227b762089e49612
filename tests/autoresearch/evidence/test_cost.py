"""What a search costs: energy, and a language model's tokens where study.toml says what they cost."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType
from studies import GOOD, change, make_study, query, run_study

from autoresearch import words
from autoresearch.config import Settings
from autoresearch.cost import Cost, cost
from autoresearch.evidence import Evidence, sentences
from autoresearch.evidence.proposers import proposer_records
from autoresearch.evidence.status import status
from autoresearch.facts import to_json
from autoresearch.morning.plan import make_plan
from autoresearch.morning.report.facts import facts
from autoresearch.morning.report.markdown import markdown
from autoresearch.study.folder import StudyFolder
from autoresearch.terminal.plan import plan_view
from autoresearch.terminal.status import status_view
from autoresearch.trial import History, Proposal

PRICES: dict[str, Any] = {
    "proposer__price_per_million_prompt_tokens": 100.0,
    "proposer__price_per_million_completion_tokens": 400.0,
}
TOKENS = 20_000 * 100 / 1e6 + 1_500 * 400 / 1e6  # what the model below costs at these prices: 2.60


class Counted:
    """A model whose server counts the tokens of its first two answers, and not those of the third."""

    name = "llm"
    answers = (change("lr", GOOD), "no JSON", change("beta1", 0.8))
    counts = ((12_000, 1_000), (8_000, 500), (None, None))

    def propose(self, history: History) -> Proposal:
        read, written = self.counts[history.number - 1]
        raw = self.answers[history.number - 1]
        return Proposal(raw, self.name, model="m", prompt_tokens=read, completion_tokens=written)


def night(home: Path, **overrides: Any) -> StudyFolder:
    folder = make_study(home, **overrides)
    run_study(folder, proposer=Counted(), trials=2, workers=1)
    return folder


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return night(tmp_path_factory.mktemp("priced"), **PRICES)


@pytest.fixture(scope="module")
def unpriced(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return night(tmp_path_factory.mktemp("unpriced"))


def shown(view: RenderableType) -> str:
    console = Console(width=250, file=io.StringIO(), highlight=False)
    console.print(view)
    return console.file.getvalue()  # type: ignore[attr-defined]


def energy_cost(folder: StudyFolder) -> float:
    return float(query(folder, "SELECT SUM(energy_joules) FROM runs")[0][0]) / 3.6e6 * 0.30


def settings(**prices: float) -> Settings:
    return Settings.model_validate({"preset": "cpu-nano", "budget": {"tokens": 1}, "proposer": prices})


@pytest.mark.parametrize(
    ("prices", "joules", "tokens", "expected", "total"),
    [
        ({}, 3.6e6, (10, 10), Cost(0.30, None), 0.30),
        ({}, None, (10, 10), Cost(None, None), None),
        ({"price_per_million_prompt_tokens": 2.0}, 3.6e6, (10**6, 10**6), Cost(0.30, 2.0), 2.30),
        ({"price_per_million_completion_tokens": 3.0}, None, (10**6, 10**6), Cost(None, 3.0), 3.0),
        ({"price_per_million_prompt_tokens": 2.0}, 3.6e6, (0, 10), Cost(0.30, None), 0.30),
        ({"price_per_million_prompt_tokens": 0.0}, 3.6e6, (10, 0), Cost(0.30, 0.0), 0.30),
    ],
)
def test_a_cost_is_that_of_what_has_a_price_and_was_counted(
    prices: dict[str, float], joules: float | None, tokens: tuple[int, int], expected: Cost, total: float | None
) -> None:
    found = cost(settings(**prices), joules, *tokens)
    assert found == expected and found.total == (None if total is None else pytest.approx(total))


def test_tokens_of_blocked_answers_cost_too_and_those_that_no_server_counted_nothing(priced: StudyFolder) -> None:
    evidence = Evidence(priced)
    assert [trial.state for trial in evidence.trials[1:]] == ["complete", "blocked", "complete"]
    assert evidence.tokens == (20_000, 1_500)
    assert evidence.cost.energy == pytest.approx(energy_cost(priced))
    assert evidence.cost.tokens == pytest.approx(TOKENS)


def test_status_tells_energy_and_tokens_apart(priced: StudyFolder) -> None:
    found = status(priced)
    assert found.cost == pytest.approx(energy_cost(priced) + TOKENS)
    told = json.loads(to_json(found))
    assert (told["energy_cost"], told["token_cost"]) == pytest.approx((energy_cost(priced), TOKENS))
    assert ", 2.60 EUR (energy under 0.01 EUR, tokens 2.60 EUR)" in shown(status_view(found))


def test_the_report_tells_what_the_tokens_of_each_proposer_cost(priced: StudyFolder) -> None:
    (record,) = proposer_records(Evidence(priced))
    assert record.tokens == 21_500 and record.token_cost == pytest.approx(TOKENS)
    report = facts(priced)
    assert [column.name for column in report.proposers.columns][-2:] == ["tokens", "cost of tokens"]
    assert report.proposers.rows[0][-2:] == ["21,500", "2.60 EUR"]
    counted = "20,000 tokens read at 100 a million, 1,500 tokens written at 400 a million: 2.60 EUR; 2.60 EUR together"
    assert report.energy.endswith(counted) and counted in markdown(report)


def test_the_sentence_at_the_end_of_a_night_tells_both(priced: StudyFolder) -> None:
    evidence = Evidence(priced)
    energy = words.energy(evidence.joules, ["estimate"])
    said = sentences.improved(evidence)
    assert f"; the search cost {energy}, 2.60 EUR (energy under 0.01 EUR, tokens 2.60 EUR)." in said


def test_a_plan_compares_with_what_energy_and_tokens_have_cost(priced: StudyFolder) -> None:
    plan = make_plan(priced, "h100-sxm")
    blind = plan["booking_blind"]
    assert blind["search_cost"] == pytest.approx(energy_cost(priced) + TOKENS)
    assert blind["search_token_cost"] == pytest.approx(TOKENS)
    assert blind["ratio"] == pytest.approx(blind["loss"] / blind["search_cost"])
    assert "cost 2.60 EUR (energy under 0.01 EUR, tokens 2.60 EUR)" in " ".join(shown(plan_view(plan)).split())


def test_where_tokens_have_no_price_nothing_is_said_of_their_cost(unpriced: StudyFolder) -> None:
    evidence, report = Evidence(unpriced), facts(unpriced)
    energy = words.energy(evidence.joules, ["estimate"])
    told = json.loads(to_json(found := status(unpriced)))
    assert told["cost"] == pytest.approx(energy_cost(unpriced)) and "token" not in "".join(told)
    lines = [" ".join(line.split()) for line in shown(status_view(found)).splitlines()]
    assert f"energy {energy}, under 0.01 EUR" in lines
    assert sentences.improved(evidence).endswith(f"; the search cost {energy}, under 0.01 EUR.")
    assert report.proposers.columns[-1].name == "tokens" and report.proposers.rows[0][-1] == "21,500"
    assert report.energy.endswith(" a trial, over 3 trials")
    plan = make_plan(unpriced, "h100-sxm")
    assert not [key for key in plan["booking_blind"] if "token" in key]
    assert "cost under 0.01 EUR of electricity" in " ".join(shown(plan_view(plan)).split())


def test_tokens_that_cost_something_are_told_where_no_energy_was_recorded(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **PRICES)
    folder.store.open_trial(0, Proposal("no JSON", "llm", prompt_tokens=20_000, completion_tokens=1_500))
    evidence = Evidence(folder)
    assert sentences.improved(evidence).endswith("; what it cost in energy was not recorded; its tokens cost 2.60 EUR.")
    assert sentences.energy(evidence).startswith("no energy was recorded; 20,000 tokens read at 100 a million, ")
    assert "- , 2.60 EUR (tokens)" in shown(status_view(status(folder))).replace("-,", "- ,")
