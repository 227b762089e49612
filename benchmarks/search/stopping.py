"""Early stopping held against recorded curves: what it would have saved, and what it would have lost.

    python -m benchmarks.search.stopping [--nights 16]

Each recorded recipe with two seeds or more takes its turn as the one that stands, from the baseline to the best. Every
first run of another recipe is looked at as a night would look at it. With --nights so many nights of the default
search are simulated on each surrogate, with and without.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from autoresearch.config import DecisionRule
from autoresearch.night.stopping import SHARES, before, limit
from autoresearch.proposers.bayes import BayesProposer
from autoresearch.study.preset import load_preset
from rails import recipe_key
from trainer.protocol import RunRequest

from .ground import PRESET, the_space
from .night import SimulatedLauncher, simulate
from .results import as_table
from .surrogate import KINDS, Recorded, Surrogate, fit
from .table import recorded

LEVELS = 6  # groups of recipes that stand, from the baseline's score down
# In simulated nights, which have no curves: of a first run that ends so far behind, so much of its time is spent.
BEHIND, SPENT = 1.03, 0.55
RUNS, HOURS = (50, 100, 200), (0.25, 0.5, 0.75)

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


@dataclass
class Stopping(SimulatedLauncher):
    """Stops first runs that would end far behind the incumbent."""

    seen: set[str] = field(default_factory=set)

    def submit(self, request: RunRequest, timeout_seconds: float) -> None:
        super().submit(request, timeout_seconds)
        run = next(run for run in self._in_flight if run.run_id == request.run_id)
        stands, key = self.incumbent()[1], recipe_key(request.recipe)
        is_first, score = key not in self.seen and bool(self.seen), run.result.val_bpb
        self.seen.add(key)
        if is_first and stands and score and score > BEHIND * stands:
            run.result = replace(run.result, state="stopped", val_bpb=None, test_bpb=None, message="far behind")
            run.ends = run.began + SPENT * (run.ends - run.began)


def _night(world: Surrogate, launched_by: type[SimulatedLauncher], night: int) -> list[tuple[float, float]]:
    """True val_bpb and worker hours after each run."""
    threadpool_limits(1)
    standings = simulate(world, BayesProposer(), night, RUNS[-1], 1, launched_by)
    found = [(world.truth(standing.recipe), standing.worker_seconds / 3600) for standing in standings]
    return found + found[-1:] * (RUNS[-1] - len(found))


def over_nights(nights: int) -> list[list[str]]:
    """Rows of a table: true val_bpb after so many runs and worker hours, means over the nights."""
    space, known = the_space(), Recorded.of(the_space(), recorded())
    table = [
        ["surrogate", "first runs", *(f"{n} runs" for n in RUNS), *(f"{h:g} hours" for h in HOURS), "hours in all"]
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for kind in KINDS:
            world = fit(kind, space, known)
            for name, launched_by in (("run to their end", SimulatedLauncher), ("stopped", Stopping)):
                told = np.array(list(pool.map(partial(_night, world, launched_by), range(nights))))
                by_runs = [told[:, runs - 1, 0].mean() for runs in RUNS]
                by_hours = [
                    fmean(night[min(np.searchsorted(night[:, 1], hours), len(night) - 1), 0] for night in told)
                    for hours in HOURS
                ]
                figures = [f"{value:.4f}" for value in (*by_runs, *by_hours)]
                table.append([kind, name, *figures, f"{told[:, -1, 1].mean():.2f}"])
    return table


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--nights", type=int, default=0, help="to simulate on each surrogate (default: none)")
    nights = options.parse_args().nights
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
    if nights:
        print(f"\n{as_table(over_nights(nights))}", end="")


if __name__ == "__main__":
    main()
