"""The number that a study lowers or raises: its name, its unit, which way is better, and what else is known of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

DIGITS = 5  # significant ones of a score


@dataclass(frozen=True)
class Metric:
    """What a run is scored by; frozen with its study.

    Scores are kept, in the database and in all arithmetic, so that lower is better: those of a metric that should be
    high are kept negated, and `turned` makes the person's number of them. Gains need no turning: positive is better.
    unit: follows a score; "" where the name tells it. gain_unit: follows a difference of two. has_test: whether runs
    are scored on data, too, that no decision reads. axis: stands beside a picture of scores. decimals: of scores and
    of their differences; None: as many as the number itself asks for. size: what few changes of it go beyond, a power
    of ten.
    """

    name: str = "val_bpb"
    unit: str = ""
    gain_unit: str = "bits per byte"
    higher_is_better: bool = False
    has_test: bool = True
    axis: str = "bits per byte"
    decimals: int | None = 4
    size: float = 1.0

    @classmethod
    def other(cls, name: str, unit: str, higher_is_better: bool) -> Metric:
        """What another program than the GPT's trainer is scored by."""
        axis = f"{name} ({unit})" if unit else name
        return cls(name, unit, unit or name, higher_is_better, has_test=False, axis=axis, decimals=None)

    def turned(self, score: float) -> float:
        """A person's score as it is kept, and one that is kept as a person's."""
        return 0.0 - score if self.higher_is_better else score

    def sized(self, score: float | None) -> Metric:
        """The same with the decimals that a study of such scores asks for; score: the baseline's, if there is one."""
        if self.decimals is not None or not score:
            return self
        return replace(self, decimals=decimals_of(score), size=10.0 ** (math.floor(math.log10(abs(score))) + 1))

    @property
    def places(self) -> int:
        """Decimals of any difference of two scores."""
        return DIGITS - 1 if self.decimals is None else self.decimals

    @property
    def better(self) -> str:
        return "higher" if self.higher_is_better else "lower"

    @property
    def best(self) -> str:
        """ "lowest": of a number that is better than all others."""
        return "highest" if self.higher_is_better else "lowest"

    def is_like(self, other: Metric) -> bool:
        """Whether gains in the two may be put together."""
        return replace(self, decimals=None, size=1.0) == replace(other, decimals=None, size=1.0)

    @property
    def is_bits_per_byte(self) -> bool:
        return self == VAL_BPB


def decimals_of(number: float) -> int:
    """As many as give it DIGITS significant digits."""
    return max(0, DIGITS - 1 - math.floor(math.log10(abs(number)))) if number else DIGITS - 1


VAL_BPB = Metric()
