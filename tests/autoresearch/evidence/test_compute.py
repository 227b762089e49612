"""What runs took, and who spent more: from the database, whichever way it is looked at."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

import published
import pytest
from rich.console import Console
from studies import GOOD, change, make_study, query, run_study

from autoresearch.evidence import Evidence
from autoresearch.evidence.compute import Compute, bought, compute, over_baseline, over_parent, trial_facts
from autoresearch.evidence.meters import measure
from autoresearch.evidence.sentences import warnings
from autoresearch.exchange import import_study
from autoresearch.exchange.jsonl_write import write_jsonl
from autoresearch.exchange.tables import csv_text
from autoresearch.facts import to_json
from autoresearch.morning.report.detail import detail
from autoresearch.morning.report.facts import facts
from autoresearch.morning.report.markdown import markdown
from autoresearch.study.folder import StudyFolder
from autoresearch.terminal.trials import trial_view

# The stub counts a million FLOPs a layer for each of 200,000 tokens; the baseline has 4 layers.
LAYER = 200_000 * 1e6


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A keep that costs nothing, one on it that is bought, a discard that saves, a failure, a blocked proposal."""
    folder = make_study(tmp_path_factory.mktemp("compute") / "home")
    both = json.dumps({"knob": "lr", "new_value": 9.0, "reason": "too much"})
    answers = [change("lr", 0.002), change("lr", GOOD), change("n_layer", 3), change("beta1", 0.55), both]
    run_study(folder, answers, workers=1)
    deeper = "UPDATE runs SET flops = 1.5 * flops WHERE trial = 2"
    with folder.store.db.atomic():
        folder.store.db.execute(deeper)
    return folder


def test_a_trials_compute_is_that_of_one_of_its_runs(ran: StudyFolder) -> None:
    evidence = Evidence(ran)
    assert [trial.decision for trial in evidence.trials] == [None, "keep", "keep", "discard", None, None]
    took = [compute(evidence, trial) for trial in evidence.trials]
    assert took[0] == took[1] == Compute(200_000, 4 * LAYER)
    assert took[3] == Compute(200_000, 3 * LAYER)
    assert took[4] == took[5] == Compute(None, None), "nothing of it is complete"
    assert query(ran, "SELECT DISTINCT flops FROM runs WHERE trial = 4") == [(4 * LAYER,)], "yet it was spent"


def test_what_a_trial_spent_is_told_against_its_parent_and_against_the_baseline(ran: StudyFolder) -> None:
    evidence = Evidence(ran)
    _, same, more, less, failed, _ = evidence.trials
    assert [over_parent(evidence, trial) for trial in (same, more)] == [1.0, 1.5]
    assert (over_parent(evidence, less), over_baseline(evidence, less)) == (0.5, 0.75)
    assert over_parent(evidence, evidence.baseline) is None and over_parent(evidence, failed) is None
    assert bought(evidence) == {2: 1.5}


def test_the_report_says_of_each_keep_whether_it_spent_more_than_its_parent(ran: StudyFolder) -> None:
    told = facts(ran)
    kept = [row for row in told.trials if row.outcome == "keep"]
    assert [row.compute for row in kept] == ["same compute", "1.50 x the FLOPs of its parent"]
    assert [row.flops_over_baseline for row in told.trials] == [1.0, 1.0, 1.5, 0.75, None, None]
    text = markdown(told)
    assert "| same compute " in text and "| 1.50 x the FLOPs of its parent |" in text
    said = "1 of 2 kept changes spent more than the recipe that it changed, up to 1.50 x its FLOPs (trial 2)"
    assert any(warning.startswith(said) for warning in told.warnings)


def test_a_study_of_equal_compute_warns_of_none(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "home")
    run_study(folder, [change("lr", GOOD)], workers=1)
    evidence = Evidence(folder)
    assert bought(evidence) == {} and not any("bought" in said for said in warnings(evidence, measure(evidence)))


def test_one_trial_shows_what_a_run_of_it_took(ran: StudyFolder) -> None:
    evidence = Evidence(ran)
    took = "200,000 tokens, 1.20 TFLOP (1.50 x the FLOPs of its parent)"
    console = Console(width=120, file=StringIO())
    with console.capture() as printed:
        console.print(trial_view(evidence, evidence.trials[2], evidence.runs[2], None, ""))
    assert re.search(rf"^a run took +{re.escape(took)}", printed.get(), re.MULTILINE)
    assert f"a run took {took}" in detail(ran, 2).summary
    assert "a run took 200,000 tokens, 800 GFLOP;" in detail(ran, 0).summary
    assert "a run took" not in detail(ran, 5).summary


def test_tokens_and_flops_leave_with_a_study_and_come_back(ran: StudyFolder, tmp_path: Path) -> None:
    evidence = Evidence(ran)
    listed = json.loads(to_json([trial_facts(evidence, trial) for trial in evidence.trials]))
    assert [trial["flops"] for trial in listed] == [4 * LAYER, 4 * LAYER, 6 * LAYER, 3 * LAYER, None, None]
    assert listed[2]["flops_over_parent"] == 1.5 and listed[2]["tokens"] == 200_000 and listed[2]["number"] == 2
    assert "runs_flops" in csv_text(ran).splitlines()[0].split(",")
    away = tmp_path / "night.jsonl"
    away.write_text(write_jsonl(ran))
    there = Evidence(import_study(tmp_path / "away", "theirs", away))
    assert [compute(there, trial) for trial in there.trials] == [compute(evidence, trial) for trial in evidence.trials]
    assert bought(there) == {2: 1.5}


def test_of_runs_that_nobody_counted_nothing_is_said(tmp_path: Path) -> None:
    evidence = Evidence(import_study(tmp_path / "home", "theirs", published.write(tmp_path / "trajectory.jsonl")))
    assert {over_parent(evidence, trial) for trial in evidence.trials} == {None} and bought(evidence) == {}
    assert {row.compute for row in facts(evidence.folder).trials} == {"-"}
