"""What a study gains from having been begun from another one, on another objective.

    python -m benchmarks.search.earlier [--nights 20] [--runs 200]

A first study searches one surrogate; then the other is searched by a study from the preset (cold) and by one that is
begun from the first one's incumbent (warm). Each surrogate is the other's past once.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from autoresearch.distill.race.paired import Figure
from autoresearch.proposers.bayes import BayesProposer
from autoresearch.study.folder import continue_study, create_study

from .ground import PRESET, the_space
from .night import MACHINE, MEMORY, simulate_in
from .surrogate import KINDS, Recorded, Surrogate, fit
from .table import recorded

MARKS = (10, 25, 50, 100, 200)


def truths(first: Surrogate, then: Surrogate, runs: int, night: int) -> tuple[list[float], list[float]]:
    """True val_bpb of what stands after each run of the cold and of the warm study."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as home:
        before = create_study(Path(home), "before", PRESET, MACHINE, {"seed": night})
        simulate_in(before, first, BayesProposer(), night, runs, 1)
        cold = create_study(Path(home), "cold", PRESET, MACHINE, {"seed": night})
        warm = continue_study(Path(home), "warm", before, {"seed": night})
        found = []
        for folder in (cold, warm):
            standings = simulate_in(folder, then, BayesProposer(), night, runs, 1)
            found.append([then.truth(standing.recipe) for standing in standings])
        for folder in (before, cold, warm):
            folder.store.close()
    return found[0], found[1]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--nights", type=int, default=20)
    options.add_argument("--runs", type=int, default=200, help="of each night (default 200)")
    chosen = options.parse_args()

    space = the_space()
    known = Recorded.of(space, recorded())
    worlds = [fit(kind, space, known) for kind in KINDS]
    with ProcessPoolExecutor(os.cpu_count(), initializer=threadpool_limits, initargs=(1,)) as pool:
        for first, then in permutations(worlds, 2):
            pairs = list(pool.map(partial(truths, first, then, chosen.runs), range(chosen.nights)))
            cold, warm = (np.array([pair[side] for pair in pairs]) for side in (0, 1))
            print(f"{then.name}, cold and warm (from {first.name}); {chosen.nights} nights")
            for mark in (mark for mark in MARKS if mark <= chosen.runs):
                figures = [Figure.of(side[:, mark - 1]) for side in (cold, warm)]
                print(f"  {mark:4d} runs  " + "  ".join(f"{each.mean:.4f} ± {each.half:.4f}" for each in figures))
            there = np.flatnonzero(warm.mean(0) <= cold[:, -1].mean())
            reached = f"after {there[0] + 1} runs" if len(there) else "never"
            print(f"  the level of {chosen.runs} cold runs is reached {reached}")


if __name__ == "__main__":
    main()
