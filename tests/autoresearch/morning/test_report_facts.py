"""What the report says of a study: every figure can be told from the database by hand."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest
from studies import GOOD, change, make_study, query, run_study

from autoresearch.evidence import Evidence
from autoresearch.evidence.knobs import tried_knobs
from autoresearch.evidence.proposers import proposer_records
from autoresearch.exchange import import_study, tsv17
from autoresearch.facts import to_json
from autoresearch.morning.report.curves import thin
from autoresearch.morning.report.detail import VerdictRow, detail, details
from autoresearch.morning.report.facts import ReportFacts, facts
from autoresearch.study.folder import StudyFolder
from autoresearch.study.lock import RunnerLock

HOSTILE = "\x1b[2J<script>alert(1)</script>\u202e"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Two keeps on one another, a discard, a failure, a blocked proposal."""
    folder = make_study(tmp_path_factory.mktemp("facts") / "home", decision__confirmation_runs=3)
    blocked = json.dumps({"knob": "lr", "new_value": 9.0, "reason": HOSTILE})
    answers = [change("lr", 0.002), change("lr", GOOD), change("d_ff", 1024), change("beta1", 0.55), blocked]
    run_study(folder, answers, workers=1)
    return folder


@pytest.fixture(scope="module")
def told(ran: StudyFolder) -> ReportFacts:
    return facts(ran)


@pytest.fixture(scope="module")
def night(theirs: Path) -> StudyFolder:
    """The published one."""
    return StudyFolder(theirs, "theirs")


def runs_of(folder: StudyFolder, trial: int, column: str = "val_bpb") -> list[float]:
    return [row[0] for row in query(folder, f"SELECT {column} FROM runs WHERE trial = {trial} AND {column} NOT NULL")]


def test_the_headline_says_what_was_tried_and_what_improved_on_both_texts(ran: StudyFolder, told: ReportFacts) -> None:
    tried, improved = told.headline
    assert "4 changes were trained, 1 of them failed, 1 more was blocked" in tried and "3 of 13 knobs" in tried
    assert "2 were kept" in tried
    sql = "SELECT AVG(val_bpb), AVG(test_bpb) FROM runs WHERE purpose = 'confirmation' GROUP BY trial ORDER BY trial"
    (val_before, test_before), (val_after, test_after) = query(ran, sql)
    gain, on_test = val_before - val_after, test_before - test_after
    assert f"better than the baseline by {gain:.4f} ±" in improved and "EUR" in improved
    assert f" and worse by {-on_test:.4f} ±" in improved, "the stub's test text says the opposite"
    assert "not a usable model" in told.not_this


def test_a_study_without_a_keep_says_what_it_would_have_kept(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "home")
    run_study(folder, [change("d_ff", 1024)], workers=1)
    told = facts(folder)
    assert "none was kept" in told.headline[0]
    assert "Nothing beat the baseline" in told.headline[1] and "is kept in nine of ten cases" in told.headline[1]


def test_the_best_so_far_steps_down_at_each_keep(ran: StudyFolder, told: ReportFacts) -> None:
    best = [row.best for row in told.trials]
    assert best[0] > best[1] > best[2] == best[3] == best[5]  # type: ignore[operator]
    assert [row.generation for row in told.trials] == [0, 1, 2, 3, 3, 3]
    assert [row.outcome for row in told.trials] == ["baseline", "keep", "keep", "discard", "failed", "blocked"]
    joules = query(ran, "SELECT SUM(energy_joules) FROM trials")[0][0]
    assert told.trials[-1].spent_joules == pytest.approx(joules) == pytest.approx(Evidence(ran).joules)


def test_each_number_of_a_trial_comes_with_the_text_it_is_printed_as(told: ReportFacts) -> None:
    kept, blocked = told.trials[2], told.trials[5]
    assert kept.value and kept.high and kept.improvement
    assert kept.score == f"{kept.value:.4f} ± {kept.high - kept.value:.4f}"
    assert kept.better.startswith(f"{kept.improvement:+.4f} [") and kept.change == "lr 0.002 -> 0.004"
    assert kept.energy.endswith(" Wh") and kept.time.endswith(" s") and kept.label == "keep"
    assert (blocked.score, blocked.better, blocked.time, blocked.energy) == ("-", "-", "-", "-")
    assert blocked.label == "blocked (range)" and told.counted == "6 trials"


def test_each_knob_has_its_tried_values_or_is_named_as_untouched(told: ReportFacts) -> None:
    tried = {(knob.knob, value.value): value for knob in told.knobs for value in knob.values}
    assert tried.keys() == {("lr", "0.002"), ("lr", "0.004"), ("d_ff", "1024"), ("beta1", "0.55")}
    assert told.untouched.startswith("Never turned: n_layer, ") and told.untouched.count(", ") == 9
    kept, failed = tried["lr", "0.004"], tried["beta1", "0.55"]
    assert kept.kept == 1 and kept.low < kept.effect < kept.high  # type: ignore[operator]
    assert kept.better == f"{kept.effect:+.4f} [{kept.low:+.4f}, {kept.high:+.4f}]" and kept.outcome == "keep"
    assert failed.trained == 0 and failed.effect is None and (failed.better, failed.outcome) == ("-", "blocked")
    axes = {knob.knob: (knob.axis, knob.baseline.number if knob.baseline else None) for knob in told.knobs}
    assert axes == {"lr": ("log", 0.001), "d_ff": ("linear", 512.0), "beta1": ("linear", 0.9)}


def test_the_mean_effect_of_a_value_is_over_all_trials_that_it_was_judged_in(night: StudyFolder) -> None:
    evidence = Evidence(night)
    (knob,) = [knob for knob in tried_knobs(evidence) if knob.knob == "n_head"]
    (value,) = [value for value in knob.values if value.value == 4]
    rows = query(night, "SELECT improvement FROM trials WHERE json_extract(changes, '$.n_head') = 4")
    assert value.proposed == value.trained == len(rows) == 3
    assert value.effect == pytest.approx(fmean(row[0] for row in rows))
    noise = evidence.noise.half_width(1)  # all were compared with the baseline's one run
    assert (value.high - value.low) / 2 == pytest.approx(noise * (1 / 3 + 1) ** 0.5)  # type: ignore[operator]


def test_a_proposers_gain_is_how_far_its_keeps_lowered_the_best_mean(
    ran: StudyFolder, told: ReportFacts, night: StudyFolder
) -> None:
    evidence = Evidence(ran)
    (row,) = proposer_records(evidence)
    assert (row.proposals, row.blocked, row.failed, row.kept, row.keep_rate) == (5, 1, 1, 2, 0.5)
    assert row.gain == pytest.approx(told.trials[0].best - told.trials[-1].best)  # type: ignore[operator]
    ((name, proposals, blocked, failed, kept, printed, *_),) = told.proposers.rows
    assert (name, proposals, blocked, failed, kept) == ("scripted", "5", "1", "1", "2 (50 %)")
    assert printed == f"{row.gain:.4f} ± {row.gain_half_interval:.4f}"
    (row,) = proposer_records(theirs := Evidence(night))
    gain = theirs.gain()
    assert gain and row.kept == 8 and row.gain == pytest.approx(gain.value), "a repeated keep gains nothing"


def test_failures_are_told_by_class_with_the_trials_they_hit(told: ReportFacts) -> None:
    (group,) = told.failures
    assert (group.title, group.trials, group.more) == ("diverged: 1 run", [4], "")
    assert group.lines[0] == "loss is NaN"


def test_an_imported_nights_intervals_rest_on_its_own_repeats_alone(night: StudyFolder) -> None:
    evidence, told = Evidence(night), facts(night)
    assert evidence.noise.deviation == pytest.approx(0.0198, abs=5e-5) and evidence.noise.dof == 37
    assert "0.0198 (measured)" in told.noise
    baseline, best = told.standings.rows
    assert baseline[3] == "2", "trial 48 measured the baseline again"
    assert best[3] == "7"
    assert told.study.origin == "imported from trajectory.jsonl (jsonl)" and told.study.imported
    spoken = " ".join(told.warnings)
    assert (
        "flailing" in spoken and "luckiest of 7 runs" in spoken and "3 recipes were both kept and discarded" in spoken
    )


def test_the_status_says_what_the_study_is_at(ran: StudyFolder) -> None:
    at = query(ran, "SELECT at FROM events ORDER BY id DESC LIMIT 1")[0][0]
    as_of = f"as of {at[:10]} {at[11:16]} UTC"
    start = "5 trials, 200,000 tokens a run, on stub"
    ended = "the last night ended: the script has no more answers"
    assert facts(ran).study.status == f"{start}, not running, {ended}, {as_of}"
    with RunnerLock(ran.path):
        assert facts(ran).study.status == f"{start}, running, {as_of}"


def test_the_details_of_a_trial_hold_diff_verdicts_answer_and_curves(ran: StudyFolder) -> None:
    all_of_them = details(ran)
    assert all_of_them[2] == detail(ran, 2), "one trial alone is read as all of them are"
    kept, blocked = all_of_them[2], all_of_them[5]
    assert "-lr = 0.002\n+lr = 0.004\n" in kept.diff
    assert [verdict.passed for verdict in kept.verdicts] == [True] * 7
    assert blocked.verdicts[:2] == [VerdictRow(True, "schema"), VerdictRow(True, "menu")]
    assert not blocked.verdicts[2].passed and blocked.verdicts[2].text.startswith("blocked by range: lr must be")
    assert blocked.answer and HOSTILE[4:10] in blocked.answer, "what was answered is kept word for word"
    assert kept.curves[0].points == [[1, 7.6], [25, 5.0]]
    assert [row[:2] for row in kept.runs.rows[:2]] == [["1", "candidate"], ["2", "candidate"]]
    runs, score = len(runs_of(ran, 2)), facts(ran).trials[2].score
    assert len(kept.runs.rows) == runs
    assert kept.summary.startswith(f"on the recipe of trial 1; {score} bits per byte over 2 runs; better by +")
    assert "lr = 0.004\n" in kept.recipe


def test_the_facts_are_strict_json_and_the_same_each_time(ran: StudyFolder, told: ReportFacts) -> None:
    text = to_json(told)
    assert to_json(facts(ran)) == text
    assert json.loads(text)["trials"][2]["score"] == told.trials[2].score


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
    assert [row.best for row in told.trials] == [1.20, 1.15, 1.15, 1.10]
    assert told.incumbent == 3 and "2 were kept (trial 1; trial 3)" in told.headline[0]
    assert "as of" not in told.study.status, "the table tells no times"
    assert "a run" not in told.study.status and "tokens" not in told.not_this and "steps" not in told.not_this
    assert "No recipe was run twice" in " ".join(told.warnings)
