"""Our own studies as JSON lines: out, in again field by field, and out once more to the byte."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from studies import GOOD, change, make_study, query, rows, run_study

from autoresearch.exchange import export_study, import_study
from autoresearch.study import history
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import Proposal

# What an import cannot have: commits of another repository, and prompts, for which the format has no place.
HOSTILE = json.dumps({"knob": "lr", "new_value": 9.0, "reason": "\x1b[2J<script>alert(1)</script>\u202e\ud800"})


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Kept, failed, blocked, unreadable and discarded trials."""
    folder = make_study(tmp_path_factory.mktemp("home"), budget={"tokens": 150_000}, energy__price_per_kwh=0.5)
    answers = [change("lr", GOOD), change("beta1", 0.55), HOSTILE, "\x1b]0;no JSON\x07", change("weight_decay", 0.1)]
    run_study(folder, answers, workers=1)
    return folder


@pytest.fixture(scope="module")
def brought_back(ran: StudyFolder) -> StudyFolder:
    file = ran.path / "out.jsonl"
    export_study(ran, "jsonl", file)
    return import_study(ran.path.parent, "back", file)


@pytest.mark.parametrize(("table", "order"), [("trials", "number"), ("runs", "trial, seed"), ("proposals", "trial")])
def test_a_study_of_ours_comes_back_field_by_field(
    ran: StudyFolder, brought_back: StudyFolder, table: str, order: str
) -> None:
    before, after = rows(ran, table, order), rows(brought_back, table, order)
    assert len(before) == len(after) > 0
    for was, now in zip(before, after, strict=True):
        assert {name: v for name, v in now.items() if v != was[name]} == {}


def test_a_second_export_is_the_first_to_the_byte(ran: StudyFolder, brought_back: StudyFolder) -> None:
    assert export_study(brought_back, "jsonl") == (ran.path / "out.jsonl").read_text("utf-8")


def test_what_the_numbers_depend_on_comes_back(ran: StudyFolder, brought_back: StudyFolder) -> None:
    assert brought_back.settings.budget == {"tokens": 150_000}
    assert brought_back.settings.energy.price_per_kwh == 0.5
    assert brought_back.menu == ran.menu
    assert brought_back.store.study()["incumbent"] == ran.store.study()["incumbent"] > 0


def test_what_a_model_took_travels_with_its_answer_and_is_not_named_where_there_is_none(
    ran: StudyFolder, tmp_path: Path
) -> None:
    lines = str(export_study(ran, "jsonl")).splitlines()
    answers = [json.loads(line).get("answer") or {} for line in lines]
    assert any(answers) and not [name for answer in answers for name in answer if name.startswith("energy")]
    folder = make_study(tmp_path)
    folder.store.open_trial(0, Proposal("no JSON", "llm", energy_joules=12.5, energy_source="nvml power"))
    export_study(folder, "jsonl", file := tmp_path / "out.jsonl")
    back = import_study(tmp_path, "back", file)
    assert query(back, "SELECT energy_joules, energy_source FROM proposals") == [(12.5, "nvml power")]


def test_paths_and_addresses_of_the_machine_stay_at_home(tmp_path: Path) -> None:
    folder = make_study(tmp_path, data__source="/home/ada/diary.txt", proposer__base_url="http://key@inside:8000")
    text = export_study(folder, "jsonl")
    assert isinstance(text, str) and "diary" not in text and "inside" not in text


@pytest.mark.parametrize(
    "limits",
    [
        None,
        17,
        {},
        {"device": "tpu"},
        {"device": "cpu", "budget": {"tokens": -1}},
        {"device": "cpu", "budget": {"steps": 2, "tokens": 1}},
    ],
)
def test_limits_that_are_none_are_not_believed(ran: StudyFolder, tmp_path: Path, limits: object) -> None:
    head, first, *rest = str(export_study(ran, "jsonl")).splitlines()
    line = json.loads(first)
    line["answer"] |= {"limits": limits, "deviation": "much"}
    (tmp_path / "odd.jsonl").write_text("\n".join([head, json.dumps(line), *rest]), "utf-8")
    odd = import_study(tmp_path, "odd", tmp_path / "odd.jsonl")
    assert query(odd, "SELECT limits, deviation FROM proposals WHERE trial = 1") == [(None, None)]
    assert history.at(odd, 1).limits.budget == {"tokens": 150_000} and history.at(odd, 1).deviation is None
    there = history.at(odd, 2).limits
    assert there == replace(history.at(ran, 2).limits, measurements=there.measurements)


def test_readers_of_the_published_format_find_their_fields(ran: StudyFolder) -> None:
    lines = [json.loads(line) for line in (ran.path / "out.jsonl").read_text("utf-8").splitlines()]
    head, kept, failed, blocked, unreadable, discarded, end = lines
    assert head["baseline_cfg"]["lr"] == 0.001 and head["baseline_val_bpb"] > 2.8
    assert [line["stage"] for line in lines[1:]] == [
        "evaluated", "eval_failed", "blocked", "blocked", "evaluated", "loop_complete",
    ]  # fmt: skip
    assert kept["proposal"] == {"knob": "lr", "new_value": GOOD, "reason": "because"}
    assert (kept["decision"], kept["is_new_best"], kept["iter"]) == ("keep", True, 1)
    assert kept["improvement_frac"] == round(kept["trial"]["improvement"] / kept["baseline_val_bpb"], 4)
    assert "-lr = 0.001" in kept["diff"] and "+lr = 0.004" in kept["diff"]
    metrics = kept["eval_metrics"]
    assert (metrics["ok"], metrics["params_m"], metrics["peak_gpu_mem_gib"]) == (True, 1.0, 0.25)
    assert metrics["n_runs"] == len(kept["runs"]) > 1 and metrics["energy_source"] == "estimate"
    assert failed["eval_metrics"]["ok"] is False and "NaN" in failed["eval_metrics"]["error"]
    assert (blocked["verdict_ok"], blocked["rail"]) == (False, "range")
    assert unreadable["proposal"] is None and unreadable["rail"] == "schema"
    assert discarded["decision"] == "revert"
    assert (end["accept_count"], end["revert_count"], end["block_count"], end["eval_fail_count"]) == (1, 1, 2, 1)
    assert end["best_proposal"]["knob"] in ("lr", "weight_decay")


def test_a_cancelled_run_travels_as_what_it_is(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    with sqlite3.connect(folder.path / "study.db") as database:
        database.execute(
            "INSERT INTO runs (trial, seed, purpose, state, attempts, message, energy_joules, energy_source, curve) "
            "VALUES (0, 0, 'reference', 'cancelled', 1, 'cancelled after step 1', 3.0, 'estimate', '[[1, 7.6]]')"
        )
    export_study(folder, "jsonl", tmp_path / "out.jsonl")
    back = import_study(tmp_path, "back", tmp_path / "out.jsonl")
    assert query(back, "SELECT state, failure, message, energy_joules, curve FROM runs") == [
        ("cancelled", None, "cancelled after step 1", 3.0, "[[1, 7.6]]")
    ]


def test_a_trial_in_flight_keeps_its_number_and_comes_back_abandoned(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    with sqlite3.connect(folder.path / "study.db") as database:
        database.execute(
            "INSERT INTO trials (number, parent, proposer, changes, recipe, hypothesis, state, reason, n_runs, "
            "started_at) VALUES (1, 0, 'llm', '{}', '{}', '', 'proposed', '', 0, '2026-01-01T00:00:00.000Z')"
        )
    export_study(folder, "jsonl", tmp_path / "out.jsonl")
    back = import_study(tmp_path, "back", tmp_path / "out.jsonl")
    assert query(back, "SELECT number, state FROM trials") == [(0, "abandoned"), (1, "abandoned")]
    assert back.store.pending_runs() == []
