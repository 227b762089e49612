"""Nights in which each recipe is as good as any other, through the study loop: what is kept is kept for nothing.

python -m benchmarks.search.identical [--nights 200]
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from threadpoolctl import threadpool_limits

from autoresearch.proposers.classic import RandomProposer
from autoresearch.study.folder import create_study
from rails import Value, recipe_key
from trainer.protocol import RunResult

from .ground import PRESET
from .night import MACHINE, MEMORY, simulate_in

LEVEL, DEVIATION = 2.8, 0.02
NIGHTS = ((15, 1), (60, 1), (60, 8))  # runs and workers


class Identical:
    """A World (night.py) without good and bad recipes."""

    def run(self, recipe: Mapping[str, Value], seed: int, night: int) -> RunResult:
        rng = random.Random(f"{night}/{seed}/{recipe_key(recipe)}")
        score = LEVEL + DEVIATION * rng.gauss()
        return RunResult("", seed, "complete", val_bpb=score, test_bpb=score, total_seconds=10 + rng.random())


def kept(runs: int, workers: int, night: int) -> tuple[int, int]:
    """Trials of one night, and how many of them were kept."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as home:
        folder = create_study(Path(home), "night", PRESET, MACHINE, {"seed": night})
        simulate_in(folder, Identical(), RandomProposer(), night, runs, workers)
        trials = folder.store.trials()[1:]
        folder.store.close()
    return len(trials), sum(trial.decision == "keep" for trial in trials)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--nights", type=int, default=200, help="of each length (default 200)")
    nights = options.parse_args().nights
    with ProcessPoolExecutor(os.cpu_count(), initializer=threadpool_limits, initargs=(1,)) as pool:
        for runs, workers in NIGHTS:
            found = list(pool.map(partial(kept, runs, workers), range(nights), chunksize=5))
            trials, keeps = (sum(night[side] for night in found) for side in (0, 1))
            with_one = sum(keeps > 0 for _, keeps in found) / nights
            print(
                f"{runs} runs, {workers} at once: {keeps} of {trials:,} trials kept ({keeps / trials:.2%}), "
                f"at least one in {with_one:.1%} of {nights} nights"
            )


if __name__ == "__main__":
    main()
