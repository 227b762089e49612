"""The exploration meters: figures that an independent count gives too."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import published
import pytest
from studies import GOOD, change, make_study, query, run_study

from autoresearch.evidence.meters import Meters, meters_of
from autoresearch.exchange import import_study
from autoresearch.study.folder import StudyFolder
from autoresearch.terminal.meters import meter_lines


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """The published night of 50 trials."""
    place = tmp_path_factory.mktemp("meters")
    return import_study(place / "home", "published", published.write(place / "trajectory.jsonl"), "jsonl")


@pytest.fixture(scope="module")
def meters(imported: StudyFolder) -> Meters:
    return meters_of(imported)


def test_the_published_night_touched_six_of_thirteen_knobs(meters: Meters) -> None:
    touched = {knob for knob, *_ in published.ITERATIONS}
    assert set(meters.touched) == touched and meters.knobs_touched == 6
    assert set(meters.untouched) == published.KNOBS.keys() - touched and meters.knobs_on_menu == 13


def test_the_published_night_repeated_itself_in_72_of_100_proposals(meters: Meters) -> None:
    pairs = [(knob, value) for knob, value, *_ in published.ITERATIONS]
    again = [pair in pairs[:i] for i, pair in enumerate(pairs)]
    assert meters.repeat_rate == sum(again) / 50 == 0.72
    assert meters.unique_pairs == len(set(pairs)) == 14
    assert [(window.first, window.last) for window in meters.windows] == [
        (1, 10),
        (11, 20),
        (21, 30),
        (31, 40),
        (41, 50),
    ]
    assert [window.repeat_rate for window in meters.windows] == [sum(again[i : i + 10]) / 10 for i in range(0, 50, 10)]
    assert meters.most_proposed and (meters.most_proposed.knob, meters.most_proposed.value) == ("d_model", "1536")
    assert meters.most_proposed.count == 10 and meters.most_proposed.share == 0.2


def test_the_published_nights_keeps(meters: Meters) -> None:
    kept = [line["iter"] for line in published.records()[1:-1] if line["decision"] == "keep"]
    assert meters.kept == len(kept) == 8 and meters.keep_rate == 8 / 50
    assert (meters.first_keep, meters.best_keep) == (4, 45)
    assert meters.plateau == 5
    assert meters.most_kept and (meters.most_kept.knob, meters.most_kept.value, meters.most_kept.count) == (
        "d_model", "768", 6,
    )  # fmt: skip


def test_the_noise_in_the_published_night_is_named(meters: Meters) -> None:
    by_recipe: dict[str, list[float]] = {json.dumps(published.BASELINE): [published.BASELINE_BPB]}
    for knob, value, val_bpb, *_ in published.ITERATIONS:
        by_recipe.setdefault(json.dumps({**published.BASELINE, knob: value}), []).append(val_bpb)
    squares = sum(sum((score - fmean(scores)) ** 2 for score in scores) for scores in by_recipe.values())
    dof = sum(len(scores) - 1 for scores in by_recipe.values())
    assert meters.run_deviation == pytest.approx((squares / dof) ** 0.5) == pytest.approx(0.0198, abs=5e-5)
    assert meters.run_deviation_dof == dof == 37
    assert [recipe.change for recipe in meters.judged_both_ways] == [
        "d_model 1024 -> 768", "d_ff 4096 -> 6144", "d_ff 4096 -> 8192",
    ]  # fmt: skip


def test_the_published_nights_best_number_is_the_luckiest_of_seven(meters: Meters) -> None:
    scores = [val_bpb for knob, value, val_bpb, *_ in published.ITERATIONS if (knob, value) == ("d_model", 768)]
    assert len(scores) == meters.best_recipe_runs == 7
    assert (meters.best_observed, meters.best_observed_trial) == (min(scores), 45)
    others = fmean(sorted(scores)[1:])
    assert meters.luck == pytest.approx(others - min(scores)) == pytest.approx(0.0291, abs=5e-5)
    baseline = fmean([published.BASELINE_BPB, 10.9337])  # trial 48 proposed the baseline's own value
    assert meters.gain == pytest.approx(baseline - fmean(scores))


def test_the_published_night_was_flailing(meters: Meters) -> None:
    assert meters.verdict == "flailing" and "18 repeated an earlier one" in meters.why


def test_a_study_of_our_own_repeats_nothing_that_the_rails_let_through(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "home")
    same = '{"knob": "lr", "new_value": 4e-3, "reason": "written another way"}'
    run_study(folder, [change("lr", GOOD), change("d_ff", 1024), same, "no JSON", "no JSON"], workers=1)
    meters = meters_of(folder)
    assert (meters.proposals, meters.trained, meters.blocked) == (5, 2, 3)
    assert meters.unique_pairs == 2 and meters.most_proposed and meters.most_proposed.knob == "lr"
    assert meters.repeats == 2, "one value is one value however it is written; an unreadable answer repeats itself too"
    assert meters.blocked_by_rail["schema"] == 2
    assert meters.touched == ["d_ff", "lr"] and "n_layer" in meters.untouched
    assert meters.verdict == "researching" and "too few to tell" in meters.why


def test_luck_is_what_the_best_run_exceeds_its_recipes_other_runs_by(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "home")
    run_study(folder, [change("lr", GOOD)], workers=1)
    runs = [row[0] for row in query(folder, "SELECT val_bpb FROM runs WHERE trial = 1")]
    meters = meters_of(folder)
    assert meters.best_observed == min(runs) and meters.best_recipe_runs == len(runs) > 1
    assert meters.luck == pytest.approx(fmean(sorted(runs)[1:]) - min(runs))
    assert meters.gain_per_kwh and meters.energy_joules


def test_a_fresh_study_has_meters_too(tmp_path: Path) -> None:
    meters = meters_of(make_study(tmp_path / "home"))
    assert (meters.proposals, meters.repeat_rate, meters.best_observed, meters.luck) == (0, None, None, None)
    assert meters.verdict == "researching"


def test_forecasts_are_held_against_what_was_measured(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "home", decision__max_runs=2)
    wanted = {GOOD: -0.2, 0.02: 0.1, 0.0005: -0.3, 0.01: 0.05, 0.0001: 0.5, 0.00015: 1e300}
    answers = [json.dumps({**json.loads(change("lr", lr)), "expected_delta": delta}) for lr, delta in wanted.items()]
    run_study(folder, [*answers, change("d_ff", 256)], workers=1)
    meters = meters_of(folder)
    rows = query(folder, "SELECT expected_delta, -improvement FROM trials WHERE expected_delta < 100 ORDER BY number")
    assert meters.forecasts == len(rows) == 5, "a forecast of 1e300 is none"
    assert meters.forecasts_right == sum((expected < 0) == (measured < 0) for expected, measured in rows) == 4
    assert meters.forecast_error == pytest.approx(fmean(abs(expected - measured) for expected, measured in rows))
    ranks = [[sorted(column).index(value) for value in column] for column in zip(*rows, strict=True)]
    squares = sum((one - other) ** 2 for one, other in zip(*ranks, strict=True))
    assert meters.forecast_rank_correlation == pytest.approx(1 - 6 * squares / (5 * (5**2 - 1)))
    said = next(line.text for line in meter_lines(meters) if line.name == "forecasts")
    assert said.startswith("4 of 5, went the way that was expected, 0.") and said.endswith("rank correlation +0.40")


def test_without_forecasts_there_is_nothing_to_say_of_them(meters: Meters) -> None:
    assert (meters.forecasts, meters.forecasts_right) == (0, 0)
    assert meters.forecast_error is None and meters.forecast_rank_correlation is None
    assert "forecasts" not in {line.name for line in meter_lines(meters)}


def test_turning_one_knob_all_night_is_narrowing(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "home", decision__max_runs=2)
    run_study(folder, [change("lr", 0.0005 + 0.00001 * i) for i in range(12)])
    meters = meters_of(folder)
    assert meters.verdict == "narrowing" and "turned 1 of 13 knobs" in meters.why
