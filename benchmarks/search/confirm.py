"""Real nights of a few arms, to see whether the surrogates' order is the trainer's.

    python -m benchmarks.search.confirm FOLDER [--arm TPE --arm GP] [--nights 3] [--runs 50]

Trainings are lines of FOLDER/runs.jsonl, as `collect` writes them, and what is recorded is not trained again: a search
that gets the same answers asks the same questions. What a night hands over is trained with fresh seeds: its score.
What came of it is results/confirmed.json.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

from rails import Value, recipe_key
from trainer.protocol import RunRequest, RunResult

from .arms import ARMS, FINALISTS
from .collect import VAL_POINTS, Records, commit, the_text
from .ground import CONFIRMED, RESULTS, the_space

SEEDS_A_NIGHT = 100
FRESH_SEEDS = range(SEEDS_A_NIGHT - 5, SEEDS_A_NIGHT)  # of each hundred; a search takes them from the other end
KNOWN = ("run_id", "seed", "state", "failure", "message", "val_bpb", "test_bpb", "total_seconds")


@dataclass(frozen=True)
class Confirmed:
    """What one real night is worth: val_bpb of its hand-over, by fresh seed."""

    arm: str
    night: int
    runs: int
    scores: list[float]


class Trainer:
    """A World (night.py) that trains, on one thread: to be made in a process of its own."""

    def __init__(self, folder: Path, commit: str) -> None:
        self._records, self._commit = Records(folder / "runs.jsonl"), commit
        self._data_dir, self._budget = the_text(folder), the_space().budget
        self._known = {(recipe_key(row["recipe"]), row["seed"]): row for row in self._records.rows}

    def run(self, recipe: Mapping[str, Value], seed: int, night: int) -> RunResult:
        seed = SEEDS_A_NIGHT * (night + 1) + seed % SEEDS_A_NIGHT
        place = recipe_key(recipe), seed
        if place not in self._known:
            result = self._train(recipe, seed)
            row = {"kind": "night", "commit": self._commit, "recipe": dict(recipe), **asdict(result), "joules": None}
            self._records.add(row)
            self._known[place] = row
        return RunResult(**{name: self._known[place].get(name, "") for name in KNOWN})

    def _train(self, recipe: Mapping[str, Value], seed: int) -> RunResult:
        from trainer.run import execute  # torch, which is told its threads before it is loaded

        request = RunRequest(
            f"{recipe_key(recipe)[:12]}-{seed}",
            dict(recipe),
            seed,
            dict(self._budget),
            str(self._data_dir),
            "",
            device="cpu",
            score_test=True,
            val_points=VAL_POINTS,
        )
        return execute(request, lambda *_: None)


def confirm(folder: Path, commit: str, runs: int, arm_and_night: tuple[str, int]) -> Confirmed:
    """One night, and its hand-over with each fresh seed."""
    arm, night = arm_and_night
    trainer = Trainer(folder, commit)
    recipe = ARMS[arm].night(trainer, the_space(), night, runs)[-1].recipe
    scores = [trainer.run(recipe, seed, night).val_bpb for seed in FRESH_SEEDS]
    return Confirmed(arm, night, runs, [score for score in scores if score is not None])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--arm", action="append", choices=list(ARMS), help="default: " + ", ".join(FINALISTS))
    options.add_argument("--nights", type=int, default=3)
    options.add_argument("--runs", type=int, default=50, help="of each night (default 50)")
    options.add_argument("--out", type=Path, default=RESULTS, help="folder of confirmed.json")
    chosen = options.parse_args()

    chosen.out.mkdir(parents=True, exist_ok=True)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    the_text(chosen.folder)
    os.environ["OMP_NUM_THREADS"] = "1"  # of each process
    # Night by night, so that a race that is cut off has compared what it has.
    asked = [(arm, night) for night, arm in product(range(chosen.nights), chosen.arm or FINALISTS)]
    with ProcessPoolExecutor(os.cpu_count(), max_tasks_per_child=1) as pool:
        found = []
        for night in pool.map(partial(confirm, chosen.folder, commit(), chosen.runs), asked):
            mean, deviation = fmean(night.scores), stdev(night.scores)
            print(f"{night.arm}, night {night.night}: {mean:.4f}, deviation {deviation:.4f}, n = {len(night.scores)}")
            found.append(asdict(night))
            (chosen.out / CONFIRMED).write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
