"""Every knob is tried: one that no trial has touched is changed by the night itself, as late as it can."""

from __future__ import annotations

import random

from autoresearch.proposers.known import DRAWS, answer, passes, standing, untouched
from autoresearch.proposers.space import STEP, move
from autoresearch.trial import COVERAGE, History, Proposal

TRIED_BY = 60  # the number of the trial by which every knob has been changed


def cover(history: History) -> Proposal | None:
    """A change of one knob that no trial has touched; None while it is the proposer's turn, or where the rails let no
    change of such a knob alone through."""
    left = untouched(history.menu, history.trials)
    if not left or not _is_due(history, len(left)):
        return None
    stands, rng = standing(history), random.Random(f"{COVERAGE}/{history.seed}/{history.number}")
    for name in rng.sample(left, len(left)):
        for _ in range(DRAWS):
            value = move(history.menu.knobs[name], stands[name], rng, STEP)
            raw = answer(stands, {**stands, name: value}, f"No trial has changed {name} yet.")
            if value != stands[name] and passes(raw, history):
                return Proposal(raw=raw, proposer=COVERAGE)
    return None


def _is_due(history: History, left: int) -> bool:
    """Every other trial is enough, unless a person's ideas and what is put back take too many: then it catches up."""
    trials_left = TRIED_BY + 1 - history.number
    if trials_left > 2 * left + 1:
        return False
    return 0 < trials_left <= TRIED_BY // 2 or history.trials[-1].proposer != COVERAGE
