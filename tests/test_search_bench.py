"""The search benchmark: what it records, and that its simulated nights are nights."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from search import night
from search.design import Design, Planned
from search.gaussian import gaussian_process
from search.solo import Search, at_random, cma_es, joint_tpe, racing, search, tpe
from search.stopping import Stopping, standings
from search.table import FACTS, pack, recorded, unpack

from autoresearch.proposers import Proposer
from autoresearch.proposers.classic import RandomProposer
from autoresearch.proposers.space import Space
from autoresearch.study.preset import load_preset
from autoresearch.study.workspace import Workspace
from autoresearch.workers.launcher import Finished
from rails import Limits, Value, recipe_key, violations
from trainer.protocol import RunRequest, RunResult

PRESET = load_preset("cpu-nano")
LIMITS = Limits(budget=PRESET.settings.whole_budget, vocab_size=2048)
SPACE = Space(PRESET.menu, LIMITS)


class Valley:
    """A world whose best learning rate is 0.004; a beta1 below 0.55 diverges."""

    def run(self, recipe: Mapping[str, Value], seed: int, night: int) -> RunResult:
        rng = random.Random(f"{night}/{seed}/{sorted(recipe.items())}")
        seconds = 10 + 10 * rng.random()
        if float(recipe["beta1"]) < 0.55:
            return RunResult("run", seed, "failed", failure="diverged", message="it did", total_seconds=seconds)
        score = truth(recipe) + rng.gauss(0, 0.005)
        return RunResult("run", seed, "complete", val_bpb=score, test_bpb=score, total_seconds=seconds)


def truth(recipe: Mapping[str, Value]) -> float:
    return 2.5 + 0.1 * abs(math.log(float(recipe["lr"]) / 0.004))


def scored(run: Planned) -> float:
    return truth(run.recipe) + 0.001 * run.seed


def test_the_design_covers_the_menu_with_recipes_that_the_rails_allow() -> None:
    runs = [run for planned in Design(PRESET.menu, LIMITS).rounds(scored) for run in planned]
    recipes = {recipe_key(run.recipe): run.recipe for run in runs}
    seeds = {(recipe_key(run.recipe), run.seed) for run in runs}
    assert len(seeds) >= 800  # the rest are the runs of whole nights
    assert sum(len({seed for key, seed in seeds if key == wanted}) > 1 for wanted in recipes) >= 150
    assert not any(violations(recipe, PRESET.menu, LIMITS) for recipe in recipes.values())
    for name, knob in PRESET.menu.knobs.items():
        values = {recipe[name] for recipe in recipes.values()}
        assert values >= set(knob.choices) if knob.choices else {knob.low, knob.high} <= values, name


def test_a_design_goes_on_as_it_began_whatever_was_recorded_after_it() -> None:
    recorded: set[tuple[str, int]] = set()

    def score(run: Planned) -> float | None:
        assert (recipe_key(run.recipe), run.seed) in recorded, "a score was asked for before its run was planned"
        return scored(run)

    rounds = []
    for planned in Design(PRESET.menu, LIMITS).rounds(score):
        recorded |= {(recipe_key(run.recipe), run.seed) for run in planned}
        rounds.append(planned)
    assert list(Design(PRESET.menu, LIMITS).rounds(score)) == rounds


def test_recorded_runs_come_back_from_the_table_as_they_were(tmp_path: Path) -> None:
    facts: dict[str, Any] = dict.fromkeys(FACTS)
    facts |= {"commit": "abc", "message": "", "started_at": "2026-11-21T00:00:00.000+00:00", "seed": 1}
    facts |= {"versions": {"torch": "2.13.0", "python": "3.11.7"}, "recipe": PRESET.recipe, "kind": "space"}
    complete = facts | {"state": "complete", "val_bpb": 2.5, "test_bpb": 2.4, "curve": [[2, 7.5], [4, 6.25]]}
    failed = facts | {"state": "failed", "failure": "diverged", "failed_step": 3, "curve": []}
    rows = [complete | {"val_curve": [[2, 7.0]]}, failed | {"val_curve": []}]
    pq.write_table(pack(rows), tmp_path / "runs.parquet")
    assert unpack(pq.read_table(tmp_path / "runs.parquet")) == rows


@pytest.mark.parametrize("workers", [1, 3])
def test_a_simulated_night_finds_what_is_there_and_repeats(workers: int) -> None:
    first, again = (night.simulate(Valley(), RandomProposer(), 5, 160, workers) for _ in range(2))
    assert first == again
    assert [standing.runs for standing in first] == list(range(1, 161))
    assert first[0].recipe == PRESET.recipe and truth(first[-1].recipe) < truth(PRESET.recipe)
    assert first[-1].worker_seconds > first[0].worker_seconds > 0


def test_a_simulated_run_that_is_cancelled_ends_then_and_costs_no_more() -> None:
    launcher = night.SimulatedLauncher(Valley(), 2, 0, lambda: (PRESET.recipe, None))
    for run_id in ("0000-0", "0000-1"):
        launcher.submit(RunRequest(run_id, PRESET.recipe, 0, {"tokens": 1000}, "", ""), 60.0)
    launcher.cancel("0000-1")
    first, second = launcher.next_event(0.0), launcher.next_event(0.0)
    assert isinstance(first, Finished) and isinstance(second, Finished)
    assert [(each.run_id, each.result.state) for each in (first, second)] == [
        ("0000-1", "cancelled"), ("0000-0", "complete"),
    ]  # fmt: skip
    assert launcher.worker_seconds == second.result.total_seconds
    assert launcher.next_event(0.0) is None


def test_a_night_that_stops_first_runs_half_way_has_the_same_runs_in_less_time() -> None:
    whole, cut = (
        night.simulate(Valley(), RandomProposer(), 5, 80, 1, by) for by in (night.SimulatedLauncher, Stopping)
    )
    assert [standing.runs for standing in cut] == [standing.runs for standing in whole]
    assert 0.5 * whole[-1].worker_seconds < cut[-1].worker_seconds < whole[-1].worker_seconds
    assert truth(cut[-1].recipe) < truth(PRESET.recipe)


def test_on_recorded_curves_few_of_the_better_runs_are_stopped_and_most_of_the_others() -> None:
    found = standings(recorded(), PRESET.settings.decision)
    better = sum(each.better_stopped for each in found) / sum(each.better for each in found)
    others = sum(each.others_stopped for each in found) / sum(each.others for each in found)
    assert len(found) > 100 and better < 0.05 and others > 0.8
    assert sum(each.saved for each in found) / len(found) > 0.25


def test_a_night_on_paper_makes_the_commits_that_git_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    def commits(repository: type[Workspace]) -> list[tuple[str | None, str | None]]:
        found: list[tuple[str | None, str | None]] = []

        class Watched(RandomProposer):
            def propose(self, history: Any) -> Any:
                found[:] = [(trial.commit, trial.merge_commit) for trial in history.trials]
                return super().propose(history)

        monkeypatch.setattr(night, "PaperRepository", repository)
        proposer: Proposer = Watched()
        night.simulate(Valley(), proposer, 5, 160, 1)
        return found

    on_paper, in_git = commits(night.PaperRepository), commits(Workspace)
    assert on_paper == in_git
    assert any(merge for _, merge in in_git)


@pytest.mark.parametrize("method", [at_random, tpe, joint_tpe, cma_es, gaussian_process, racing])
def test_each_search_without_a_loop_spends_its_runs_on_recipes_that_are_allowed(method: Search) -> None:
    asked: list[Mapping[str, Value]] = []

    class Watched(Valley):
        def run(self, recipe: Mapping[str, Value], seed: int, night: int) -> RunResult:
            asked.append(recipe)
            return super().run(recipe, seed, night)

    first, again = (search(method, SPACE, Watched(), 3, 40) for _ in range(2))
    assert first == again and len(first) == 40 and len(asked) == 80
    assert all(SPACE.allows(recipe) for recipe in asked)
    assert asked[0] == PRESET.recipe and truth(first[-1].recipe) < truth(PRESET.recipe)


def test_neighbours_are_a_parent_with_some_knobs_moved_to_values_of_the_menu() -> None:
    parents = [SPACE.baseline, SPACE.draw(random.Random(1))]
    points = np.array([SPACE.point(parent) for parent in parents])
    found, again = (SPACE.neighbours(points, 200, 2, np.random.default_rng(0)) for _ in range(2))
    assert found.shape == (200, len(SPACE.knobs)) and (found == again).all()
    recipes = [SPACE.recipe(point) for point in found]
    assert np.allclose([SPACE.point(recipe) for recipe in recipes], found, atol=1e-3)
    moved = [min(sum(recipe[name] != one[name] for name in SPACE.knobs) for one in parents) for recipe in recipes]
    assert set(moved) == {0, 1, 2}, "a move may end where it began"
    assert len({recipe_key(recipe) for recipe in recipes}) > 150
    turned = {name for recipe in recipes for name in SPACE.knobs if recipe[name] not in [one[name] for one in parents]}
    assert turned == {name for name, knob in SPACE.knobs.items() if len(knob.choices) != 2}


def test_a_space_travels_to_another_process() -> None:
    SPACE.point(SPACE.baseline)  # what is worked out on the way stays behind
    assert pickle.loads(pickle.dumps(SPACE)).point(SPACE.baseline) == SPACE.point(SPACE.baseline)


def test_a_recipes_place_in_the_cube_leads_back_to_it() -> None:
    rng = random.Random(0)
    for _ in range(20):
        recipe = SPACE.draw(rng)
        back = SPACE.recipe(SPACE.point(recipe))
        assert {name: back[name] for name, knob in SPACE.knobs.items() if knob.choices or knob.type == "int"} == {
            name: recipe[name] for name, knob in SPACE.knobs.items() if knob.choices or knob.type == "int"
        }
        floats = [name for name, knob in SPACE.knobs.items() if knob.type == "float"]
        assert [back[name] for name in floats] == pytest.approx([recipe[name] for name in floats], rel=1e-3, abs=1e-3)
