"""Every knob of the menu is tried within sixty trials, whoever proposes; and by the night itself only where it must."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from histories import MENU, baseline, history, past_trial
from search.night import simulate_in
from studies import change, make_study

from autoresearch.night.coverage import TRIED_BY, cover
from autoresearch.proposers import Proposer
from autoresearch.proposers.bayes import BayesProposer
from autoresearch.proposers.classic import RandomProposer, ScriptedProposer
from autoresearch.proposers.known import untouched
from autoresearch.proposers.tpe import TpeProposer
from autoresearch.trial import APART, COVERAGE, History, Recipe, Trial
from rails import Menu, Value, load_menu
from trainer.protocol import RunResult

PRESET = Path(__file__).parents[3] / "autoresearch" / "presets" / "cpu-nano" / "menu.toml"


class OneKnobMatters:
    """Stands for the trainer: the learning rate alone makes a difference, and luck."""

    def run(self, recipe: Mapping[str, Value], seed: int, night: int) -> RunResult:
        luck = random.Random(f"{night}/{seed}/{sorted(recipe.items())}").gauss(0, 0.005)
        score = 2.5 + 0.1 * abs(math.log(float(recipe["lr"]) / 0.004)) + luck
        return RunResult("run", seed, "complete", val_bpb=score, test_bpb=score, total_seconds=10.0)


def always_lr() -> Proposer:
    return ScriptedProposer([change("lr", n / 100_000) for n in range(110, 310)])


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("proposer", [RandomProposer, BayesProposer, TpeProposer, always_lr])
def test_every_knob_is_tried_by_trial_sixty_and_no_recipe_twice(
    tmp_path: Path, proposer: Callable[[], Proposer], workers: int
) -> None:
    folder = make_study(tmp_path, seed=3)
    simulate_in(folder, OneKnobMatters(), proposer(), 3, 110, workers)
    trials = folder.store.trials()
    folder.store.close()
    assert len(trials) > TRIED_BY
    assert untouched(folder.menu, trials[: TRIED_BY + 1]) == []
    keys = [trial.recipe_key for trial in trials if trial.state != "blocked"]
    assert len(keys) == len(set(keys))


def test_the_night_turns_what_a_proposer_of_one_knob_leaves_out_every_other_trial_at_the_end(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    simulate_in(folder, OneKnobMatters(), always_lr(), 0, 110, 1)
    own = [trial for trial in folder.store.trials() if trial.proposer == COVERAGE]
    folder.store.close()
    assert sorted(knob for trial in own for knob in trial.changes) == sorted(MENU.knobs.keys() - {"lr"})
    numbers = [trial.number for trial in own]
    assert min(numbers) == TRIED_BY - 2 * len(own) and max(numbers) <= TRIED_BY
    assert all(trial.state == "complete" and len(trial.changes) == 1 for trial in own)
    assert min(later - one for one, later in pairwise(numbers)) >= 2


def before(trials: list[Trial], seed: int = 0, menu: Menu = MENU) -> History:
    return replace(history(trials, seed, menu), number=len(trials))


def others(n: int, **more: object) -> list[Trial]:
    """The baseline and so many trials of the learning rate."""
    return [baseline(), *(past_trial(number, "lr", number / 10_000, 0.0, **more) for number in range(1, n + 1))]


def proposed(known: History) -> dict[str, Value]:
    proposal = cover(known)
    assert proposal is not None and proposal.proposer == COVERAGE
    told = json.loads(proposal.raw)
    return {told["knob"]: told["new_value"]}


def test_it_waits_as_long_as_there_is_time() -> None:
    left = len(MENU.knobs) - 1
    first = TRIED_BY - 2 * left
    assert cover(before(others(first - 2))) is None and cover(before(others(first - 1))) is not None
    (knob,) = proposed(before(others(first - 1)))
    assert knob != "lr"


def test_the_same_trajectory_and_seed_give_the_same_change_and_another_trial_another() -> None:
    drawn = [proposed(before(others(n), seed)) for n, seed in ((40, 0), (40, 0), (40, 1))]
    assert drawn[0] == drawn[1] and drawn[0] != drawn[2]
    assert len({str(proposed(before(others(n)))) for n in range(36, 50)}) > 5


def test_after_one_of_its_own_the_proposers_turn_comes() -> None:
    trials = [*others(35), past_trial(36, "d_ff", 768, 0.0, proposer=COVERAGE)]
    assert cover(before(trials)) is None
    assert cover(before([*trials, past_trial(37, "lr", 0.0037, 0.0)])) is not None
    late = [*others(99), past_trial(100, "d_ff", 768, 0.0, proposer=COVERAGE)]
    assert cover(before(late)) is None, "also in a study that has long had more trials than that"


def test_a_knob_is_not_tried_by_a_trial_that_was_blocked() -> None:
    seen = [knob for knob in MENU.knobs if knob not in ("lr", "beta1")]
    trials = others(56)
    trials[1] = replace(trials[1], changes=dict.fromkeys(seen, 1))
    trials[2] = replace(trials[2], changes={"beta1": 0.8}, state="blocked")
    assert cover(before(trials)) is None, "one knob is left: three trials from the end"
    trials.append(past_trial(57, "lr", 0.0057, 0.0))
    assert list(proposed(before(trials))) == ["beta1"]


def fixed(knob: str, value: object) -> Menu:
    """The preset's menu, with a constraint that no other value of a knob meets."""
    return load_menu(PRESET.read_text() + f'\n[[constraints]]\nexpr = "{knob} == {value}"\ndoc = "as it is"\n')


def test_a_knob_that_no_change_of_its_own_gets_past_the_rails_is_left_out() -> None:
    menu = fixed("n_layer", 4)
    drawn = {knob for n in range(36, 59) for knob in proposed(before(others(n), menu=menu))}
    assert "n_layer" not in drawn and len(drawn) > 5
    rest: Recipe = dict.fromkeys([knob for knob in menu.knobs if knob not in ("lr", "n_layer")], 1)
    trials = others(58)
    trials[1] = replace(trials[1], changes=rest)
    assert untouched(menu, trials) == ["n_layer"] and cover(before(trials, menu=menu)) is None


@pytest.mark.parametrize("taken", [range(1, 61, 3), range(2, 61, 5), range(46, 54), range(60, 61)])
def test_where_ideas_and_what_is_put_back_take_its_trials_it_catches_up(taken: range) -> None:
    trials = [baseline()]
    for number in range(1, TRIED_BY + 1):
        found = None if number in taken else cover(before(trials))
        trial = past_trial(number, "lr", number / 10_000, 0.0, proposer=APART if number in taken else "llm")
        if found:
            told = json.loads(found.raw)
            trial = past_trial(number, told["knob"], told["new_value"], 0.0, proposer=COVERAGE)
        trials.append(trial)
    assert untouched(MENU, trials) == []


def test_a_menu_too_long_for_every_other_trial_leaves_the_first_half_to_the_proposer_too() -> None:
    menu = replace(MENU, knobs={f"{name}{n}": knob for n in range(4) for name, knob in MENU.knobs.items()})
    own = past_trial(1, "lr", 0.002, 0.0, proposer=COVERAGE)
    assert len(menu.knobs) > TRIED_BY // 2 and cover(before([baseline(), own], menu=menu)) is None
