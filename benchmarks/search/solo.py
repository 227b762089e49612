"""Searches without a study loop: one run a recipe (racing: more), and whatever looked best is handed over."""

from __future__ import annotations

import random
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import optuna

from autoresearch.proposers.space import Space
from autoresearch.trial import Recipe
from rails import Knob, Value, recipe_key

from .night import Standing, World

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

# Racing (after irace, Lopez-Ibanez 2016): so many recipes start a race, so many survive it at least.
RACERS, ELITES = 12, 3
FIRST_LOOK, MOST_SEEDS = 2, 8
WORSE_BY = 1.7  # standard errors of the paired difference to the leader


@dataclass
class Ledger:
    """The runs of one night, and what is handed over after each."""

    world: World
    night: int
    runs: int
    scores: dict[str, list[float]] = field(default_factory=dict)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    standings: list[Standing] = field(default_factory=list)
    _seconds: float = 0.0

    @property
    def is_over(self) -> bool:
        return len(self.standings) >= self.runs

    def run(self, recipe: Recipe, seed: int, hand_over: Callable[[], Recipe] | None = None) -> float | None:
        """Its val_bpb; None where it failed."""
        result = self.world.run(recipe, seed, self.night)
        self._seconds += result.total_seconds or 0.0
        key = recipe_key(recipe)
        self.recipes.setdefault(key, recipe)
        if result.val_bpb is not None:
            self.scores.setdefault(key, []).append(result.val_bpb)
        best = (hand_over or self.lowest)()
        of_best = self.scores.get(recipe_key(best))
        told = statistics.fmean(of_best) if of_best else None
        self.standings.append(Standing(len(self.standings) + 1, self._seconds, best, told))
        return result.val_bpb

    def lowest(self) -> Recipe:
        """Of the recipes seen, that with the lowest mean; the first of all where none has come to an end."""
        if not self.scores:
            return next(iter(self.recipes.values()))
        return self.recipes[min(self.scores, key=lambda key: statistics.fmean(self.scores[key]))]


class Search(Protocol):
    """One kind of search, for one night."""

    def __call__(self, space: Space, ledger: Ledger) -> None:
        """Runs recipes until the ledger is over; the baseline has been run."""


def search(method: Search, space: Space, world: World, night: int, runs: int) -> list[Standing]:
    """What stands after each run of one night, the baseline's being the first."""
    ledger = Ledger(world, night, runs)
    ledger.run(space.baseline, night)
    method(space, ledger)
    return ledger.standings[:runs]


def at_random(space: Space, ledger: Ledger) -> None:
    """Whole recipes, evenly from the menu."""
    rng = random.Random(f"random/{ledger.night}")
    while not ledger.is_over:
        ledger.run(space.draw(rng), ledger.night)


def tpe(space: Space, ledger: Ledger) -> None:
    """Optuna's, each knob by itself."""
    _optuna(space, ledger, optuna.samplers.TPESampler(seed=ledger.night, multivariate=False))


def joint_tpe(space: Space, ledger: Ledger) -> None:
    """Optuna's, knobs together."""
    _optuna(space, ledger, optuna.samplers.TPESampler(seed=ledger.night, multivariate=True))


def cma_es(space: Space, ledger: Ledger) -> None:
    """Optuna's with margin for whole numbers; choices by their order."""
    _optuna(space, ledger, optuna.samplers.CmaEsSampler(seed=ledger.night, with_margin=True))


def racing(space: Space, ledger: Ledger) -> None:
    """Elites and their neighbours race over shared seeds; who is clearly behind the leader is out."""
    rng = random.Random(f"racing/{ledger.night}")
    scores: dict[str, dict[int, float | None]] = {}
    elites = [space.baseline]

    def leader() -> Recipe:
        return elites[0]

    while not ledger.is_over:
        racers = list(elites)
        while len(racers) < RACERS:
            parent = None if rng.random() < 0.25 else rng.choice(elites)
            racers.append((parent and space.near(parent, rng.randint(1, 3), rng)) or space.draw(rng))
        for seed in range(MOST_SEEDS):
            for racer in racers:
                known = scores.setdefault(recipe_key(racer), {})
                if seed not in known and not ledger.is_over:
                    known[seed] = ledger.run(racer, 1000 * ledger.night + seed, leader)
            if ledger.is_over:
                return
            racers = _survivors(racers, scores, seed + 1)
            if len(racers) <= ELITES and seed + 1 >= FIRST_LOOK:
                break
        elites = racers[:ELITES]


def _survivors(racers: list[Recipe], scores: dict[str, dict[int, float | None]], seeds: int) -> list[Recipe]:
    """Best first, without those that failed or are clearly behind the best."""
    runs = {
        recipe_key(racer): (racer, [score for score in list(scores[recipe_key(racer)].values())[:seeds]])
        for racer in racers
    }
    whole = {key: (racer, [v for v in values if v is not None]) for key, (racer, values) in runs.items()
             if None not in values}  # fmt: skip
    order = sorted(whole, key=lambda key: statistics.fmean(whole[key][1]))
    best = whole[order[0]][1]
    stay = []
    for key in order:
        racer, values = whole[key]
        gaps = [mine - its for mine, its in zip(values, best, strict=True)]
        if seeds < FIRST_LOOK or statistics.fmean(gaps) <= WORSE_BY * statistics.stdev(gaps) / seeds**0.5:
            stay.append(racer)
    return stay


def _optuna(space: Space, ledger: Ledger, sampler: optuna.samplers.BaseSampler) -> None:
    study = optuna.create_study(sampler=sampler)
    distributions = {name: _distribution(knob) for name, knob in space.knobs.items()}
    study.add_trial(
        optuna.trial.create_trial(
            params={name: _coordinate(knob, space.baseline[name]) for name, knob in space.knobs.items()},
            distributions=distributions,
            value=ledger.scores[recipe_key(space.baseline)][0],
        )
    )
    while not ledger.is_over:
        asked = study.ask(distributions)
        recipe = {name: _value(knob, asked.params[name]) for name, knob in space.knobs.items()}
        score = ledger.run(recipe, ledger.night) if space.allows(recipe) else None
        if score is None:
            # Not allowed, or failed. Pruned trials rank behind all complete ones; FAIL would be passed over in silence.
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(asked, score)


def _distribution(knob: Knob) -> optuna.distributions.BaseDistribution:
    if knob.choices:
        # Numbers in their order, words too where there are two: an index says as much and more.
        return optuna.distributions.IntDistribution(0, len(knob.choices) - 1)
    assert knob.low is not None and knob.high is not None
    if knob.type == "int":
        return optuna.distributions.IntDistribution(int(knob.low), int(knob.high), log=knob.scale == "log")
    return optuna.distributions.FloatDistribution(knob.low, knob.high, log=knob.scale == "log")


def _coordinate(knob: Knob, value: Value) -> Value:
    return knob.choices.index(value) if knob.choices else value


def _value(knob: Knob, coordinate: Value) -> Value:
    return knob.choices[int(coordinate)] if knob.choices else coordinate
