"""What a language model took on this machine's GPUs: in every sum, and told apart where there is any."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from studies import BAD, GOOD, change, make_study, query, run_study

from autoresearch.evidence import Evidence, sentences
from autoresearch.evidence.meters import measure
from autoresearch.evidence.proposers import proposer_records
from autoresearch.evidence.status import status
from autoresearch.facts import to_json
from autoresearch.morning.report.facts import facts
from autoresearch.study.folder import StudyFolder
from autoresearch.terminal.meters import meters_view
from autoresearch.trial import History, Proposal

ANSWERS = [change("lr", GOOD), "no JSON", change("lr", BAD)]


class Two:
    """A model with the first two answers, and an optimizer with the third."""

    name = "hybrid"

    def __init__(self, joules: float | None) -> None:
        self._of_model = Proposal("", "llm", model="m", energy_joules=joules, energy_source=joules and "nvml")  # type: ignore[arg-type]

    def propose(self, history: History) -> Proposal:
        raw = ANSWERS[history.number - 1]
        return replace(self._of_model, raw=raw) if history.number < 3 else Proposal(raw, "gp")


def night(home: Path, joules: float | None) -> StudyFolder:
    folder = make_study(home)
    run_study(folder, proposer=Two(joules), trials=2, workers=1)
    return folder


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return night(tmp_path_factory.mktemp("metered"), 360.0)


@pytest.fixture(scope="module")
def unmetered(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return night(tmp_path_factory.mktemp("unmetered"), None)


def of_runs(folder: StudyFolder) -> float:
    return float(query(folder, "SELECT SUM(energy_joules) FROM runs")[0][0])


def inspected(folder: StudyFolder) -> str:
    console = Console(width=250, file=io.StringIO(), highlight=False)
    console.print(meters_view(measure(Evidence(folder))))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_it_counts_in_every_sum_also_of_a_blocked_answer(metered: StudyFolder) -> None:
    whole, evidence = of_runs(metered) + 720.0, Evidence(metered)
    assert evidence.joules == pytest.approx(whole) == metered.store.totals()["joules"]
    assert evidence.cost.energy == pytest.approx(whole / 3.6e6 * 0.30)
    assert evidence.spent[-1] == pytest.approx(whole) and evidence.spent[2] - evidence.spent[1] == pytest.approx(360.0)
    assert evidence.energy_sources == ["estimate", "nvml"] and status(metered).energy_joules == pytest.approx(whole)


def test_it_is_told_apart(metered: StudyFolder) -> None:
    assert ", of it 0.200 Wh by the language model, under 0.01 EUR at 0.3 a kWh; " in sentences.energy(
        Evidence(metered)
    )
    table = facts(metered).proposers
    assert table.columns[-1].name == "energy of asking" and [row[-1] for row in table.rows] == ["0.200 Wh", "-"]
    assert inspected(metered).count(", asking took 0.200 Wh") == 1


def test_a_models_gain_is_held_against_what_it_took_itself(metered: StudyFolder) -> None:
    model, optimizer = proposer_records(evidence := Evidence(metered))
    assert (model.energy_joules, optimizer.energy_joules) == (720.0, None)
    runs = sum(trial.energy_joules or 0.0 for trial in evidence.trials if trial.proposer == "llm")
    assert model.gain > 0 and model.gain_per_kwh == pytest.approx(model.gain / ((runs + 720.0) / 3.6e6))


def test_where_there_is_none_nothing_is_said_of_it(unmetered: StudyFolder) -> None:
    evidence = Evidence(unmetered)
    assert evidence.joules == pytest.approx(of_runs(unmetered)) == unmetered.store.totals()["joules"]
    assert evidence.energy_sources == ["estimate"]
    assert "language model" not in sentences.energy(evidence) and "asking" not in inspected(unmetered)
    assert facts(unmetered).proposers.columns[-1].name == "tokens"
    told = json.loads(to_json(measure(evidence)))["proposers"]
    assert len(told) == 2 and not [name for record in told for name in record if name == "energy_joules"]
    assert query(unmetered, "SELECT DISTINCT energy_joules, energy_source FROM proposals") == [(None, None)]


def test_a_study_that_only_asked_has_no_mean_of_its_trials(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    folder.store.open_trial(0, Proposal("no JSON", "llm", energy_joules=360.0, energy_source="nvml"))
    assert Evidence(folder).joules_a_trial is None and sentences.energy(Evidence(folder)) == "no energy was recorded"
