"""Whether a search still explores: its latest proposals against what a random proposer would do in its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import special

from autoresearch.trial import Trial
from rails import Knob, Menu

# The verdict looks at this many latest proposals, and says nothing against fewer than FEWEST.
RECENT = 20
FEWEST = 10
FLAILING_WASTE = 0.5
NARROWING_WASTE = 0.25
# What a random proposer shows more seldom than this speaks against a search: of waste, of what is blocked, of knobs.
BY_CHANCE = 0.01
# That share of random changes may fail in training and nothing is said: on cpu-nano fewer than 2 in 100 do.
FAILING = 0.1

SearchVerdict = Literal["researching", "narrowing", "flailing"]
# A change as it can be compared: 1 and 1.0 of a float knob are one value, and a dict's order plays no part.
Change = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Asked:
    """One proposal. again: its whole change had been proposed before, on whatever recipe. again_at_random: the chance
    of that for a change drawn evenly from the menu at that moment. open_knobs: over how many knobs such draws spread;
    one whose values have partly been proposed counts in part."""

    again: bool
    again_at_random: float
    open_knobs: float


class Memory:
    """What has been proposed so far, one proposal after the other."""

    def __init__(self, menu: Menu) -> None:
        self._others = {name: _other_values(knob) for name, knob in menu.knobs.items()}
        self._tried: dict[str, set[str]] = {name: set() for name in menu.knobs}
        self._seen: set[Change] = set()

    def add(self, change: Change) -> Asked:
        """change: empty where nothing could be read, which repeats nothing."""
        tried = sum(min(1.0, len(self._tried[name]) / others) for name, others in self._others.items())
        n = len(self._others)
        asked = Asked(bool(change) and change in self._seen, tried / n if n else 0.0, n - tried)
        self._seen.add(change)
        for knob, value in change:
            if knob in self._tried:
                self._tried[knob].add(value)
        return asked


def _other_values(knob: Knob) -> float:
    """How many values a knob could take beside the one that stands; of a float as good as infinitely many."""
    if knob.choices:
        return max(1, len(knob.choices) - 1)
    assert knob.low is not None and knob.high is not None
    return max(1, int(knob.high - knob.low)) if knob.type == "int" else math.inf


def judge(trials: Sequence[Trial], asked: Sequence[Asked], menu: Menu) -> tuple[SearchVerdict, str]:
    """The verdict on the latest proposals, and what it rests on.

    Flailing: half of them or more repeated an earlier one, were blocked or failed; narrowing: a quarter or more did, or
    they turned few knobs. Either is said only of what a random proposer would show in under 1 % of cases: so much
    waste, or so much that is blocked (it draws again what the rails would block), by a binomial; so few knobs, by
    even draws. Of random nights over cpu-nano, 10 to 200 trials, at most 3 in 100 are spoken against, also where one
    change in five fails; what random draws repeat is rather over- than underestimated.
    """
    recent = list(zip(trials[-RECENT:], asked[-RECENT:], strict=True))
    n = len(recent)
    if n < FEWEST:
        return "researching", f"{n} proposals so far: too few to tell"
    again = sum(each.again for _, each in recent)
    stopped = sum(not each.again and trial.state in ("blocked", "failed", "timed_out") for trial, each in recent)
    blocked = sum(trial.state == "blocked" for trial, _ in recent)
    turned = [trial.changes.keys() & menu.knobs.keys() for trial, _ in recent]
    knobs, open_knobs = set().union(*turned), int(min(each.open_knobs for _, each in recent))
    at_random = sum(each.again_at_random for _, each in recent) / n
    why = (
        f"of the last {n} proposals {again} repeated an earlier one and {stopped} more were blocked or failed; "
        f"they turned {len(knobs)} of {len(menu.knobs)} knobs"
    )
    waste = again + stopped
    by_chance = min(_at_least(waste, n, at_random + (1 - at_random) * FAILING), _at_least(blocked, n, FAILING))
    if waste >= NARROWING_WASTE * n and by_chance < BY_CHANCE:
        return "flailing" if waste >= FLAILING_WASTE * n else "narrowing", why
    if few_knobs_by_chance(len(knobs), sum(map(bool, turned)), open_knobs) < BY_CHANCE:
        return "narrowing", why
    return "researching", why


def _at_least(some: int, n: int, share: float) -> float:
    """The chance of that many or more of n, each with this chance of its own."""
    return float(special.bdtrc(some - 1, n, share)) if some else 1.0


def few_knobs_by_chance(turned: int, draws: int, knobs: int) -> float:
    """The chance that so many draws, each of one knob evenly out of `knobs`, turn at most `turned` different ones."""
    if turned >= knobs:
        return 1.0
    chances = [1.0] + [0.0] * knobs  # of so many different ones so far
    for _ in range(draws):
        fresh = [0.0, *(chance * (knobs - seen) / knobs for seen, chance in enumerate(chances[:-1]))]
        chances = [chance * seen / knobs + new for seen, (chance, new) in enumerate(zip(chances, fresh, strict=True))]
    return sum(chances[: turned + 1])
