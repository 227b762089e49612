"""Sentences say no more than the runs carry: on studies as they are on disk, and over nights whose truth is known."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from promises import DEVIATION, LEVEL, Recipe, World, _Evidence, night
from studies import GOOD, change, make_study, query, run_study

from autoresearch.config import DecisionRule
from autoresearch.evidence import Evidence
from autoresearch.evidence.meters import meters_of
from autoresearch.evidence.sentences import HALF_KEPT, MOSTLY_KEPT, improved, noise, warnings
from autoresearch.study.folder import StudyFolder
from autoresearch.terminal.meters import meter_lines


@pytest.fixture
def ran(tmp_path: Path) -> StudyFolder:
    """One keep."""
    folder = make_study(tmp_path / "home", decision__confirmation_runs=3)
    run_study(folder, [change("lr", GOOD)], workers=1)
    return folder


def edit(folder: StudyFolder, sql: str) -> Evidence:
    with folder.store.db.atomic():
        folder.store.db.execute(sql)
    return Evidence(folder)


# --- which gains are kept ---


@pytest.mark.parametrize("trials", [1, 28])
def test_a_gain_is_kept_as_often_as_is_said(trials: int) -> None:
    def kept(gain: float) -> float:
        nights = (night(World("", gain=gain), trials, seed) for seed in range(280 // trials))
        return fmean(trial.kept for told in nights for trial in told.trials)

    assert kept(MOSTLY_KEPT) >= 0.9 - 0.03, "1.6 standard errors of 280 trials"
    assert kept(HALF_KEPT) == pytest.approx(0.5, abs=0.15)


def test_a_night_without_a_keep_says_which_gains_it_would_have_kept_and_how_often(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("lr", 0.0005)], workers=1)
    deviation = Evidence(folder).noise.deviation
    mostly, half = MOSTLY_KEPT * deviation, HALF_KEPT * deviation
    said = f"a gain of {mostly:.4f} is kept in nine of ten cases, one of {half:.4f} in about half"
    assert said in improved(Evidence(folder)) and said in noise(Evidence(folder))
    assert "seldom" not in improved(Evidence(folder)) + noise(Evidence(folder))


def test_the_least_improvement_is_above_what_the_noise_asks(tmp_path: Path) -> None:
    folder = make_study(tmp_path, decision__min_improvement=0.125)
    deviation = Evidence(folder).noise.deviation
    assert f"a gain of {0.125 + MOSTLY_KEPT * deviation:.4f} is kept in nine of ten" in noise(Evidence(folder))


def test_of_a_rule_that_nobody_simulated_nothing_is_said(tmp_path: Path) -> None:
    folder = make_study(tmp_path, decision__max_runs=3)
    assert "this study's rule of decision would have kept was not measured" in noise(Evidence(folder))


# --- better and worse ---


def test_a_loss_is_called_a_loss(ran: StudyFolder) -> None:
    evidence = edit(ran, "UPDATE runs SET val_bpb = val_bpb + 0.5 WHERE trial = 1")
    gain, test = evidence.gain(), evidence.test_gain()
    assert gain and test and gain.is_sure and gain.value < 0 and test.value < 0
    said = improved(evidence)
    size, on_test = f"{-gain.value:.4f} ± {gain.half_interval:.4f}", f"{-test.value:.4f} ± {test.half_interval:.4f}"
    assert f"is worse than the baseline by {size} bits per byte (" in said and f" and by {on_test} on the test" in said
    assert "better" not in said and "-0." not in said and "(-" not in said


def test_a_gain_that_the_test_text_does_not_have_is_called_a_loss_there(ran: StudyFolder) -> None:
    said = improved(Evidence(ran))  # the stub's test text says the opposite
    assert re.search(r"better than the baseline by 0\.1\d+ .* and worse by 0\.1\d+ ± 0\.\d+ on the test text", said)


def test_a_gain_within_the_noise_is_no_sure_one(ran: StudyFolder) -> None:
    evidence = edit(ran, "UPDATE runs SET val_bpb = 2.8 + 0.01 * (seed * 7 % 5 - 2) * (1 + trial), test_bpb = NULL")
    gain = evidence.gain()
    assert gain and not gain.is_sure
    assert f"is not surely better than the baseline: {gain.value:.4f} ± " in improved(evidence)


def test_of_nights_in_which_nothing_helps_few_say_so_of_the_test_text() -> None:
    told = [night(World(""), 28, seed).test_holds for seed in range(60)]
    assert told.count(False) <= 0.05 * len(told), "of 500 such nights 2 %"


def test_a_gain_that_no_fresh_runs_confirm_is_said_to_be_so(ran: StudyFolder, tmp_path: Path) -> None:
    said = "no fresh runs confirm it yet"
    assert not any(said in text for text in warnings(Evidence(ran), meters_of(ran)))
    unconfirmed = make_study(tmp_path / "other")
    run_study(unconfirmed, [change("lr", GOOD)], workers=1)
    assert any(said in text for text in warnings(Evidence(unconfirmed), meters_of(unconfirmed)))


# --- luck ---


def test_luck_is_measured_by_the_other_runs_of_the_recipe(ran: StudyFolder) -> None:
    runs = sorted(
        row[0] for row in query(ran, "SELECT val_bpb FROM runs WHERE trial = 1 AND purpose <> 'confirmation'")
    )
    meters, evidence = meters_of(ran), Evidence(ran)
    assert meters.best_observed == runs[0] and meters.best_recipe_mean == pytest.approx(fmean(runs))
    assert meters.luck == pytest.approx(fmean(runs[1:]) - runs[0])
    assert meters.luck_half_interval == evidence.noise.half_width(len(runs) - 1)
    line = next(line for line in meter_lines(meters) if line.name == "luck in the lowest number")
    assert line.value == f"{meters.luck:.4f} ± {meters.luck_half_interval:.4f}"
    assert line.note.endswith(f"against {fmean(runs[1:]):.4f}, the mean of its recipe's 1 other run")


def test_the_warning_of_luck_names_the_others_mean(ran: StudyFolder) -> None:
    run_study(ran, [change("lr", GOOD), change("d_ff", 1024)], workers=1)
    same = "(SELECT recipe_key FROM trials WHERE number = 1)"
    evidence = edit(ran, f"UPDATE trials SET recipe_key = {same} WHERE number = 2")
    edit(ran, "UPDATE runs SET val_bpb = 2.7 WHERE trial = 1 AND seed = 0")
    evidence, meters = Evidence(ran), meters_of(ran)
    said = next(text for text in warnings(evidence, meters) if text.startswith("The lowest number"))
    assert f"the others' mean is {meters.other_runs_mean:.4f}: the difference, {meters.luck:.4f} ± " in said


@pytest.mark.parametrize(("recipes", "runs"), [(1, 8), (6, 3), (20, 2), (20, 4)])
def test_the_interval_of_luck_holds_the_truth(recipes: int, runs: int) -> None:
    rng, held, told, true = np.random.Generator(np.random.PCG64(0)), [], [], []
    for _ in range(150):
        scores = LEVEL + DEVIATION * rng.normal(size=(recipes, runs))
        drawn = [Recipe(LEVEL, DEVIATION, dict(enumerate(map(float, row)))) for row in scores]
        evidence = _Evidence(drawn, 0, DecisionRule())
        best = evidence.best_run()
        assert best
        luck, truth = evidence.luck(best), LEVEL - best.val_bpb
        assert luck
        held.append(abs(luck.value - truth) <= luck.half_interval)
        told.append(luck.value)
        true.append(truth)
    assert fmean(held) >= 0.93 - 0.04, "two standard errors of 150"
    assert -0.05 <= fmean(told) / fmean(true) - 1 <= 1 / (runs - 1) + 0.05
