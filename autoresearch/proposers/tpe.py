"""Optuna's tree-structured Parzen estimator over whole recipes, taught by every run of every trial."""

from __future__ import annotations

import random
import warnings
from copy import copy
from datetime import datetime
from functools import lru_cache
from typing import Any

import optuna

from autoresearch import words
from autoresearch.proposers.known import Known, Places, answer, moved, passes, standing, start
from autoresearch.proposers.space import Space
from autoresearch.trial import History, Proposal, Recipe
from rails import Knob

MOST_LEARNED = 60  # recipes; by benchmarks/search, where its nights end the worse the more it remembers
DRAWS = 4  # of a recipe that the rails would block
EPOCH = datetime.fromtimestamp(0)
optuna.logging.set_verbosity(optuna.logging.WARNING)


class TpeProposer:
    """Knobs together, choices by their order; a suggestion becomes as many changes of the incumbent as are allowed.

    The state is rebuilt from the trajectory each time, so that any process at any time proposes the same; trials in
    flight count as running (constant liar), failed ones as worse than any that finished.
    """

    name = "tpe"

    def __init__(self) -> None:
        self._places = Places()

    def propose(self, history: History) -> Proposal:
        space = Space(history.menu, history.limits)
        stands, known = standing(history), Known.of(history, space, self._places, MOST_LEARNED)
        rng = random.Random(f"tpe/{history.seed}/{history.number}")
        if known.is_too_little(space):
            return start(history, space, stands, rng, self.name)
        knobs = tuple(space.knobs.items())
        study = _study(rng.getrandbits(31))
        for point, score in zip(known.points, known.scores, strict=True):
            study.add_trial(_taught(knobs, tuple(point), "COMPLETE", score))
        for state, points in (("PRUNED", known.failed + known.stopped), ("RUNNING", known.in_flight)):
            study.add_trials([_taught(knobs, tuple(point), state, None) for point in points])
        for _ in range(DRAWS):
            asked = study.ask(dict(_distributions(knobs)))
            shares = [_share(knob, asked.params[name]) for name, knob in knobs]
            candidate = _within(stands, moved(space, stands, shares), history.menu.max_changes, rng)
            raw = answer(stands, candidate, f"TPE's choice after {words.count(known.ended, 'recipe')}.")
            if passes(raw, history):
                return Proposal(raw=raw, proposer=self.name)
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)  # counts as worse, so it looks elsewhere
        return start(history, space, stands, rng, self.name)


def _study(seed: int) -> optuna.Study:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, constant_liar=True, multivariate=True)
    return optuna.create_study(sampler=sampler)


def _within(stands: Recipe, wanted: Recipe, most: int, rng: random.Random) -> Recipe:
    """What stands with some of the changes, where there are more than the study allows at once."""
    changed = [name for name, value in wanted.items() if value != stands[name]]
    taken = changed if len(changed) <= most else rng.sample(changed, most)
    return {name: wanted[name] if name in taken else value for name, value in stands.items()}


Knobs = tuple[tuple[str, Knob], ...]


@lru_cache(maxsize=8)
def _distributions(knobs: Knobs) -> dict[str, optuna.distributions.BaseDistribution]:
    """A choice's place, or a share of the range."""
    return {
        name: optuna.distributions.IntDistribution(0, len(knob.choices) - 1)
        if knob.choices
        else optuna.distributions.FloatDistribution(0, 1)
        for name, knob in knobs
    }


def _share(knob: Knob, parameter: float) -> float:
    return (parameter + 0.5) / len(knob.choices) if knob.choices else parameter


def _parameter(knob: Knob, share: float) -> float:
    return int(share * len(knob.choices)) if knob.choices else share


class _Lesson(optuna.trial.FrozenTrial):
    """Never changes. Optuna copies what it is given to the last distribution, which takes longer than sampling."""

    def __deepcopy__(self, _: object) -> _Lesson:
        return copy(self)


@lru_cache(maxsize=2**12)
def _taught(knobs: Knobs, point: tuple[float, ...], state: str, score: float | None) -> _Lesson:
    fields: dict[str, Any] = {
        "params": {name: _parameter(knob, share) for (name, knob), share in zip(knobs, point, strict=True)},
        "distributions": _distributions(knobs),
    }
    return _Lesson(
        number=-1,
        trial_id=-1,
        state=optuna.trial.TrialState[state],
        value=score,
        datetime_start=EPOCH,
        datetime_complete=None if state == "RUNNING" else EPOCH,
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        **fields,
    )
