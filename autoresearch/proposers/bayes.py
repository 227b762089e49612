"""The embedded default: Bayesian optimization over whole recipes, taught by every run of every trial."""

from __future__ import annotations

import random

import numpy as np

from autoresearch.proposers.belief import Belief
from autoresearch.proposers.known import Known, Places, standing, start
from autoresearch.proposers.share import OPTIMIZER
from autoresearch.proposers.space import Space
from autoresearch.trial import History, Proposal

MOST_LEARNED = 150  # recipes: the cost grows with their cube, and on the bench 800 found nothing better


class BayesProposer:
    """Expected improvement of a Gaussian process over mutations of the best recipes, as changes to the incumbent.

    The model is made anew of the trajectory each time, so any process at any time proposes the same.
    """

    name = OPTIMIZER

    def __init__(self) -> None:
        self._places = Places()

    def propose(self, history: History) -> Proposal:
        rng = random.Random(f"gp/{history.seed}/{history.number}")
        if belief := self.belief(history):
            for suggestion in belief.suggestions(np.random.default_rng(rng.getrandbits(64))):
                return Proposal(raw=suggestion.raw, proposer=self.name)
        return start(history, Space(history.menu, history.limits), standing(history), rng, self.name)

    def belief(self, history: History) -> Belief | None:
        """What it knows by then; None while that is too little for a model."""
        space = Space(history.menu, history.limits)
        known = Known.of(history, space, self._places, MOST_LEARNED)
        return None if known.is_too_little(space) else Belief(history, space, known, standing(history))
