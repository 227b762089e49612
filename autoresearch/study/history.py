"""What a proposer knew at trial N: for the next trial, or rebuilt for any trial there was, whoever proposed it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from autoresearch import words
from autoresearch.decide import Runs, pool_noise
from autoresearch.errors import UserError
from autoresearch.metric import Metric
from autoresearch.proposers.lessons import standing
from autoresearch.proposers.prompt import whole_prompt
from autoresearch.study.folder import StudyFolder
from autoresearch.study.store.terms import limits_of
from autoresearch.trial import History, Trial
from autoresearch.workers.machine import Machine
from rails import Limits, Measurement


def now(folder: StudyFolder, machine: Machine, parent: int) -> History:
    """For the trial that is to be proposed next, which changes the recipe of trial `parent`."""
    store, settings = folder.store, folder.settings
    shared_bytes = machine.run_cap(settings)
    limits = Limits(
        budget=settings.whole_budget,
        memory_bytes=settings.limits.memory_bytes or shared_bytes or machine.memory_bytes,
        run_seconds=settings.limits.run_seconds,
        vocab_size=folder.vocab_size,
        precisions=None if settings.trainer else machine.precisions,
        measurements=[Measurement(*measured) for measured in store.measurements_now()],
        device=machine.kind,
    )
    tick = store.next_moment()
    return _history(folder, store.trials_now(), parent, limits, folder.noise().deviation, store.scores_now(), tick)


def at(folder: StudyFolder, number: int) -> History:
    """As it was when the proposer of trial `number` was asked: what came of the trials in flight is not in it.

    Where the study does not tell its limits and deviation of then (an import, or a study from before they were kept)
    they are those of study.toml as far as it knows. Raises UserError for a trial that nobody proposed.
    """
    store = folder.store
    trial, proposal = store.trial(number), store.proposal(number)
    if trial is None or trial.parent is None:
        raise UserError(f"study {folder.name} has no proposed trial {number}: they are 1 to {len(store.trials()) - 1}")
    tick = (proposal and proposal["asked_tick"]) or store.opened_tick(number)
    asked_on: int | None = proposal["asked_on"] if proposal else None
    measurements = [Measurement(*measured) for measured in store.measurements(tick)]
    limits_then, deviation = (proposal["limits"], proposal["deviation"]) if proposal else (None, None)
    limits = limits_of(limits_then, measurements) if limits_then else _limits_of_settings(folder, measurements)
    scores = store.scores(tick)
    if deviation is None and not store.study()["source"]:
        deviation = pool_noise(scores.values(), folder.settings.decision).deviation
    parent = trial.parent if asked_on is None else asked_on
    return _history(folder, store.trials_then(tick), parent, limits, deviation, scores, tick)


def prompt_at(folder: StudyFolder, number: int) -> str:
    """What a model was asked for trial `number`, or would have been asked had its proposer been one."""
    proposal = folder.store.proposal(number)
    return (proposal and proposal["prompt"]) or whole_prompt(at(folder, number))


def _history(
    folder: StudyFolder,
    trials: Sequence[Trial],
    parent: int,
    limits: Limits,
    deviation: float | None,
    scores: Mapping[int, Runs],
    tick: int,
) -> History:
    return History(
        number=len(trials),
        seed=folder.settings.seed,
        menu=folder.menu,
        recipe=trials[parent].recipe,
        trials=trials,
        tried=_Tried(trials, folder.metric),
        limits=limits,
        deviation=deviation,
        scores=scores,
        parent=parent,
        tick=tick,
        lessons=standing(folder.store.lessons(len(trials)), trials, folder.menu),
        reflected=folder.store.reflected(len(trials)),
        metric=folder.metric,
    )


class _Tried(Mapping[str, str]):
    """recipe_key -> what came of the first trial with that recipe; put into words when it is asked for, since each
    proposal asks for one of thousands."""

    def __init__(self, trials: Sequence[Trial], metric: Metric) -> None:
        self._first = {trial.recipe_key: trial for trial in reversed(trials) if trial.recipe_key}
        self._metric = metric

    def __getitem__(self, key: str) -> str:
        trial = self._first[key]
        return words.tried(trial.number, trial.state, trial.decision, trial.val_bpb, self._metric)

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)


def _limits_of_settings(folder: StudyFolder, measurements: Sequence[Measurement]) -> Limits:
    """What cannot have changed since the study's first run; the machine of then is not known."""
    study, settings = folder.store.study(), folder.settings
    if not study["source"]:
        return Limits(settings.whole_budget, vocab_size=folder.vocab_size, measurements=measurements)
    return Limits(settings.whole_budget if json.loads(study["source"])["budget_known"] else None)
