"""Proposers without a language model: random search over the menu and Optuna's tree-structured Parzen estimator."""

from __future__ import annotations

import json
import random
import warnings
from copy import copy
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from autoresearch.proposers.proposer import NothingLeft
from autoresearch.proposers.space import readable, value_at
from autoresearch.trial import History, Proposal, Trial, Value
from rails import Knob, RailsError, gate

if TYPE_CHECKING:
    import optuna

# A draw that the rails would block is drawn again, this often; then it goes to them as it is.
DRAWS = 64
TPE_DRAWS = 4


class RandomProposer:
    """One knob, one value, both drawn evenly (on the knob's scale); repeatable from the study's seed."""

    name = "random"

    def propose(self, history: History) -> Proposal:
        rng = random.Random(f"{history.seed}/{history.number}")
        raw = ""
        for _ in range(DRAWS):
            knob = history.menu.knobs[rng.choice(list(history.menu.knobs))]
            raw = _answer(knob.name, _draw(knob, rng), "Drawn at random from the menu.")
            if _is_allowed(raw, history):
                break
        return Proposal(raw=raw, proposer=self.name)


class TpeProposer:
    """Optuna's TPE over (knob, its value), taught by the improvement of every earlier trial over its parent.

    The state is rebuilt from the trajectory each time, so that any process at any time proposes the same; trials in
    flight count as running (constant liar), failed ones as worse than any that finished.
    """

    name = "tpe"

    def propose(self, history: History) -> Proposal:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=hash_seed(history), n_startup_trials=2 * len(history.menu.knobs) // 3, constant_liar=True
            )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        taught = [lesson for trial in history.trials if (lesson := _lesson(trial, history)) is not None]
        study.add_trials(taught)
        for _ in range(TPE_DRAWS):
            trial = study.ask()
            knob = history.menu.knobs[trial.suggest_categorical("knob", list(history.menu.knobs))]
            value = _suggest(knob, trial)
            raw = _answer(knob.name, value, f"TPE's choice after {len(taught)} earlier trials.")
            if _is_allowed(raw, history):
                return Proposal(raw=raw, proposer=self.name)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)  # counts as worse, so it looks elsewhere
        return Proposal(raw=RandomProposer().propose(history).raw, proposer=self.name)


class ScriptedProposer:
    """Answers trial N with the Nth of the given texts; for tests and demonstrations."""

    name = "scripted"

    def __init__(self, answers: list[str]) -> None:
        self.answers = answers

    def propose(self, history: History) -> Proposal:
        if history.number > len(self.answers):
            raise NothingLeft("the script has no more answers")
        return Proposal(raw=self.answers[history.number - 1], proposer=self.name)


def hash_seed(history: History) -> int:
    """A seed for this study and trial number, the same in every process."""
    return random.Random(f"{history.seed}/{history.number}").getrandbits(31)


def _answer(knob: str, value: Value, reason: str) -> str:
    return json.dumps({"knob": knob, "new_value": value, "reason": reason})


def _is_allowed(raw: str, history: History) -> bool:
    return gate(raw, history.recipe, history.menu, history.tried, history.limits).passed


def _draw(knob: Knob, rng: random.Random) -> Value:
    return rng.choice(list(knob.choices)) if knob.choices else value_at(knob, rng.random())


def _suggest(knob: Knob, trial: optuna.Trial) -> Value:
    if knob.choices:
        # Optuna types a choice as possibly None; a knob has no such choice.
        chosen: Value = trial.suggest_categorical(knob.name, list(knob.choices))  # type: ignore[assignment]
        return chosen
    assert knob.low is not None and knob.high is not None
    if knob.type == "int":
        return trial.suggest_int(knob.name, int(knob.low), int(knob.high), log=knob.scale == "log")
    return readable(knob, trial.suggest_float(knob.name, knob.low, knob.high, log=knob.scale == "log"))


def _distribution(knob: Knob, optuna: Any) -> Any:
    distributions = optuna.distributions
    if knob.choices:
        return distributions.CategoricalDistribution(list(knob.choices))
    kind = distributions.IntDistribution if knob.type == "int" else distributions.FloatDistribution
    return kind(knob.low, knob.high, log=knob.scale == "log")


def _lesson(trial: Trial, history: History) -> optuna.trial.FrozenTrial | None:
    """What an earlier trial teaches about its knob; None where it changed nothing that the menu has, was never run, or
    was compared with nothing."""
    if len(trial.changes) != 1 or trial.state in ("proposed", "blocked", "abandoned"):
        return None
    ((name, value),) = trial.changes.items()
    if name not in history.menu.knobs:
        return None
    try:
        value = history.menu.knobs[name].admit(value)
    except RailsError:  # an imported trial
        return None
    if trial.state == "complete" and trial.improvement is None:
        return None
    state = {"complete": "COMPLETE", "running": "RUNNING"}.get(trial.state, "PRUNED")
    return _taught(tuple(history.menu.knobs), history.menu.knobs[name], value, state, trial.improvement)


@lru_cache(maxsize=2**12)
def _taught(
    names: tuple[str, ...], knob: Knob, value: Value, state: str, improvement: float | None
) -> optuna.trial.FrozenTrial:
    import optuna

    class Lesson(optuna.trial.FrozenTrial):
        """Never changes. Optuna copies what it is given to the last distribution, which takes longer than sampling."""

        def __deepcopy__(self, _: object) -> Lesson:
            return copy(self)

    moment = datetime.fromtimestamp(0)
    return Lesson(
        number=-1,
        trial_id=-1,
        state=optuna.trial.TrialState[state],
        value=improvement if state == "COMPLETE" else None,
        datetime_start=moment,
        datetime_complete=None if state == "RUNNING" else moment,
        params={"knob": knob.name, knob.name: value},
        distributions={
            "knob": optuna.distributions.CategoricalDistribution(list(names)),
            knob.name: _distribution(knob, optuna),
        },
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )
