"""Figures over nights: a mean with its interval, and a paired test of differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A mean over nights with half of its 95 % interval (Student's t); of one night that is 0."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Array) -> Figure:
        from scipy import stats  # it takes a second to load

        n = len(values)
        return cls(
            float(values.mean()), float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5) if n > 1 else 0.0
        )


def wilcoxon(gaps: Array) -> float | None:
    """p of paired differences; None where there are none."""
    from scipy import stats

    return float(stats.wilcoxon(gaps).pvalue) if gaps.any() else None
