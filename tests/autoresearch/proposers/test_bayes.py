"""Bayesian optimization over whole recipes: what it learns, what it stays away from, and that it repeats itself."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import pytest
from histories import MENU, baseline, history, past_trial

from autoresearch.proposers.bayes import MOST_LEARNED, BayesProposer
from autoresearch.proposers.classic import RandomProposer
from autoresearch.proposers.gaussian_process import Process, expected_improvement
from autoresearch.proposers.known import STARTS
from autoresearch.proposers.proposer import Proposer
from autoresearch.proposers.tpe import TpeProposer
from autoresearch.trial import Recipe, Trial
from rails import Menu, gate, recipe_key


def score(recipe: Recipe, luck: float = 0.0) -> float:
    """Two knobs that matter together, and nothing else."""
    lr, width = math.log2(float(recipe["lr"]) / 0.004), math.log2(float(recipe["d_model"]) / 128)
    return 2.5 + 0.05 * (lr + width) ** 2 + 0.03 * lr**2 + luck


def measured(number: int, recipe: Recipe, val_bpb: float | None, **more: Any) -> Trial:
    trial = past_trial(number, "lr", recipe["lr"], None if val_bpb is None else 2.8 - val_bpb)
    return replace(trial, recipe=recipe, recipe_key=recipe_key(recipe), **more)


def night(proposer: Proposer, menu: Menu, trials: int, seed: int = 0) -> list[Trial]:
    """Each proposal is measured with luck; the best mean stands."""
    rng = random.Random(seed)
    done, stands = [replace(baseline(), val_bpb=score(MENU.defaults()))], MENU.defaults()
    for number in range(1, trials + 1):
        known = replace(history(done, seed, menu), recipe=stands)
        verdict = gate(proposer.propose(known).raw, stands, menu, known.tried, known.limits)
        assert verdict.passed, verdict.reason
        recipe = {**stands, **verdict.changes}
        done.append(measured(number, recipe, score(recipe, rng.gauss(0, 0.01)), changes=verdict.changes))
        stands = min(done, key=lambda trial: trial.val_bpb or 9.0).recipe
    return done


@pytest.mark.parametrize("optimizer", [BayesProposer, TpeProposer])
def test_the_first_recipes_turn_knobs_that_no_trial_has_touched(optimizer: type[Proposer]) -> None:
    for seed in range(4):
        turned = [knob for trial in night(optimizer(), MENU, 6, seed)[1:] for knob in trial.changes]
        assert len(turned) == len(set(turned)) >= 6


def test_where_every_knob_was_touched_a_start_turns_any() -> None:
    trials = [baseline(), past_trial(1, "lr", 0.002, 0.0, changes=MENU.defaults())]
    known = history(trials)
    verdict = gate(BayesProposer().propose(known).raw, known.recipe, MENU, known.tried, known.limits)
    assert verdict.passed and verdict.changes


def best(trials: list[Trial]) -> float:
    return min(score(trial.recipe) for trial in trials)


@pytest.mark.parametrize("optimizer", [BayesProposer, TpeProposer])
def test_it_comes_nearer_to_a_known_best_than_random_search(optimizer: type[Proposer]) -> None:
    mine = [best(night(optimizer(), MENU, 40, seed)) for seed in range(8)]
    others = [best(night(RandomProposer(), MENU, 40, seed)) for seed in range(8)]
    assert sum(one < other for one, other in zip(mine, others, strict=True)) >= 5
    assert median(mine) < 2.53 < median(others)


@pytest.mark.parametrize("optimizer", [BayesProposer, TpeProposer])
def test_it_turns_as_many_knobs_at_once_as_the_menu_allows_and_no_more(optimizer: type[Proposer]) -> None:
    for most in (1, 3):
        trials = night(optimizer(), replace(MENU, max_changes=most), 30)
        turned = {
            sum(trial.recipe[name] != before[name] for name in MENU.knobs)
            for trial, before in zip(trials[1:], _stood(trials), strict=True)
        }
        assert max(turned) == most and min(turned) >= 1


def _stood(trials: list[Trial]) -> list[Recipe]:
    """The recipe that each trial after the baseline changed."""
    return [min(trials[:number], key=lambda trial: trial.val_bpb or 9.0).recipe for number in range(1, len(trials))]


def test_the_same_trajectory_gives_the_same_proposal_and_another_seed_another() -> None:
    trials = night(BayesProposer(), MENU, 20)
    answers = [BayesProposer().propose(history(trials, seed)).raw for seed in (0, 0, 1)]
    assert answers[0] == answers[1] != answers[2]
    told = json.loads(answers[0])
    assert isinstance(told["expected_delta"], float) and "recipes near the best" in told["reason"]


def test_what_is_in_flight_is_not_proposed_again_nor_its_next_neighbour() -> None:
    trials = night(BayesProposer(), MENU, 25)
    known = history(trials)
    first = {**known.recipe, **_changes(BayesProposer().propose(known).raw)}
    running = [*trials, measured(len(trials), first, None, state="running", reason="")]
    again = replace(history(running), number=known.number)  # the same draws
    second = {**known.recipe, **_changes(BayesProposer().propose(again).raw)}
    assert second != first


def _changes(raw: str) -> Recipe:
    told = json.loads(raw)
    changes: Recipe = told.get("changes") or {told["knob"]: told["new_value"]}
    return changes


def test_it_keeps_away_from_where_runs_fail() -> None:
    rng = random.Random(3)
    trials = [baseline()]
    for number in range(1, 40):
        recipe = MENU.defaults() | {
            "lr": rng.choice([0.0005, 0.002, 0.01, 0.02, 0.028]),
            "d_ff": rng.choice([256, 512]),
        }
        recipe["beta1"] = round(rng.uniform(0.6, 0.95), 4)
        fails = float(recipe["lr"]) > 0.005
        # What does not fail gets better and better towards where it does.
        trials.append(measured(number, recipe, None if fails else 2.8 - 0.1 * math.log(float(recipe["lr"]) / 0.0005)))
    proposed = [_changes(BayesProposer().propose(history(trials, seed)).raw).get("lr", 0.001) for seed in range(12)]
    assert sum(float(lr) <= 0.01 for lr in proposed) >= 9


@pytest.mark.parametrize("optimizer", [BayesProposer, TpeProposer])
def test_what_was_stopped_on_the_way_is_no_score_and_not_gone_back_to(optimizer: type[Proposer]) -> None:
    rng = random.Random(5)
    trials = [baseline()]
    for number in range(1, 40):
        lr = round(10 ** rng.uniform(-4, -1.6), 6)
        state = {"state": "stopped", "reason": "behind"} if lr > 0.003 else {}
        found = None if lr > 0.003 else 2.8 - 0.1 * math.log(lr / 1e-4)
        trials.append(measured(number, MENU.defaults() | {"lr": lr}, found, **state))
    proposed = [_changes(optimizer().propose(history(trials, seed)).raw).get("lr", 0.001) for seed in range(12)]
    assert sum(float(lr) <= 0.006 for lr in proposed) >= 9


def test_of_thousands_of_trials_it_still_proposes_what_the_rails_let_through() -> None:
    rng = random.Random(0)
    recipes = [MENU.defaults() | {"lr": rng.uniform(1e-4, 3e-2), "beta2": rng.uniform(0.8, 0.99)} for _ in range(3000)]
    trials = [baseline(), *(measured(n + 1, recipe, score(recipe)) for n, recipe in enumerate(recipes))]
    assert len(trials) > 3 * MOST_LEARNED
    known = history(trials)
    assert gate(BayesProposer().propose(known).raw, known.recipe, MENU, known.tried, known.limits).passed


def test_before_it_knows_enough_it_stays_near_what_stands() -> None:
    trials = night(BayesProposer(), MENU, STARTS - 2)
    assert all(len(_changes(BayesProposer().propose(history(trials[:n])).raw)) <= 3 for n in range(1, STARTS - 2))


# --- the model ---


def test_the_model_follows_a_function_and_says_how_sure_it_is() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    points = rng.random((60, 3))
    truth = np.sin(3 * points[:, 0]) + points[:, 1]
    model = Process(points, truth + 0.01 * rng.normal(size=60), np.ones(60), 0.01)
    probes = rng.random((200, 3))
    mean, deviation = model.predict(probes)
    errors = np.abs(mean - np.sin(3 * probes[:, 0]) - probes[:, 1])
    assert errors.mean() < 0.05
    assert (errors < 2 * deviation + 0.02).mean() > 0.85
    far, near = model.predict(np.array([[5.0, 5.0, 5.0]]))[1], model.predict(points[:1])[1]
    assert far[0] > 3 * near[0]


def test_more_runs_behind_a_mean_draw_the_model_closer_to_it() -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    points, scores = rng.random((20, 2)), np.zeros(20) + 0.05 * rng.normal(size=20)
    points[0], scores[0] = [0.5, 0.5], -0.5
    once, often = (Process(points, scores, np.array([runs] + [1.0] * 19), 0.2).fitted()[0] for runs in (1.0, 25.0))
    assert often < once < 0


def test_what_is_believed_makes_the_model_sure_without_moving_it() -> None:
    rng = np.random.Generator(np.random.PCG64(2))
    points = rng.random((30, 2))
    model = Process(points, points.sum(1), np.ones(30))
    probe = np.array([[0.9, 0.1]])
    mean, deviation = model.predict(probe)
    model.believe(probe)
    after, surer = model.predict(probe)
    assert after[0] == pytest.approx(mean[0], abs=0.02) and surer[0] < deviation[0]


def test_improvement_is_expected_of_what_is_better_or_unsure() -> None:
    mean, deviation = np.array([1.0, 1.0, 0.5]), np.array([0.01, 0.5, 0.01])
    sure_and_worse, unsure, sure_and_better = expected_improvement(mean, deviation, 0.8)
    assert sure_and_worse < 1e-6 < unsure and sure_and_better == pytest.approx(0.3, abs=1e-3)
