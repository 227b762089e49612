"""The verdict on a search: random nights are seldom spoken against, stuck ones nearly always."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from histories import LIMITS, MENU, past_trial

from autoresearch.evidence.exploration import Memory, few_knobs_by_chance, judge
from autoresearch.evidence.meters import meters_of
from autoresearch.exchange import import_study
from autoresearch.proposers.classic import RandomProposer
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import History, Value
from rails import gate, recipe_key


class Proposed(NamedTuple):
    changes: dict[str, Value]
    state: str
    kept: bool = False


Night = list[Proposed]


def random_night(seed: int, trials: int, *, keep: float = 0.08, fail: float = 0.02) -> Night:
    """The shipped random proposer over the cpu-nano menu; what is kept, and what fails, is drawn."""
    rng, recipe, night = random.Random(seed), MENU.defaults(), Night()
    tried = {recipe_key(recipe): "trial 0"}
    for number in range(1, trials + 1):
        raw = RandomProposer().propose(History(number, seed, MENU, recipe, [], tried, LIMITS)).raw
        verdict, drawn = gate(raw, recipe, MENU, tried, LIMITS), rng.random()
        state = "blocked" if not verdict.passed else "failed" if drawn < fail else "complete"
        changed = {**recipe, **verdict.changes}
        tried[recipe_key(changed)] = f"trial {number}"
        night.append(Proposed(verdict.changes, state, state == "complete" and drawn < fail + keep))
        recipe = changed if night[-1].kept else recipe
    return night


def verdict_on(night: Night) -> str:
    memory = Memory(MENU)
    asked = [memory.add(frozenset((knob, str(value)) for knob, value in each.changes.items())) for each in night]
    trials = [
        past_trial(number, "lr", 0.01, None, changes=each.changes, state=each.state)
        for number, each in enumerate(night, 1)
    ]
    return judge(trials, asked, MENU)[0]


def verdicts_on(nights: Iterator[Night]) -> list[str]:
    return [verdict_on(night) for night in nights]


def imported(home: Path, night: Night) -> StudyFolder:
    """A study of it on disk, as another's loop would have written it down."""
    lines: list[dict[str, object]] = [
        {"_meta": "trajectory", "baseline_val_bpb": 2.8, "baseline_cfg": MENU.defaults(), "accept_delta_frac": 0.005}
    ]
    for number, each in enumerate(night, 1):
        ((knob, value),) = each.changes.items()
        lines.append(
            {
                "iter": number, "stage": "evaluated", "verdict_ok": True, "val_bpb": 2.8 + 1e-4 * number,
                "proposal": {"knob": knob, "new_value": value, "reason": "because"},
                "decision": "keep" if each.kept else "revert",
            }
        )  # fmt: skip
    path = home / "night.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return import_study(home / "home", "night", path, "jsonl")


def test_a_random_night_with_a_few_keeps_is_no_narrow_one(tmp_path: Path) -> None:
    # Its menu is finite: after 100 trials a change drawn at random has most often been drawn before, on another recipe.
    meters = meters_of(imported(tmp_path, random_night(1, 100, fail=0.0)))
    assert meters.windows[-1].repeat_rate >= 0.3 and meters.knobs_touched == 13
    assert meters.verdict == "researching", meters.why


def test_a_night_that_only_wiggles_at_four_knobs_is_narrowing(tmp_path: Path) -> None:
    knobs = ("beta1", "beta2", "grad_clip", "lr_warmup")
    values = ((knobs[i % 4], 10 + i if i % 4 == 3 else 0.85 + 0.002 * i) for i in range(24))
    night = [Proposed({knob: value}, "complete") for knob, value in values]
    meters = meters_of(imported(tmp_path, night))
    assert meters.repeats == 0 and meters.verdict == "narrowing" and "turned 4 of 13 knobs" in meters.why


@pytest.mark.parametrize("fail", [0.02, 0.2])
@pytest.mark.parametrize("keep", [0.0, 0.15])
def test_of_random_nights_at_most_one_in_twenty_is_spoken_against(keep: float, fail: float) -> None:
    lengths = [10, 10, 15, 20, 20, 30, 40, 60, 100, 150] * 5
    said = verdicts_on(random_night(seed, trials, keep=keep, fail=fail) for seed, trials in enumerate(lengths))
    assert sum(verdict != "researching" for verdict in said) <= 0.05 * len(said)


def again_and_again(rng: random.Random) -> Night:
    """Forty trials of research, then six changes in turns."""
    night, few = random_night(rng.randrange(10**6), 40), random_night(rng.randrange(10**6), 6)
    return night + [Proposed(rng.choice(few).changes, "complete") for _ in range(20)]


def mostly_blocked(rng: random.Random) -> Night:
    """Of the last twenty two thirds, as a model that no longer answers in JSON."""
    night = random_night(rng.randrange(10**6), 80)
    return night[:-20] + [each if rng.random() < 1 / 3 else Proposed({}, "blocked") for each in night[-20:]]


def few_knobs(rng: random.Random) -> Night:
    """Ever other values of five knobs, after forty trials of research."""
    knobs = rng.sample(["lr", "grad_clip", "weight_decay", "beta1", "beta2", "lr_warmup"], 5)
    night = random_night(rng.randrange(10**6), 40)
    return night + [Proposed({rng.choice(knobs): rng.random()}, "complete") for _ in range(20)]


@pytest.mark.parametrize(
    ("stuck", "said"), [(again_and_again, "flailing"), (mostly_blocked, "flailing"), (few_knobs, "narrowing")]
)
def test_a_stuck_night_is_called_so_in_four_of_five(stuck: Callable[[random.Random], Night], said: str) -> None:
    rng = random.Random(0)
    found = verdicts_on(stuck(rng) for _ in range(30))
    assert found.count(said) >= 24 and found.count("researching") <= 3, found


def test_the_chance_of_few_knobs_is_that_of_even_draws() -> None:
    rng = random.Random(0)
    for knobs, draws, turned in ((13, 20, 8), (6, 10, 4), (2, 10, 1)):
        seen = sum(len({rng.randrange(knobs) for _ in range(draws)}) <= turned for _ in range(4000)) / 4000
        assert few_knobs_by_chance(turned, draws, knobs) == pytest.approx(seen, abs=0.02)
    assert few_knobs_by_chance(1, 10, 2) == pytest.approx(2 * 0.5**10)
    assert few_knobs_by_chance(3, 20, 3) == few_knobs_by_chance(0, 0, 0) == 1.0
