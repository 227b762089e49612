"""Decisions: arithmetic that anybody can repeat, that luck seldom fools, and that finds what is really better."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from promises import World, night

from autoresearch.config import DecisionRule
from autoresearch.decide import Noise, Runs, compare, decide, own_noise, pool_noise

RULE = DecisionRule()
LEVEL = 2.8
DEVIATION = 0.007 * LEVEL
NOISE = Noise(DEVIATION, 0.0, 30.0)


def runs(*values: float) -> dict[int, float]:
    """Seeds 0, 1, 2, ... with these values, in deviations above the level."""
    return {seed: LEVEL + DEVIATION * value for seed, value in enumerate(values)}


REFERENCE = runs(0.3, -0.8, 1.1, -0.2, 0.6, -1.3, 0.1, 0.9, -0.5, -0.2)


def drawn(rng: random.Random, n: int, shift: float = 0.0, first: int = 0) -> dict[int, float]:
    return {seed: LEVEL + DEVIATION * (rng.gauss(0, 1) - shift) for seed in range(first, first + n)}


def situations(count: int = 60) -> list[tuple[Runs, Runs, Noise]]:
    rng = random.Random(1)
    return [
        (
            drawn(rng, rng.randint(1, 8), rng.uniform(-3, 4), rng.choice([0, 0, 2])),
            drawn(rng, rng.randint(2, 20)),
            Noise(DEVIATION * rng.uniform(0.5, 2), rng.choice([0.0, 0.3, 0.9]), rng.uniform(6, 60)),
        )
        for _ in range(count)
    ]


def test_the_same_runs_give_the_same_answer() -> None:
    for candidate, reference, noise in situations():
        assert decide(candidate, reference, noise, RULE) == decide(dict(candidate), dict(reference), noise, RULE)


def test_the_order_in_which_runs_ended_plays_no_part() -> None:
    rng = random.Random(2)
    for candidate, reference, noise in situations():
        shuffled, mixed = (dict(rng.sample(list(group.items()), len(group))) for group in (candidate, reference))
        one, other = decide(candidate, reference, noise, RULE), decide(shuffled, mixed, noise, RULE)
        assert (one.action, one.reason) == (other.action, other.reason)
        assert (one.candidate_runs, one.reference_runs) == (other.candidate_runs, other.reference_runs)
        assert other.comparison.improvement == pytest.approx(one.comparison.improvement, abs=1e-12)
        assert other.comparison.stderr == pytest.approx(one.comparison.stderr, rel=1e-9)


def test_the_names_of_the_seeds_play_no_part() -> None:
    for candidate, reference, noise in situations():
        one, other = ({1000 - seed: value for seed, value in group.items()} for group in (candidate, reference))
        renamed = compare(one, other, noise)
        assert renamed.improvement == pytest.approx(compare(candidate, reference, noise).improvement, abs=1e-12)


def test_one_lucky_run_is_never_a_keep() -> None:
    decision = decide(runs(-50.0), REFERENCE, NOISE, RULE)
    assert decision.action == "replicate" and decision.candidate_runs == 1
    assert decision.comparison.probability > 0.999999


def test_a_keep_needs_a_reference_that_was_measured_often_enough() -> None:
    candidate = runs(-6.0, -6.0)
    assert decide(candidate, REFERENCE, NOISE, RULE).action == "keep"
    few = {seed: REFERENCE[seed] for seed in range(RULE.reference_runs - 1)}
    decision = decide(candidate, few, NOISE, RULE)
    assert (decision.action, decision.candidate_runs, decision.reference_runs) == ("replicate", 0, 1)
    assert "reference needs more runs" in decision.reason


def test_a_clear_loser_costs_one_run() -> None:
    decision = decide(runs(2.0), REFERENCE, NOISE, RULE)
    assert decision.action == "discard" and (decision.candidate_runs, decision.reference_runs) == (0, 0)


def test_a_candidate_never_has_more_runs_than_allowed() -> None:
    promising = runs(*[-0.8] * RULE.max_runs)
    decision = decide(promising, REFERENCE, NOISE, RULE)
    assert decision.action == "discard" and "no run left" in decision.reason
    for candidate, reference, noise in situations():
        decision = decide(candidate, reference, noise, RULE)
        assert decision.action != "replicate" or len(candidate) < RULE.max_runs or decision.candidate_runs == 0


def test_a_reference_does_not_grow_beyond_its_limit() -> None:
    rule = DecisionRule(reference_runs=4, reference_max=4)
    decision = decide(runs(-1.5), {seed: REFERENCE[seed] for seed in range(4)}, NOISE, rule)
    assert (decision.action, decision.reference_runs) == ("replicate", 0)


def test_every_answer_but_the_last_asks_for_at_least_one_run() -> None:
    for candidate, reference, noise in situations(200):
        decision = decide(candidate, reference, noise, RULE)
        asked = decision.candidate_runs + decision.reference_runs
        assert (asked > 0) == (decision.action == "replicate"), "a night must not stand still"


def test_the_gain_must_exceed_the_least_improvement_asked_for() -> None:
    candidate = runs(-3.0, -3.2, -2.8, -3.1)
    gain = compare(candidate, REFERENCE, NOISE).improvement
    assert gain == pytest.approx(3 * DEVIATION, rel=0.05)
    actions = {
        share: decide(candidate, REFERENCE, NOISE, DecisionRule(min_improvement=share * gain)).action
        for share in (0.0, 0.3, 1.0, 2.0)
    }
    assert actions == {0.0: "keep", 0.3: "keep", 1.0: "discard", 2.0: "discard"}


def test_more_confidence_never_keeps_more() -> None:
    for candidate, reference, noise in situations(200):
        kept = [
            decide(candidate, reference, noise, DecisionRule(confidence=confidence)).action == "keep"
            for confidence in (0.8, 0.95, 0.99, 0.999)
        ]
        assert kept == sorted(kept, reverse=True)


def test_a_better_candidate_is_never_judged_worse() -> None:
    rank = {"discard": 0, "replicate": 1, "keep": 2}
    for candidate, reference, noise in situations():
        better = {seed: value - DEVIATION for seed, value in candidate.items()}
        one, other = decide(candidate, reference, noise, RULE), decide(better, reference, noise, RULE)
        assert other.comparison.probability >= one.comparison.probability
        if len(candidate) < RULE.max_runs:
            assert rank[other.action] >= rank[one.action]


def test_the_interval_holds_the_point_and_is_the_posteriors() -> None:
    for candidate, reference, noise in situations():
        found = compare(candidate, reference, noise)
        low, high = found.interval
        assert low < found.improvement < high
        # The chance of being better than the interval's ends is what its 95 % promise.
        assert compare(candidate, reference, noise, low).probability == pytest.approx(0.975)
        assert compare(candidate, reference, noise, high).probability == pytest.approx(0.025)


def test_without_correlation_the_improvement_is_the_difference_of_the_means() -> None:
    candidate = runs(-1.0, -2.0)
    found = compare(candidate, REFERENCE, NOISE)
    expected = np.mean(list(REFERENCE.values())) - np.mean(list(candidate.values()))
    assert found.improvement == pytest.approx(expected)
    of_candidate, of_reference = own_noise(candidate, NOISE).deviation, own_noise(REFERENCE, NOISE).deviation
    assert found.stderr == pytest.approx((of_candidate**2 / 2 + of_reference**2 / 10) ** 0.5)


def test_a_recipe_that_scatters_more_than_others_is_held_to_its_own_deviation() -> None:
    calm, wild = runs(-3.0, -3.1, -2.9, -3.0), runs(-9.0, 3.0, -8.0, 2.0)
    assert own_noise(calm, NOISE).deviation < DEVIATION < own_noise(wild, NOISE).deviation
    assert own_noise(runs(1.0), NOISE).deviation == DEVIATION, "one run says nothing of it"
    assert decide(calm, REFERENCE, NOISE, RULE).action == "keep"
    assert decide(wild, REFERENCE, NOISE, RULE).action != "keep"


def test_a_comparison_is_no_surer_than_the_pooled_deviation_that_both_sides_lean_on() -> None:
    few = Noise(DEVIATION, 0.0, 4.0)
    assert compare(runs(-1.0, -2.0), REFERENCE, few).dof <= 4.0


def test_the_next_run_goes_where_it_narrows_the_comparison_most() -> None:
    reference, candidate = runs(0.0, 0.4), runs(-1.2, -1.4, -1.3, -1.1)
    noise = Noise(DEVIATION, 0.0, 60.0)
    assert decide(candidate, reference, noise, RULE).reference_runs == 1
    many = runs(*[0.2, -0.2] * 6)
    assert decide(runs(-1.2, -1.4), many, noise, RULE).candidate_runs == 1
    # What serves three that wait is worth three times as much, and three may be under way at once.
    alike = runs(0.3, -0.3, 0.3, -0.3, 0.1)
    alone, with_others, with_many = (decide(candidate, alike, noise, RULE, waiting) for waiting in (1, 3, 16))
    assert (alone.candidate_runs, with_others.reference_runs) == (1, 3)
    # Of sixteen that wait the twelfth run narrows each comparison as much as a run of its own, and no more are begun.
    assert 8 <= with_many.reference_runs <= 12


def test_seeds_in_common_make_the_interval_narrower_where_they_correlate() -> None:
    noise = Noise(DEVIATION, 0.6, 30.0)
    candidate = runs(-1.0, -2.0, -1.5)
    strange = {seed + 100: value for seed, value in candidate.items()}
    paired, unpaired = compare(candidate, REFERENCE, noise), compare(strange, REFERENCE, noise)
    assert paired.stderr < 0.85 * unpaired.stderr
    assert compare(candidate, REFERENCE, NOISE).stderr == pytest.approx(compare(strange, REFERENCE, NOISE).stderr)


def test_a_seed_that_is_lucky_for_both_says_nothing_about_the_candidate() -> None:
    noise = Noise(DEVIATION, 0.9, 30.0)
    reference = runs(0.0, 0.0, 0.0, -3.0)
    lucky = {3: LEVEL - 3 * DEVIATION}
    assert abs(compare(lucky, reference, noise).improvement) < 0.3 * compare(lucky, reference, NOISE).improvement


# --- the noise ---


def test_a_study_without_replicates_falls_back_to_the_prior() -> None:
    for groups in ([], [{0: LEVEL}], [{0: LEVEL}, {}, {0: LEVEL}]):
        noise = pool_noise(groups, RULE)
        level = LEVEL if groups else 1.0
        assert noise.deviation == pytest.approx(RULE.prior_deviation * level)
        assert (noise.correlation, noise.dof) == (0.0, RULE.prior_runs)


def test_one_recipe_alone_shows_its_deviation_and_no_correlation() -> None:
    quiet, loud = (pool_noise([runs(*(share * value for value in (1.0, -1.0, 0.0)))], RULE) for share in (0.1, 5.0))
    assert quiet.deviation < RULE.prior_deviation * LEVEL < loud.deviation
    assert (quiet.correlation, quiet.dof) == (0.0, RULE.prior_runs + 2)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("share", [0.5, 1.0, 3.0])
def test_the_pooled_noise_finds_what_the_runs_were_made_with(share: float, correlation: float) -> None:
    # Over many studies: in one, all recipes share the luck of the same few seeds.
    rng = np.random.Generator(np.random.PCG64(3))
    found = []
    for _ in range(60):
        luck, groups = rng.normal(size=12), []
        for _ in range(30):
            values = LEVEL + share * DEVIATION * (
                correlation**0.5 * luck + (1 - correlation) ** 0.5 * rng.normal(size=12)
            )
            groups.append({seed: float(values[seed]) for seed in range(rng.integers(1, 13))})
        found.append(pool_noise(groups, RULE))
    assert np.mean([noise.deviation for noise in found]) == pytest.approx(share * DEVIATION, rel=0.08)
    assert np.mean([noise.correlation for noise in found]) == pytest.approx(correlation, abs=0.15)


def test_recipes_of_different_quality_are_not_taken_for_noise() -> None:
    rng = random.Random(4)
    near = [drawn(rng, 4) for _ in range(20)]
    far = [{seed: value + 0.3 * place for seed, value in group.items()} for place, group in enumerate(near)]
    rule = DecisionRule(prior_deviation=0.0001)  # which would follow the level
    assert pool_noise(far, rule).deviation == pytest.approx(pool_noise(near, rule).deviation, rel=1e-3)


def test_the_order_of_the_trials_plays_no_part_in_the_noise() -> None:
    rng = random.Random(5)
    groups = [drawn(rng, rng.randint(1, 6)) for _ in range(12)]
    one = pool_noise(groups, RULE)
    for _ in range(5):
        rng.shuffle(groups)
        other = pool_noise([dict(rng.sample(list(group.items()), len(group))) for group in groups], RULE)
        assert other.deviation == pytest.approx(one.deviation, rel=1e-12)
        assert other.correlation == pytest.approx(one.correlation, abs=1e-12)


def test_the_interval_of_a_mean_narrows_with_its_runs() -> None:
    widths = [NOISE.half_width(n) for n in (1, 2, 4, 8)]
    assert all(one == pytest.approx(2**0.5 * other) for one, other in itertools.pairwise(widths))
    assert widths[0] == pytest.approx(2.04 * DEVIATION, rel=0.01), "Student's t with 30 degrees of freedom"


# --- what it comes to, over many trials ---


@pytest.mark.parametrize("correlation, nights", [(0.0, 15), (0.5, 5)])
def test_recipes_that_are_all_the_same_are_almost_never_kept(correlation: float, nights: int) -> None:
    told = [night(World("the same", correlation=correlation), 100, seed) for seed in range(nights)]
    trials = [trial for each in told for trial in each.trials]
    assert len(trials) == 100 * nights
    assert sum(trial.kept for trial in trials) <= 0.02 * len(trials)
    assert sum(trial.runs for trial in trials) <= 2.5 * len(trials), "and a worthless trial is cheap"


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_a_gain_of_three_deviations_is_kept_nearly_always_and_of_two_mostly(correlation: float) -> None:
    for gain, share in ((3.0, 0.9), (2.0, 0.6)):
        told = [night(World("better", gain=gain, correlation=correlation), 50, seed) for seed in range(5)]
        trials = [trial for each in told for trial in each.trials]
        assert sum(trial.kept for trial in trials) >= share * len(trials)
