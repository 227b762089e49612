"""The number that a study lowers or raises: its name, its unit, which way is better, and what else is known of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """What a run is scored by; frozen with its study.

    Scores are kept, in the database and in all arithmetic, so that lower is better: those of a metric that should be
    high are kept negated, and `turned` makes the person's number of them. Gains need no turning: positive is better.
    unit: follows a score; "" where the name tells it. gain_unit: follows a difference of two. has_test: whether runs
    are scored on data, too, that no decision reads.
    """

    name: str = "val_bpb"
    unit: str = ""
    gain_unit: str = "bits per byte"
    higher_is_better: bool = False
    has_test: bool = True

    def turned(self, score: float) -> float:
        """A person's score as it is kept, and one that is kept as a person's."""
        return 0.0 - score if self.higher_is_better else score


VAL_BPB = Metric()
