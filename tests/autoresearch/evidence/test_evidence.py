"""Sums over runs: each is made in one place, and follows from the rows that any SQLite client sees."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import published
import pytest
from studies import GOOD, change, make_study, query, run_study

from autoresearch.evidence import Evidence
from autoresearch.evidence.evidence import combined
from autoresearch.evidence.sentences import MOSTLY_KEPT, headline, improved, noise, not_this, warnings
from autoresearch.evidence.status import status
from autoresearch.exchange import import_study
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import Trial


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = make_study(tmp_path_factory.mktemp("ran"), energy__price_per_kwh=0.5, decision__confirmation_runs=3)
    run_study(folder, [change("lr", GOOD), change("beta1", 0.55), change("d_ff", 1024)], workers=1)
    return folder


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    place = tmp_path_factory.mktemp("imported")
    return import_study(place, "theirs", published.write(place / "trajectory.jsonl"))


def test_energy_is_the_sum_over_all_runs_also_those_that_failed(ran: StudyFolder) -> None:
    ((joules,),) = query(ran, "SELECT SUM(energy_joules) FROM runs")
    evidence = Evidence(ran)
    assert evidence.joules == pytest.approx(joules) and evidence.energy_sources == ["estimate"]
    assert evidence.cost.total == pytest.approx(joules / 3.6e6 * 0.5)
    assert status(ran).energy_joules == evidence.joules and status(ran).cost == evidence.cost.total


def test_without_any_energy_written_down_nothing_is_made_up(imported: StudyFolder, tmp_path: Path) -> None:
    assert (Evidence(imported).joules, Evidence(imported).cost.total) == (None, None)
    assert "was not recorded" in improved(Evidence(imported))


def test_the_best_single_run_is_the_lowest_number(ran: StudyFolder) -> None:
    evidence = Evidence(ran)
    ((lowest, number),) = query(ran, "SELECT MIN(val_bpb), trial FROM runs")
    best = evidence.best_run()
    assert best and (best.val_bpb, best.trial.number) == (lowest, number)
    others = evidence.best_run(without=best.trial.recipe_key)
    assert others and others.val_bpb > best.val_bpb and others.trial.recipe_key != best.trial.recipe_key


def test_the_gain_is_between_the_means_of_the_runs_that_confirm_it(ran: StudyFolder) -> None:
    evidence = Evidence(ran)
    gain, test = evidence.gain(), evidence.test_gain()
    for told, score in ((gain, "val_bpb"), (test, "test_bpb")):
        sql = f"SELECT trial, AVG({score}) FROM runs WHERE purpose = 'confirmation' GROUP BY trial"
        means = dict(query(ran, sql))
        assert told and told.value == pytest.approx(means[0] - means[1]) and told.is_sure
    assert test and test.value < 0, "the stub's test text says the opposite"


def test_a_gain_that_is_not_confirmed_is_between_the_means_and_its_interval_combines_theirs(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("lr", GOOD)], workers=1)
    evidence = Evidence(folder)
    gain = evidence.gain()
    means = dict(query(folder, "SELECT trial, AVG(val_bpb) FROM runs GROUP BY trial"))
    assert gain and gain.value == pytest.approx(means[0] - means[1]) and not evidence.is_confirmed
    baseline, incumbent = evidence.standing(evidence.baseline), evidence.standing(evidence.incumbent)
    halves = (baseline.val_bpb_half_interval, incumbent.val_bpb_half_interval)
    assert gain.half_interval == pytest.approx(combined(halves)) and combined([3.0, 4.0]) == 5.0


def test_a_study_whose_baseline_stands_has_no_gain(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    assert Evidence(folder).gain() is None and "not measured yet" in improved(Evidence(folder))
    run_study(folder, [change("lr", 0.0005)], workers=1)
    assert Evidence(folder).gain() is None and improved(Evidence(folder)).startswith("Nothing beat the baseline")


def test_a_change_is_told_against_the_recipe_that_it_changed(ran: StudyFolder) -> None:
    evidence = Evidence(ran)
    assert evidence.change(evidence.trials[3]) == "d_ff 512 -> 1024"
    assert evidence.before(evidence.trials[3])["lr"] == GOOD and evidence.before(evidence.baseline) == {}
    assert [trial.outcome for trial in evidence.trials] == ["baseline", "keep", "failed", "discard"]


def test_a_trial_in_flight_is_told_by_its_state(ran: StudyFolder) -> None:
    open_trial: Trial = Evidence(ran).trials[0]
    assert Trial(**{**vars(open_trial), "state": "running"}).outcome == "running"


def test_the_sentences_agree_with_the_sums(ran: StudyFolder, imported: StudyFolder) -> None:
    from autoresearch.evidence.meters import measure

    evidence = Evidence(ran)
    first, second = headline(evidence, measure(evidence))
    assert first == ("3 changes were trained, 1 of them failed, turning 3 of 13 knobs: 1 was kept (lr 0.001 -> 0.004).")
    gain = evidence.gain()
    assert gain and f"{gain.value:.4f} ± {gain.half_interval:.4f}" in second and "(estimate)" in second
    assert "200,000 tokens a run" in not_this(evidence, [])
    assert warnings(evidence, measure(evidence))[-1].startswith("Energy is estimated")
    assert f"{MOSTLY_KEPT * evidence.noise.deviation:.4f} is kept in nine of ten cases" in noise(evidence)
    theirs = Evidence(imported)
    said = warnings(theirs, measure(theirs))
    assert said[0].startswith("The search is flailing") and any("the luckiest of 7 runs" in text for text in said)


def test_a_recipe_measured_by_several_trials_has_all_their_runs(imported: StudyFolder) -> None:
    evidence = Evidence(imported)
    trial = next(trial for trial in evidence.trials if trial.changes == {"d_model": 768})
    scores = [other.val_bpb for other in evidence.trials if other.changes == {"d_model": 768}]
    assert evidence.n_runs(trial) == len(scores) > 1
    assert evidence.mean(trial) == pytest.approx(fmean(score for score in scores if score is not None))
