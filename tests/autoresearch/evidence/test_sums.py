"""Sums over runs are made once, and agree with what the database says by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from studies import GOOD, change, make_study, query, run_study

from autoresearch.evidence import Evidence, sentences
from autoresearch.evidence.proposers import proposer_records
from autoresearch.evidence.work import work
from autoresearch.study.folder import StudyFolder


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A keep, a failure, a blocked proposal."""
    folder = make_study(tmp_path_factory.mktemp("sums"))
    run_study(folder, [change("lr", GOOD), change("beta1", 0.55), change("lr", 9.0)], workers=1)
    return folder


def test_the_parts_of_the_work_add_up_to_all_seconds_of_runs_and_proposer(ran: StudyFolder) -> None:
    parts = work(Evidence(ran))
    seconds = query(ran, "SELECT SUM(total_seconds) FROM runs")[0][0]
    seconds += query(ran, "SELECT SUM(latency_seconds) FROM proposals")[0][0]
    assert sum(part.seconds for part in parts) == pytest.approx(seconds, abs=0.01)
    assert sum(part.share for part in parts) == pytest.approx(1.0, abs=0.001)
    assert [part.seconds for part in parts] == sorted((part.seconds for part in parts), reverse=True)
    named = {part.part: part.seconds for part in parts}
    assert named["failed runs"] == pytest.approx(1.1) and named["training"] > named["scoring"]


def test_the_energy_of_a_study_is_that_of_all_its_runs_trial_by_trial(ran: StudyFolder) -> None:
    evidence = Evidence(ran)
    each = [row[0] or 0.0 for row in query(ran, "SELECT SUM(energy_joules) FROM runs GROUP BY trial ORDER BY trial")]
    assert evidence.spent == pytest.approx([each[0], sum(each[:2]), sum(each), sum(each)])
    assert evidence.spent[-1] == pytest.approx(evidence.joules)
    mean, trials = evidence.joules_a_trial or (0.0, 0)
    assert mean == pytest.approx(sum(each) / 3) and trials == 3, "what was blocked has cost nothing"
    said = sentences.energy(evidence)
    assert said.startswith(f"{sum(each) / 3600:.3g} Wh (estimate) in all, under 0.01 EUR at 0.3 a kWh; ")
    assert said.endswith(f"{sum(each) / 3 / 3600:.3g} Wh a trial, over 3 trials")


def test_a_trial_without_a_score_has_no_interval_and_one_without_a_run_no_time(ran: StudyFolder) -> None:
    evidence = Evidence(ran)
    baseline, kept, failed, blocked = evidence.trials
    assert evidence.half_interval(kept) == evidence.noise.half_width(kept.n_runs)
    assert evidence.half_interval(failed) is None and evidence.half_interval(blocked) is None
    assert evidence.seconds(failed) == pytest.approx(1.1) and evidence.seconds(blocked) is None
    assert evidence.tokens_per_second(baseline) == 200_000 and evidence.tokens_per_second(blocked) is None


def test_a_proposer_without_a_keep_has_gained_nothing(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("lr", 9.0)], workers=1)
    (record,) = proposer_records(Evidence(folder))
    assert (record.gain, record.gain_half_interval) == (0.0, None), "nothing was lowered, so nothing is uncertain"
    assert record.gain_per_trial is record.gain_per_kwh is record.keep_rate is None
