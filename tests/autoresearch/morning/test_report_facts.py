"""What the report says of a study: every figure can be told from the database by hand."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import published
import pytest
from studies import GOOD, change, make_study, query, run_study

from autoresearch.exchange import import_study, tsv17
from autoresearch.morning.report.facts import detail, details, facts, thin
from autoresearch.study.folder import StudyFolder

HOSTILE = "\x1b[2J<script>alert(1)</script>\u202e"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Two keeps on one another, a discard, a failure, a blocked proposal."""
    folder = make_study(tmp_path_factory.mktemp("facts") / "home")
    blocked = json.dumps({"knob": "lr", "new_value": 9.0, "reason": HOSTILE})
    answers = [change("lr", 0.002), change("lr", GOOD), change("d_ff", 1024), change("beta1", 0.55), blocked]
    run_study(folder, answers, workers=1)
    return folder


@pytest.fixture(scope="module")
def told(ran: StudyFolder) -> dict:
    return facts(ran)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict:
    place = tmp_path_factory.mktemp("theirs")
    return facts(import_study(place / "home", "theirs", published.write(place / "trajectory.jsonl")))


def runs_of(folder: StudyFolder, trial: int, column: str = "val_bpb") -> list[float]:
    return [row[0] for row in query(folder, f"SELECT {column} FROM runs WHERE trial = {trial} AND {column} NOT NULL")]


def test_the_headline_says_what_was_tried_and_what_improved_on_both_texts(ran: StudyFolder, told: dict) -> None:
    tried, improved = told["headline"]
    assert "4 changes were trained, 1 of them failed, 1 more was blocked" in tried and "3 of 13 knobs" in tried
    assert "2 were kept" in tried
    gain = fmean(runs_of(ran, 0)) - fmean(runs_of(ran, 2))
    on_test = fmean(runs_of(ran, 0, "test_bpb")) - fmean(runs_of(ran, 2, "test_bpb"))
    assert f"{gain:.4f} ±" in improved and f"{on_test:.4f} ±" in improved and "EUR" in improved
    assert "not a usable model" in told["not_this"]


def test_a_study_without_a_keep_says_what_it_could_not_have_seen(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "home")
    run_study(folder, [change("d_ff", 1024)], workers=1)
    told = facts(folder)
    assert "none was kept" in told["headline"][0]
    assert "Nothing beat the baseline" in told["headline"][1] and "would seldom have been seen" in told["headline"][1]


def test_the_best_so_far_steps_down_at_each_keep(told: dict) -> None:
    best = [row["best"] for row in told["trials"]]
    assert best[0] > best[1] > best[2] == best[3] == best[5]
    assert [row["generation"] for row in told["trials"]] == [0, 1, 2, 3, 3, 3]
    assert [row["outcome"] for row in told["trials"]] == ["baseline", "keep", "keep", "discard", "failed", "blocked"]
    assert told["trials"][-1]["kwh"] == pytest.approx(sum(r["energy_joules"] or 0 for r in told["trials"]) / 3.6e6)


def test_each_knob_has_its_tried_values_or_is_named_as_untouched(told: dict) -> None:
    rows = told["coverage"]
    tried = {(row["knob"], row["value"]): row for row in rows if row["value"] is not None}
    assert tried.keys() == {("lr", "0.002"), ("lr", "0.004"), ("d_ff", "1024"), ("beta1", "0.55")}
    assert sum(row["value"] is None for row in rows) == 10
    kept, failed = tried["lr", "0.004"], tried["beta1", "0.55"]
    assert kept["kept"] == 1 and kept["low"] < kept["effect"] < kept["high"]
    assert failed["trained"] == 0 and failed["effect"] is None


def test_a_proposers_gain_is_how_far_its_keeps_lowered_the_best_mean(told: dict, theirs: dict) -> None:
    (row,) = told["proposers"]
    assert (row["proposals"], row["blocked"], row["failed"], row["kept"]) == (5, 1, 1, 2)
    assert row["gain"] == pytest.approx(told["trials"][0]["best"] - told["trials"][-1]["best"])
    assert row["gain_half_interval"] == pytest.approx(told["meters"]["gain_half_interval"])
    (row,) = theirs["proposers"]
    assert row["kept"] == 8 and row["gain"] == pytest.approx(theirs["meters"]["gain"]), "a repeated keep gains nothing"


def test_failures_are_told_by_class_with_the_trials_they_hit(told: dict) -> None:
    (row,) = told["failures"]
    assert (row["kind"], row["count"], row["trials"]) == ("diverged", 1, [4])
    assert row["lines"][0] == "loss is NaN"


def test_an_imported_nights_intervals_rest_on_its_own_repeats_alone(theirs: dict) -> None:
    assert theirs["noise"] == {"deviation": pytest.approx(0.0198, abs=5e-5), "dof": 37, "source": "measured"}
    assert theirs["baseline"]["n_runs"] == 2, "trial 48 measured the baseline again"
    assert theirs["incumbent"]["n_runs"] == 7
    assert theirs["study"]["imported"] == {"format": "jsonl", "file": "trajectory.jsonl"}
    spoken = " ".join(theirs["warnings"])
    assert (
        "flailing" in spoken and "luckiest of 7 runs" in spoken and "3 recipes were both kept and discarded" in spoken
    )


def test_the_details_of_a_trial_hold_diff_verdicts_answer_and_curves(ran: StudyFolder) -> None:
    all_of_them = details(ran)
    assert all_of_them[2] == detail(ran, 2), "one trial alone is read as all of them are"
    kept, blocked = all_of_them[2], all_of_them[5]
    assert "-lr = 0.002\n+lr = 0.004\n" in kept["diff"]
    assert [verdict["passed"] for verdict in kept["verdicts"]] == [True] * 7
    assert [(v["rail"], v["passed"]) for v in blocked["verdicts"]] == [
        ("schema", True), ("menu", True), ("range", False),
    ]  # fmt: skip
    assert HOSTILE[4:10] in blocked["answer"], "what was answered is kept word for word"
    assert kept["runs"][0]["curve"] == [[1, 7.6], [25, 5.0]]


def test_the_facts_are_plain_json_and_the_same_each_time(ran: StudyFolder, told: dict) -> None:
    text = json.dumps(told, allow_nan=False)
    assert json.dumps(facts(ran), allow_nan=False) == text


def test_a_long_curve_keeps_its_end() -> None:
    curve = [[float(step), 9.0 / step] for step in range(1, 1001)]
    short = thin(curve)
    assert (
        len(short) <= 100 and short[-1][0] == 1000.0 and thin(curve[:40]) == [[s, round(x, 4)] for s, x in curve[:40]]
    )


def test_a_lineage_table_that_tells_no_recipes_is_read_trial_by_trial(tmp_path: Path) -> None:
    columns = list(tsv17.COLUMNS)
    rows = [("000", "baseline", "1.20"), ("001", "keep", "1.15"), ("002", "crash", ""), ("003", "keep", "1.10")]
    lines = ["\t".join(columns)]
    for name, status, val_bpb in rows:
        cells = {"exp_id": name, "specialist": "arch", "baseline_exp": "000", "status": status, "val_bpb": val_bpb}
        cells |= {"parent_exp": "" if name == "000" else "000", "hypothesis": f"idea {name}", "train_s": "600.0"}
        lines.append("\t".join(cells.get(column, "") for column in columns))
    (tmp_path / "results.tsv").write_text("\n".join(lines) + "\n")
    told = facts(import_study(tmp_path / "home", "table", tmp_path / "results.tsv"))
    assert [row["best"] for row in told["trials"]] == [1.20, 1.15, 1.15, 1.10]
    assert told["incumbent"]["trial"] == 3 and "2 were kept (trial 1; trial 3)" in told["headline"][0]
    assert told["study"]["as_of"] is None, "the table tells no times"
    assert told["study"]["budget"] is None and "tokens" not in told["not_this"] and "steps" not in told["not_this"]
    assert "No recipe was run twice" in " ".join(told["warnings"])
