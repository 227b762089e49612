"""Which seeds runs take: shared ones make pairs, fresh ones bring luck that nobody has chosen by."""

from __future__ import annotations

from autoresearch.study.store import Store
from autoresearch.trial import Trial


def of_baseline(store: Store, count: int) -> range:
    """In a study that was begun from another one they are above all that was used there: its luck stays there."""
    first = int(store.study()["first_seed"])
    return range(first, first + count)


def next_shared(store: Store, trial: Trial) -> int:
    """The next of its parent's seeds that the trial has not used. Where they begin goes round from trial to trial, or
    one lucky seed would be in every first comparison."""
    used = {run.seed for run in store.runs_now(trial.number)}
    shared = [run.seed for run in store.runs_now(trial.parent or 0) if run.state not in ("failed", "cancelled")]
    first = trial.number % max(1, len(shared))
    order = [*shared[first:], *shared[:first]]
    return next((seed for seed in order if seed not in used), max([*used, *shared], default=-1) + 1)


def fresh(store: Store, number: int, count: int) -> range:
    """Seeds that the trial has not used and that are above those that it has."""
    first = max((run.seed for run in store.runs_now(number)), default=-1) + 1
    return range(first, first + count)
