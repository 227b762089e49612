"""A model beside an optimizer: it is lent the optimizer's state, and the optimizer ranks its ideas."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import numpy as np

from autoresearch import words
from autoresearch.proposers.bayes import BayesProposer
from autoresearch.proposers.belief import NORMAL_95, Belief, Suggestion
from autoresearch.proposers.known import standing
from autoresearch.proposers.proposer import Meter
from autoresearch.proposers.share import is_models_turn, share
from autoresearch.proposers.talk import Advised
from autoresearch.trial import History, Proposal
from rails import Value

SUGGESTIONS, TOLD_KNOBS = 3, 6
HEAD_START = 20  # trials of a student that was taught on this menu, before the optimizer knows much


class HybridProposer:
    """The optimizer proposes; on a share of the trials (see share.py) it is the model, a language model or a student,
    whose best candidate by the optimizer's own measure is taken. A student that was taught on this menu begins. Each
    proposal bears the name of whoever made it."""

    name = "hybrid"

    def __init__(self, optimizer: BayesProposer, model: Advised, most: float) -> None:
        self.optimizer, self.model, self._most = optimizer, model, most

    def takes_long(self, history: History) -> bool:
        takes_long: Callable[[History], bool] = getattr(self.model, "takes_long", lambda _: False)
        return self._is_models_turn(history) and takes_long(history)

    def propose(self, history: History) -> Proposal:
        if self._has_head_start(history):
            return self.model.propose(history)
        if not self._is_models_turn(history) or (belief := self.optimizer.belief(history)) is None:
            return self.optimizer.propose(history)
        return self.model.propose(history, Advice(history, belief))

    def metered_by(self, meter: Meter) -> None:
        if metered_by := getattr(self.model, "metered_by", None):
            metered_by(meter)

    def hang_up(self) -> None:
        """Ends the question that is being asked, if any."""
        if hang_up := getattr(self.model, "hang_up", None):
            hang_up()

    def _has_head_start(self, history: History) -> bool:
        knows: Callable[[History], bool] = getattr(self.model, "knows", lambda _: False)
        return history.number <= HEAD_START and knows(history)

    def _is_models_turn(self, history: History) -> bool:
        return is_models_turn(history.number, history.seed, share(history.trials, self._most, self.model.name))


class Advice:
    """An optimizer's state as a model reads it, and its measure of a change (an Adviser; see talk.py)."""

    def __init__(self, history: History, belief: Belief) -> None:
        self._history, self._belief = history, belief
        self.text = "\n".join(["What an optimizer (a Gaussian process over all runs) expects:", *self._lines()])

    def worth(self, changes: Mapping[str, Value]) -> float:
        return self._belief.of(changes).gain

    def promises(self, changes: Mapping[str, Value]) -> str:
        expected = self._belief.of(changes)
        return words.plus_minus(expected.mean, NORMAL_95 * expected.deviation, self._history.metric)

    def _lines(self) -> list[str]:
        belief, metric = self._belief, self._history.metric
        mean, deviation = belief.of_what_stands()
        influence = sorted(belief.influence().items(), key=lambda each: -each[1])[:TOLD_KNOBS]
        rng = random.Random(f"advice/{self._history.seed}/{self._history.number}")
        suggestions = belief.suggestions(np.random.default_rng(rng.getrandbits(64)))
        return [
            f"- the recipe that stands: {words.plus_minus(mean, NORMAL_95 * deviation, metric)}; "
            f"the best that was run: {words.bpb(belief.best, metric)}",
            "- knobs that move the score most: " + ", ".join(f"{knob} {part:.0%}" for knob, part in influence),
            *(self._suggestion(each) for each, _ in zip(suggestions, range(SUGGESTIONS), strict=False)),
        ]

    def _suggestion(self, suggestion: Suggestion) -> str:
        stands = standing(self._history)
        changes = {knob: value for knob, value in suggestion.recipe.items() if stands[knob] != value}
        half = NORMAL_95 * suggestion.deviation
        expected = words.plus_minus(suggestion.mean, half, self._history.metric)
        return f"- it would try {words.change(changes, stands)}: {expected}"
