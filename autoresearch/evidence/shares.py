"""Shares of counts with their intervals, and whether two figures differ beyond noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Share:
    """hits of n, with Wilson's 95 % interval; None: there are none to tell it from."""

    hits: int
    n: int
    share: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, hits: int, n: int) -> Share:
        if not n:
            return cls(0, 0, None, None, None)
        share, z = hits / n, NORMAL_95
        middle, half = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
        return cls(hits, n, share, max(0.0, low) if hits else 0.0, min(1.0, high) if hits < n else 1.0)

    def is_like(self, other: Share) -> bool | None:
        """Whether the 95 % interval of the difference (Newcombe's) holds 0; None where one has nothing to tell."""
        if self.share is None or self.low is None or self.high is None:
            return None
        if other.share is None or other.low is None or other.high is None:
            return None
        if self.share < other.share:
            return other.is_like(self)
        return self.share - other.share <= math.hypot(self.share - self.low, other.high - other.share)


@dataclass(frozen=True)
class Average:
    """A mean over n with its 95 % interval; None: there are too few to tell it from."""

    n: int
    mean: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Average:
        """With Student's interval."""
        n = len(values)
        if n < 2:
            return cls(n, values[0] if values else None, None, None)
        mean = math.fsum(values) / n
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
        half = float(special.stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)
        return cls(n, mean, mean - half, mean + half)

    def is_like(self, other: Average) -> bool | None:
        """Whether the 95 % interval of the difference holds 0; None where one has no interval."""
        if self.mean is None or self.low is None or self.high is None:
            return None
        if other.mean is None or other.low is None or other.high is None:
            return None
        return abs(self.mean - other.mean) <= math.hypot(self.high - self.low, other.high - other.low) / 2


def share_of(facts: Sequence[bool]) -> Share:
    return Share.of(sum(facts), len(facts))
