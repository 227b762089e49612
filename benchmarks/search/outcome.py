"""Nights of proposers that are given as settings, on the surrogates: what `autoresearch race --nights` asks for.

    python -m benchmarks.search.outcome REQUEST.JSON RESULT.JSON

The request: {"proposers": {name: [proposer] of study.toml}, "nights": 8, "runs": 50, "surrogates": ["smooth"]}. Every
proposer has the same nights, through the study loop with one worker, on all cores. The result: a list of
Search (autoresearch.distill.race.searches) by surrogate, proposer and night. A line on stdout a night that is over.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from autoresearch.config import ProposerSettings
from autoresearch.distill.race.searches import Search, search_of
from autoresearch.proposers import make_proposer
from autoresearch.study.folder import create_study

from .ground import PRESET, the_space
from .night import MACHINE, MEMORY, AtOnce, simulate_in
from .surrogate import Recorded, Surrogate, fit
from .table import recorded

_worlds: dict[str, Surrogate] = {}  # of one process of the pool


def _begin(worlds: Sequence[Surrogate]) -> None:
    threadpool_limits(1)  # a process a core: threads of their own would only wait for one another
    _worlds.update({world.name: world for world in worlds})


def search(name: str, settings: dict[str, Any], world_name: str, night: int, runs: int) -> Search:
    """One night; what stands after each run is told by its true val_bpb."""
    world = _worlds[world_name]
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as home:
        folder = create_study(Path(home), "night", PRESET, MACHINE, {"seed": night})
        try:
            proposer = AtOnce(make_proposer(ProposerSettings(**settings)))
            standings = simulate_in(folder, world, proposer, night, runs, workers=1)
            return search_of(folder, name, world_name, night, [world.truth(each.recipe) for each in standings])
        finally:
            folder.store.close()


def searches(proposers: dict[str, dict[str, Any]], nights: int, runs: int, surrogates: Sequence[str]) -> list[Search]:
    """By surrogate, proposer and night."""
    space = the_space()
    known = Recorded.of(space, recorded())
    worlds = [fit(kind, space, known) for kind in surrogates]
    with ProcessPoolExecutor(os.cpu_count(), initializer=_begin, initargs=(worlds,)) as pool:
        jobs = [
            pool.submit(search, name, settings, world, night, runs)
            for world, (name, settings), night in product(surrogates, proposers.items(), range(nights))
        ]
        try:
            for job in as_completed(jobs):
                found = job.result()
                print(f"{found.world}, {found.proposer}, night {found.night}", flush=True)
        finally:
            pool.shutdown(cancel_futures=True)
    return [job.result() for job in jobs]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("request", type=Path)
    options.add_argument("result", type=Path)
    chosen = options.parse_args()
    found = searches(**json.loads(chosen.request.read_text("utf-8")))
    chosen.result.write_text(json.dumps([asdict(each) for each in found]) + "\n", "utf-8")


if __name__ == "__main__":
    main()
