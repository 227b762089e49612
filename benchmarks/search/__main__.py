"""Races all ways of searching on the recorded runs' surrogates: table, figures and picture.

    python -m benchmarks.search [--nights 30] [--runs 400] [--arm GP --arm "loop, TPE, 1 worker"]

Cut off, it goes on where it ended. docs/search.md says what came of it.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import repeat
from pathlib import Path
from typing import Any

from .arms import ARMS
from .chart import draw
from .confirm import Confirmed
from .fitness import agreement, held_out
from .ground import CONFIRMED, RESULTS, the_space
from .race import Job, Race
from .results import as_json, as_markdown, real_nights, rows
from .surrogate import KINDS, Recorded, fit
from .table import recorded

HERE = Path(__file__).parent
NIGHTS_FOLDER = HERE / ".nights"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--nights", type=int, default=30, help="of each arm; half as many on the second surrogate (30)"
    )
    options.add_argument("--runs", type=int, default=400, help="of each night (default 400)")
    options.add_argument("--arm", action="append", choices=list(ARMS), help="race only this one, and such others")
    options.add_argument("--out", type=Path, default=RESULTS, help="folder of results.json, results.md, results.png")
    chosen = options.parse_args()

    space = the_space()
    known = Recorded.of(space, recorded())
    worlds = [fit(kind, space, known) for kind in KINDS]
    jobs = [
        Job(arm, world.name, night, chosen.runs)
        for arm in chosen.arm or ARMS
        for world, nights in zip(worlds, (chosen.nights, -(-chosen.nights // 2)), strict=True)
        for night in range(nights)
    ]
    nights = Race(worlds, NIGHTS_FOLDER).nights(jobs)

    with ProcessPoolExecutor(len(KINDS)) as pool:
        fits = dict(zip(KINDS, map(asdict, pool.map(held_out, KINDS, repeat(known))), strict=True))
    luck = worlds[0].luck
    found: dict[str, Any] = {
        "runs_recorded": sum(map(len, known.runs)),
        "recipes_recorded": len(known.runs),
        "nights": chosen.nights,
        "luck": {name: value for name, value in vars(luck).items() if name != "log_variance"},
        "held_out": fits,
        "agreement": asdict(agreement(worlds[0], worlds[1], known, space)),
        "arms": {world.name: as_json(rows(nights, world.name)) for world in worlds},
    }
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "results.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    page = "\n".join(f"Surrogate: {world.name}\n\n{as_markdown(rows(nights, world.name))}" for world in worlds)
    if (real := RESULTS / CONFIRMED).exists():
        confirmed = [Confirmed(**night) for night in json.loads(real.read_text("utf-8"))]
        page += f"\nReal nights\n\n{real_nights(confirmed, nights)}"
    (chosen.out / "results.md").write_text(page, "utf-8")
    draw(nights, chosen.out / "results.png")
    print(page)


if __name__ == "__main__":
    main()
