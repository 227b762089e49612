"""The search benchmark's surrogates, its race and what it says of a race."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search import arms, confirm, race
from search.chart import draw
from search.fitness import agreement, held_out
from search.ground import the_space
from search.luck import Repeated, fit_luck
from search.night import Standing
from search.race import Job, Night, Race, summed_up
from search.regressors import DEPTH, RATE, SHARE_OF_POINTS, TREES, Linear, Smooth, Steps
from search.results import as_json, as_markdown, real_nights, rows
from search.surrogate import KINDS, Recorded, Surrogate, fit
from sklearn.ensemble import GradientBoostingRegressor

from rails import Value
from trainer.protocol import RunResult

SPACE = the_space()
DEVIATION, SEED_SHARE, VAL_WITH_TEST = 0.01, 0.5, 0.8


def truth(recipe: Mapping[str, Value]) -> float:
    return 2.5 + 0.1 * abs(math.log(float(recipe["lr"]) / 0.004)) + 0.02 * float(recipe["n_layer"])


def made_up_runs(recipes: int = 150, seeds: int = 2) -> list[dict[str, Any]]:
    """What `collect` would have written of a trainer whose truth is known; beta1 below 0.53 fails."""
    rng = random.Random(0)
    shared = [rng.gauss() for _ in range(seeds)]
    runs = []
    for _ in range(recipes):
        recipe = SPACE.draw(rng)
        deviation = DEVIATION * (3 if int(recipe["n_layer"]) > 4 else 1)
        for seed in range(seeds):
            luck = SEED_SHARE**0.5 * shared[seed] + (1 - SEED_SHARE) ** 0.5 * rng.gauss()
            on_test = VAL_WITH_TEST * luck + (1 - VAL_WITH_TEST**2) ** 0.5 * rng.gauss()
            run = {"recipe": recipe, "seed": seed, "state": "complete", "cpu_seconds": 5.0 * int(recipe["n_layer"])}
            run |= {"val_bpb": truth(recipe) * math.exp(deviation * luck)}
            run |= {"test_bpb": 0.96 * truth(recipe) * math.exp(deviation * on_test)}
            if float(recipe["beta1"]) < 0.53:
                run |= {"state": "failed", "val_bpb": None, "test_bpb": None}
            runs.append(run)
    return runs


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded.of(SPACE, made_up_runs())


@pytest.fixture(scope="module")
def worlds(recorded: Recorded) -> list[Surrogate]:
    return [fit(kind, SPACE, recorded) for kind in KINDS]


def test_surrogates_rank_recipes_that_they_have_not_seen(recorded: Recorded) -> None:
    for kind in KINDS:
        found = held_out(kind, recorded)
        assert found.rank_correlation > 0.8, kind
        assert found.error < 0.06, kind


def test_a_surrogates_runs_scatter_around_its_truth_fail_and_take_time_as_recorded_ones_do(
    worlds: list[Surrogate],
) -> None:
    shallow, deep = SPACE.baseline | {"n_layer": 2}, SPACE.baseline | {"n_layer": 8}
    for world in worlds:
        scattered = {}
        for recipe in (shallow, deep):
            runs = [world.run(recipe, seed, night) for seed in range(40) for night in range(5)]
            logs = np.log([run.val_bpb for run in runs if run.val_bpb is not None])
            assert np.mean(logs) == pytest.approx(math.log(world.truth(recipe)), abs=0.005)
            scattered[str(recipe["n_layer"])] = np.std(logs)
        assert scattered["8"] > 1.5 * scattered["2"]
        assert (world.run(deep, 0, 0).total_seconds or 0) > 2 * (world.run(shallow, 0, 0).total_seconds or 0)
        failed = {
            beta1: sum(
                world.run(SPACE.baseline | {"beta1": beta1}, seed, 0).state == "failed" for seed in range(400)
            )
            for beta1 in (0.5, 0.98)
        }  # fmt: skip
        assert failed[0.5] > failed[0.98]
        assert world.run(deep, 3, 1) == world.run(deep, 3, 1) != world.run(deep, 3, 2)


def test_luck_is_told_apart_by_recipe_by_seed_and_by_text() -> None:
    rng = random.Random(1)
    shared = {seed: rng.gauss() for seed in range(4)}
    groups = []
    for number in range(400):
        deviation = 0.002 if number % 2 else 0.02
        lucks = {seed: SEED_SHARE**0.5 * shared[seed] + (1 - SEED_SHARE) ** 0.5 * rng.gauss() for seed in shared}
        test = {
            seed: VAL_WITH_TEST * luck + (1 - VAL_WITH_TEST**2) ** 0.5 * rng.gauss() for seed, luck in lucks.items()
        }
        val = {seed: 1 + deviation * luck for seed, luck in lucks.items()}
        groups.append(
            Repeated(
                np.array([number % 2, rng.random()]), val, {seed: 1 + deviation * luck for seed, luck in test.items()}
            )
        )
    luck = fit_luck(groups)
    calm, wild = luck.deviation(np.array([1.0, 0.5])), luck.deviation(np.array([0.0, 0.5]))
    # Four seeds' shared luck is a draw of four: its own deviation is within the recipes', not one.
    assert 6 < wild / calm < 14
    assert 0.1 < luck.seed_share < 0.8
    assert luck.val_with_test == pytest.approx(VAL_WITH_TEST, abs=0.05)
    assert luck.test_ratio == pytest.approx(1.0, abs=0.25)


def test_our_walks_through_fitted_models_are_scikit_learns_predictions() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    points, probes = rng.random((120, 5)), rng.random((30, 5))
    values = np.sin(4 * points[:, 0]) + points[:, 1] ** 2
    sure = np.sin(4 * probes[:, 0]) + probes[:, 1] ** 2
    assert np.abs(Smooth(points, values)(probes) - sure).max() < 0.05
    boosted = GradientBoostingRegressor(
        n_estimators=TREES, max_depth=DEPTH, learning_rate=RATE, subsample=SHARE_OF_POINTS, random_state=0
    )
    assert list(Steps(points, values)(probes)) == pytest.approx(list(boosted.fit(points, values).predict(probes)))
    weights = np.array([1.0, 2.0, -1.0, 0.0, 0.5, 3.0])
    assert [Linear.of(points, weights)(point) for point in points] == pytest.approx(
        list(Linear.scaled(points) @ weights)
    )


def test_surrogates_of_the_same_runs_agree_more_or_less(worlds: list[Surrogate], recorded: Recorded) -> None:
    found = agreement(worlds[0], worlds[1], recorded, SPACE)
    assert 0.7 < found.over_menu < 1
    assert found.apart < 0.1
    assert agreement(worlds[0], worlds[0], recorded, SPACE).among_good == pytest.approx(1)


def test_a_race_that_was_cut_off_goes_on_where_it_ended(
    worlds: list[Surrogate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [Job(arm, world.name, night, 20) for arm in ("random", "racing") for world in worlds for night in range(2)]
    first = Race(worlds, tmp_path).nights(jobs[:3])
    lines = sum(len(path.read_text().splitlines()) for path in tmp_path.iterdir())
    assert lines == 3
    whole = Race(worlds, tmp_path).nights(jobs)
    assert whole[:3] == first and [night.job for night in whole] == jobs
    assert sum(len(path.read_text().splitlines()) for path in tmp_path.iterdir()) == len(jobs)
    assert all(len(night.truth) == 20 for night in whole)
    # Other code, other nights: nothing of the old ones is taken for them.
    race._fingerprint.cache_clear()
    monkeypatch.setattr(race, "TABLE", tmp_path / "other")
    (tmp_path / "other").write_text("another table")
    assert list(Race(worlds, tmp_path)._known("random")) == []
    race._fingerprint.cache_clear()


def made_up_nights() -> list[Night]:
    """TPE goes down by 0.01 a hundred runs, GP twice as fast, random never."""
    rng = random.Random(0)
    nights = []
    for arm, slope in (("TPE", 1e-4), ("GP", 2e-4), ("random", 0.0)):
        for number in range(12):
            luck = 0.001 * rng.gauss()
            truths = [2.5 + luck - slope * runs for runs in range(1, 401)]
            told = [value - 0.01 for value in truths]
            seconds = [30.0 * runs for runs in range(1, 401)]
            nights.append(Night(Job(arm, "smooth", number, 400), truths, list(told), seconds, 10, 2))
    return nights


def test_a_race_is_told_with_intervals_the_runs_to_a_level_and_paired_tests(tmp_path: Path) -> None:
    nights = made_up_nights()
    best, middle, last = rows(nights, "smooth")
    assert [best.arm, middle.arm, last.arm] == ["GP", "TPE", "random"]
    assert best.truth[100].mean == pytest.approx(2.48, abs=0.001) and 0 < best.truth[100].half < 0.002
    assert middle.reached.runs == 200
    assert best.reached.runs in range(95, 106) and last.reached.runs is None
    assert 90 < (best.reached.low or 0) <= 100 <= (best.reached.high or 0) < 110
    assert best.p_reference[100] is not None and best.p_reference[100] < 0.001
    assert middle.p_reference[100] is None
    assert best.too_good.mean == pytest.approx(0.01) and best.for_worse.mean == pytest.approx(0.2)
    assert best.worker_hours.mean == pytest.approx(400 * 30 / 3600)
    table = as_markdown([best, middle, last])
    assert (
        "never" in table
        and f"{best.truth[100].mean:.4f} ±" in table
        and len({line.count("|") for line in table.splitlines()}) == 1
    )
    assert json.loads(json.dumps(as_json([best])))[0]["arm"] == "GP"
    draw(nights, tmp_path / "race.png")
    assert (tmp_path / "race.png").read_bytes().startswith(b"\x89PNG")


def test_real_nights_are_told_beside_simulated_ones_of_as_many_runs() -> None:
    real = [confirm.Confirmed("GP", night, 100, [2.4 + 0.02 * night, 2.42 + 0.02 * night]) for night in (1, 0)]
    head, _, row = real_nights(real, made_up_nights()).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")][-1] == "smooth"
    arm, runs, nights, mean, simulated = (cell.strip() for cell in row.strip("|").split("|"))
    assert (arm, runs, nights) == ("GP", "100", "2.4100, 2.4300")
    assert mean.startswith("2.4200 ±") and simulated.startswith("2.48")
    unraced = real_nights([confirm.Confirmed("CMA-ES", 0, 100, [2.4])], made_up_nights())
    assert unraced.splitlines()[-1].rstrip(" |").endswith("-")


def test_a_search_that_ends_early_hands_over_the_same_for_the_rest_of_the_night(worlds: list[Surrogate]) -> None:
    better = SPACE.baseline | {"lr": 0.004}
    standings = [
        Standing(1, 10.0, SPACE.baseline, 2.8), Standing(2, 20.0, better, 2.6), Standing(3, 30.0, SPACE.baseline, None)
    ]  # fmt: skip
    night = summed_up(Job("random", "smooth", 0, 5), worlds[0], standings)
    assert len(night.truth) == len(night.told) == len(night.worker_seconds) == 5
    assert night.truth[2:] == [night.truth[0]] * 3
    assert (night.changes, night.for_worse) == (2, 1)


def test_a_real_night_is_replayed_from_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(self: Any, recipe: Mapping[str, Value], seed: int) -> Any:
        trained.append(seed)
        run = RunResult(f"{seed}", seed, "complete", val_bpb=truth(recipe), test_bpb=2.0, total_seconds=3.0)
        return run

    monkeypatch.setattr(confirm.Trainer, "_train", train)
    monkeypatch.setattr(confirm, "the_text", lambda folder: folder)
    # None of the nights that are shipped, whose runs need no training.
    first = confirm.confirm(tmp_path, "abc", 6, ("racing", 7))
    assert len(first.scores) == len(confirm.FRESH_SEEDS) and len(trained) == 6 + len(first.scores)
    assert all(800 <= seed < 900 for seed in trained) and len(set(trained[-5:])) == 5
    assert confirm.confirm(tmp_path, "abc", 6, ("racing", 7)) == first
    assert len(trained) == 6 + len(first.scores)


def test_every_arm_has_a_name_of_its_own_and_the_finalists_are_arms() -> None:
    assert {arms.REFERENCE, arms.DEFAULT, *arms.FINALISTS} <= set(arms.ARMS)
