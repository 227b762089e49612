"""Proposers that learn nothing: random search over the menu, and a script."""

from __future__ import annotations

import json
import random

from autoresearch.proposers.proposer import NothingLeft
from autoresearch.proposers.space import value_at
from autoresearch.trial import History, Proposal, Value
from rails import Knob, gate

DRAWS = 64  # of a change that the rails would block; then it goes to them as it is


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


class ScriptedProposer:
    """Answers trial N with the Nth of the given texts; for tests and demonstrations."""

    name = "scripted"

    def __init__(self, answers: list[str]) -> None:
        self.answers = answers

    def propose(self, history: History) -> Proposal:
        if history.number > len(self.answers):
            raise NothingLeft("the script has no more answers")
        return Proposal(raw=self.answers[history.number - 1], proposer=self.name)


def _answer(knob: str, value: Value, reason: str) -> str:
    return json.dumps({"knob": knob, "new_value": value, "reason": reason})


def _is_allowed(raw: str, history: History) -> bool:
    return gate(raw, history.recipe, history.menu, history.tried, history.limits).passed


def _draw(knob: Knob, rng: random.Random) -> Value:
    return rng.choice(list(knob.choices)) if knob.choices else value_at(knob, rng.random())
