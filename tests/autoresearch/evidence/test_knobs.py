"""What came of each value: trials weigh by the runs behind them, and the interval says how sure their mean is."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from studies import GOOD, change, make_study, query, run_study

from autoresearch.config import DecisionRule
from autoresearch.decide import Noise, decide
from autoresearch.evidence import Evidence
from autoresearch.evidence.knobs import Effect, TriedValue, mean_effect, tried_knobs
from autoresearch.study.folder import StudyFolder

NOISE = Noise(1.0, 0.0, 1e6)


def tried(folder: StudyFolder, knob: str) -> TriedValue:
    (value,) = next(each.values for each in tried_knobs(Evidence(folder)) if each.knob == knob)
    return value


def test_a_trial_of_eight_runs_weighs_more_than_one_of_a_single_run(tmp_path: Path) -> None:
    folder = make_study(tmp_path, decision__max_runs=2)
    run_study(folder, [change("d_ff", 1024), change("lr", GOOD), change("d_ff", 1024)], workers=1)
    first, again = 1, 3
    columns = ", ".join(row[1] for row in query(folder, "PRAGMA table_info(runs)") if row[1] not in ("id", "seed"))
    with folder.store.db.atomic():
        folder.store.db.execute(
            "DELETE FROM runs WHERE trial IN (?, ?) "
            "AND seed <> (SELECT MIN(seed) FROM runs r WHERE r.trial = runs.trial)",
            [first, again],
        )
        folder.store.db.execute("UPDATE runs SET seed = 0 WHERE trial IN (?, ?)", [first, again])
        for seed in range(1, 8):
            folder.store.db.execute(
                f"INSERT INTO runs (seed, {columns}) SELECT {seed}, {columns} FROM runs WHERE trial = ? AND seed = 0",
                [again],
            )
        folder.store.db.execute("UPDATE trials SET improvement = -0.06 WHERE number = ?", [first])
        folder.store.db.execute("UPDATE trials SET improvement = 0.02 WHERE number = ?", [again])
    evidence, value = Evidence(folder), tried(folder, "d_ff")
    assert [trial.reference for trial in evidence.trials[1:]] == [0, 0, 2]
    (one, m_one), (eight, m_eight) = (evidence.runs_behind(evidence.trials[number]) for number in (first, again))
    assert (one, eight) == (1, 8) and m_one >= 2 and m_eight >= 2
    variances = 1 + 1 / m_one, 1 / 8 + 1 / m_eight
    expected = (-0.06 / variances[0] + 0.02 / variances[1]) / (1 / variances[0] + 1 / variances[1])
    assert value.effect is not None and value.high is not None and value.low is not None
    assert value.proposed == 2 and value.effect == pytest.approx(expected) and value.effect > -0.01
    half = evidence.noise.half_width(1) * (1 / (1 / variances[0] + 1 / variances[1])) ** 0.5
    assert (value.high - value.low) / 2 == pytest.approx(half)


def test_the_runs_that_confirm_a_keep_have_no_part_in_what_it_was_kept_for(tmp_path: Path) -> None:
    folder = make_study(tmp_path, decision__confirmation_runs=2)
    run_study(folder, [change("lr", GOOD)], workers=1)
    evidence = Evidence(folder)
    own, reference = evidence.runs_behind(evidence.trials[1])
    ((judged,),) = query(folder, "SELECT COUNT(*) FROM runs WHERE trial = 1 AND purpose = 'candidate'")
    assert own == judged < len(evidence.runs[1]) and reference == evidence.n_runs(evidence.baseline)


def test_what_trials_share_is_not_averaged_out() -> None:
    alone = [Effect(0.1, reference, 4, 4) for reference in range(100)]
    together = [Effect(0.1, 0, 4, 4)] * 100
    assert mean_effect(alone, NOISE) == pytest.approx((0.1, 1.96 * (0.5 / 100) ** 0.5), rel=1e-3)
    assert mean_effect(together, NOISE) == pytest.approx((0.1, 1.96 * (0.25 / 100 + 0.25) ** 0.5), rel=1e-3)


@pytest.mark.parametrize("gain", [-2.0, 0.0, 1.0, 2.0])
def test_the_interval_of_a_mean_effect_holds_the_truth(gain: float) -> None:
    rng, rule, held = np.random.Generator(np.random.PCG64(0)), DecisionRule(), []

    def trial(reference: int) -> Effect:
        """One that the shipped rule chose the runs of; in deviations."""
        known = dict(enumerate(rng.normal(size=rng.integers(3, 14))))
        runs = {100: rng.normal() - gain}
        while (decision := decide(runs, known, NOISE, rule)).action == "replicate":
            runs |= {100 + len(runs) + i: rng.normal() - gain for i in range(decision.candidate_runs)}
            known |= {len(known) + i: rng.normal() for i in range(decision.reference_runs)}
        return Effect(decision.comparison.improvement, reference, len(runs), len(known))

    for _ in range(200):
        mean, half = mean_effect([trial(number) for number in range(3)], NOISE)
        held.append(abs(mean - gain) <= half)
    assert fmean(held) >= 0.93 - 0.035, "two standard errors of 200"
