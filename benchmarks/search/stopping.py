"""Early stopping held against recorded curves: what it would have saved, and what it would have lost.

    python -m benchmarks.search.stopping

Each recorded recipe with two seeds or more takes its turn as the one that stands, from the baseline to the best. Every
first run of another recipe is looked at as a night would look at it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from autoresearch.config import DecisionRule
from autoresearch.night.stopping import SHARES, before, limit
from autoresearch.study.preset import load_preset
from rails import recipe_key

from .ground import PRESET
from .results import as_table
from .table import recorded

LEVELS = 6  # groups of recipes that stand, from the baseline's score down

Run = Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """One recipe that stands, and what became of the others' runs."""

    val_bpb: float
    better: int  # runs that ended better than its mean
    better_stopped: int
    others: int
    others_stopped: int
    saved: float  # share of all these runs' training time


def standings(rows: Sequence[Run], rule: DecisionRule) -> list[Standing]:
    """The worst first; none that is worse than the baseline."""
    groups: dict[str, list[Run]] = {}
    for row in rows:
        if row["val_bpb"] is not None:
            groups.setdefault(recipe_key(row["recipe"]), []).append(row)
    baseline = groups[recipe_key(load_preset(PRESET).recipe)]
    found = []
    for key, stands in groups.items():
        if len(stands) > 1 and _mean(stands) <= _mean(baseline):
            others = [runs[0] for other, runs in groups.items() if other != key]
            found.append(_standing(stands, baseline, others, rule))
    return sorted(found, key=lambda standing: -standing.val_bpb)


def _standing(stands: Sequence[Run], baseline: Sequence[Run], others: Sequence[Run], rule: DecisionRule) -> Standing:
    curves, of_baseline = ([run["curve"] for run in runs] for runs in (stands, baseline))
    seeds = [curves] if stands is baseline else [of_baseline, curves]
    limits = [(share, limit(share, curves, seeds, rule)) for share in SHARES]
    level = _mean(stands)
    stopped_at = [next((share for share, nats in limits if before(share, run["curve"]) > nats), 1.0) for run in others]
    better = [share < 1 for share, run in zip(stopped_at, others, strict=True) if run["val_bpb"] < level]
    worse = [share < 1 for share, run in zip(stopped_at, others, strict=True) if run["val_bpb"] >= level]
    spent = sum(run["train_seconds"] for run in others)
    saved = sum(run["train_seconds"] * (1 - share) for share, run in zip(stopped_at, others, strict=True))
    return Standing(level, len(better), sum(better), len(worse), sum(worse), saved / spent)


def _mean(runs: Sequence[Run]) -> float:
    return fmean(run["val_bpb"] for run in runs)


def main() -> None:
    found = standings(recorded(), load_preset(PRESET).settings.decision)
    size = -(-len(found) // LEVELS)
    table = [["val_bpb of what stands", "recipes", "better runs stopped", "other runs stopped", "training time saved"]]
    for group in [found[start : start + size] for start in range(0, len(found), size)] + [found]:
        better, others = sum(each.better for each in group), sum(each.others for each in group)
        shares = (
            sum(each.better_stopped for each in group) / max(1, better),
            sum(each.others_stopped for each in group) / max(1, others),
            fmean(each.saved for each in group),
        )
        ends = f"{group[0].val_bpb:.3f} to {group[-1].val_bpb:.3f}"
        table.append([ends, str(len(group)), *(f"{100 * share:.1f} %" for share in shares)])
    print(as_table(table), end="")


if __name__ == "__main__":
    main()
