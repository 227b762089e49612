"""What a race says: figures with intervals, paired tests, and a Markdown table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from autoresearch.distill.race.paired import Figure, wilcoxon

from .arms import DEFAULT, REFERENCE
from .confirm import Confirmed
from .race import MARKS, Night
from .regressors import Array

LEVEL_AT = 200  # runs of TPE: the level that all arms are asked for
RESAMPLED = 2000


@dataclass(frozen=True)
class Reached:
    """After how many runs the mean night is at TPE's level; None: not by the night's end."""

    runs: int | None
    low: int | None  # 95 % interval, nights resampled
    high: int | None


@dataclass(frozen=True)
class Row:
    """One arm on one surrogate."""

    arm: str
    truth: dict[int, Figure]  # by runs; val_bpb
    reached: Reached
    worker_hours: Figure  # of the whole night
    busy: Figure  # share of the workers' time
    too_good: Figure  # val_bpb by which the hand-over of the whole night is worse than its own runs say
    for_worse: Figure  # share of changes of the hand-over that made it truly worse
    p_reference: dict[int, float | None]  # paired Wilcoxon against TPE, by runs; None for TPE itself
    p_default: dict[int, float | None]  # against the loop as it ships


def rows(nights: Sequence[Night], world: str) -> list[Row]:
    """One an arm, best first after the whole night."""
    by_arm: dict[str, list[Night]] = {}
    for night in nights:
        if night.job.world == world:
            by_arm.setdefault(night.job.arm, []).append(night)
    truths = {
        arm: np.array([night.truth for night in sorted(group, key=lambda night: night.job.night)])
        for arm, group in by_arm.items()
    }
    # Without TPE in the race nobody can be held against it.
    level = truths[REFERENCE][:, _place(truths[REFERENCE], LEVEL_AT)].mean() if REFERENCE in truths else -np.inf
    found = [_row(arm, group, truths, float(level)) for arm, group in by_arm.items()]
    return sorted(found, key=lambda row: row.truth[max(row.truth)].mean)


def _row(arm: str, nights: Sequence[Night], truths: Mapping[str, Array], level: float) -> Row:
    mine = truths[arm]
    marks = [mark for mark in MARKS if mark <= mine.shape[1]]
    last = [night.told[-1] for night in nights]
    gaps = [night.truth[-1] - told for night, told in zip(nights, last, strict=True) if told is not None]
    return Row(
        arm,
        {mark: Figure.of(mine[:, mark - 1]) for mark in marks},
        _reached(mine, level),
        Figure.of(np.array([night.worker_seconds[-1] / 3600 for night in nights])),
        Figure.of(np.array([night.busy for night in nights])),
        Figure.of(np.array(gaps)),
        Figure.of(np.array([night.for_worse / max(night.changes, 1) for night in nights])),
        {mark: _paired(mine, truths.get(REFERENCE), mark) for mark in marks},
        {mark: _paired(mine, truths.get(DEFAULT), mark) for mark in marks},
    )


def _place(truth: Array, runs: int) -> int:
    return min(runs, truth.shape[1]) - 1


def _reached(truth: Array, level: float) -> Reached:
    def first(mean: Array) -> float:
        there = np.flatnonzero(mean <= level)
        return float(there[0] + 1) if len(there) else np.inf

    rng = np.random.Generator(np.random.PCG64(0))
    drawn = [first(truth[rng.integers(len(truth), size=len(truth))].mean(0)) for _ in range(RESAMPLED)]
    figures = (first(truth.mean(0)), *np.quantile(drawn, (0.025, 0.975), method="nearest"))
    return Reached(*(int(figure) if np.isfinite(figure) else None for figure in figures))


def _paired(mine: Array, other: Array | None, mark: int) -> float | None:
    if other is None or other.shape != mine.shape:
        return None
    return wilcoxon(mine[:, mark - 1] - other[:, mark - 1])


def real_nights(confirmed: Sequence[Confirmed], nights: Sequence[Night]) -> str:
    """A Markdown table: what each arm's real nights came to, beside its nights on the surrogates after as many runs."""
    worlds = list(dict.fromkeys(night.job.world for night in nights))
    by_arm: dict[str, list[Confirmed]] = {}
    for night in confirmed:
        by_arm.setdefault(night.arm, []).append(night)
    table = [["arm", "runs a night", "real nights", "their mean", *worlds]]
    for arm, real in by_arm.items():
        runs = real[0].runs
        means = np.array([np.mean(night.scores) for night in sorted(real, key=lambda night: night.night)])
        simulated = (
            np.array([night.truth[runs - 1] for night in nights if (night.job.arm, night.job.world) == (arm, world)])
            for world in worlds
        )
        figures = [_figure(Figure.of(values)) if len(values) else "-" for values in (means, *simulated)]
        table.append([arm, str(runs), ", ".join(f"{mean:.4f}" for mean in means), *figures])
    return as_table(table)


def as_json(found: Sequence[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in found]


def as_markdown(found: Sequence[Row]) -> str:
    marks = list(found[0].truth)
    heading = [
        "arm",
        *(f"{mark} runs" for mark in marks),
        f"runs to TPE's level of {LEVEL_AT}",
        "worker hours",
        "workers busy",
        "said too much",
        "changes for the worse",
        *(f"p, {mark} runs" for mark in marks if mark in (100, 400)),
    ]
    return as_table([heading, *(_cells(row, marks) for row in found)])


def as_table(cells: list[list[str]]) -> str:
    """Markdown; the first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rules = ["-" * width for width in widths]
    lines = [
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in (cells[0], rules, *cells[1:])
    ]
    return "".join(f"| {line} |\n" for line in lines)


def _figure(figure: Figure) -> str:
    return f"{figure.mean:.4f} ± {figure.half:.4f}"


def _cells(row: Row, marks: Sequence[int]) -> list[str]:
    truth = [_figure(row.truth[mark]) for mark in marks]
    p_values = ["-" if (p := row.p_reference[mark]) is None else p_text(p) for mark in marks if mark in (100, 400)]
    return [
        row.arm,
        *truth,
        f"{_runs(row.reached.runs)} ({_runs(row.reached.low)} to {_runs(row.reached.high)})",
        f"{row.worker_hours.mean:.2f}",
        f"{100 * row.busy.mean:.1f} %",
        _figure(row.too_good),
        f"{100 * row.for_worse.mean:.0f} %",
        *p_values,
    ]


def _runs(runs: int | None) -> str:
    return "never" if runs is None else str(runs)


def p_text(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
