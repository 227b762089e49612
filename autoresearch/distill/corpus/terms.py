"""The words of a corpus: on which terms it is made, and one row of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autoresearch.errors import UserError
from autoresearch.trial import Recipe
from rails import Value, clean
from rails.values import nearest

OBJECTIVES = ("imitate", "outcome", "hindsight")
# Of what earned nothing. Not 0, so that no batch of a trainer has weights that add up to nothing.
LOW = 0.01

Pair = tuple[str, Value]


@dataclass(frozen=True)
class Terms:
    """How a corpus is made. hold_out: share of each study's latest trials; most_frequent: the largest share that one
    (knob, value) may have of the weights; augment: variants of each training row besides itself. Raises UserError for
    an objective that is none."""

    objective: str = "outcome"
    hold_out: float = 0.2
    hold_out_studies: tuple[str, ...] = ()
    most_frequent: float = 0.2
    augment: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            shown = clean(self.objective, 40)
            raise UserError(
                f"there is no objective {shown!r}{nearest(shown, list(OBJECTIVES))} (choose {', '.join(OBJECTIVES)})"
            )


def first_held_out(trials: int, share: float) -> int:
    """The number of the first trial that is held out, of so many after the baseline."""
    return trials + 1 - round(trials * share)


@dataclass(frozen=True)
class Row:
    """One question and the answer that is taught.

    trial: whose question it is; target_trial: whose recipe the answer makes. weight: 0 to 1. parent_key: of the recipe
    that the answer changes, recipe_key: of what it makes of it. variants: the same question in other words.
    """

    study: str
    trial: int
    target_trial: int
    proposer: str
    outcome: str
    prompt_source: str
    system: str
    user: str
    answer: str
    weight: float
    changes: Recipe
    parent_key: str
    recipe_key: str
    variants: tuple[str, ...] = ()

    @property
    def pairs(self) -> list[Pair]:
        return list(self.changes.items())

    def records(self) -> list[dict[str, Any]]:
        """As they are written: the row itself, then each variant of its question."""
        asked = [(self.user, self.prompt_source), *((variant, "rendered") for variant in self.variants)]
        return [
            {
                "messages": [
                    {"role": "system", "content": self.system},
                    {"role": "user", "content": user},
                    {"role": "assistant", "content": self.answer},
                ],
                "weight": self.weight,
                "study": self.study,
                "trial": self.trial,
                "target_trial": self.target_trial,
                "proposer": self.proposer,
                "outcome": self.outcome,
                "prompt_source": source,
                "variant": n,
            }
            for n, (user, source) in enumerate(asked)
        ]
