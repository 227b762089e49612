"""Records real cpu-nano runs for the surrogates, in any number of sittings.

    python -m benchmarks.search.collect FOLDER [--workers 2] [--hours 2]

Each run's result is a line of FOLDER/runs.jsonl; started again it goes on where it ended, in a new folder with the
runs that are shipped. What is run, design.py says; table.py packs it.
"""

import argparse
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

from rich.progress import Progress as Bar

from autoresearch.study.preset import load_preset
from autoresearch.workers.crew import Crew, Ended, Lost, Task
from autoresearch.workers.local import LocalLauncher
from rails import Limits, recipe_key
from trainer.data import manifest_of, prepare
from trainer.protocol import RunRequest

from .design import Design, Planned
from .ground import PRESET
from .table import recorded

VAL_POINTS = 4
RUN_SECONDS = 900
# What these say is said of the machine, not of the recipe: such a run is done again in the next sitting.
CUT_OFF = ("timed_out", "worker_died")


class Records:
    """The runs so far, one JSON object a line; several processes may add to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.write_text("".join(f"{json.dumps(row)}\n" for row in recorded()), "utf-8")
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        self._done = {(recipe_key(row["recipe"]), row["seed"]): row for row in self.rows}

    def has(self, run: Planned) -> bool:
        return (recipe_key(run.recipe), run.seed) in self._done

    def score(self, run: Planned) -> float | None:
        """val_bpb; None: the run failed."""
        return self._done[recipe_key(run.recipe), run.seed]["val_bpb"]

    def add(self, row: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            flock(file, LOCK_EX)
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)
        self._done[recipe_key(row["recipe"]), row["seed"]] = row


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--workers", type=int, default=2, help="runs at once, one thread each (default 2)")
    options.add_argument("--hours", type=float, default=float("inf"), help="begin no run after so many")
    chosen = options.parse_args()

    chosen.folder.mkdir(parents=True, exist_ok=True)
    preset = load_preset(PRESET)
    data_dir, budget = the_text(chosen.folder), preset.settings.whole_budget
    limits = Limits(budget=budget, vocab_size=manifest_of(data_dir).vocab_size, precisions=("bf16", "fp32"))
    records = Records(chosen.folder / "runs.jsonl")
    rounds = Design(preset.menu, limits).rounds(records.score)
    made_by = commit()
    ends = time.monotonic() + chosen.hours * 3600
    launcher = LocalLauncher(["cpu"] * chosen.workers, preset.settings.energy, chosen.folder / "worker.log")
    try:
        for planned in rounds:
            if not (waiting := [run for run in planned if not records.has(run)]):
                continue
            for run, result in _run(launcher, waiting, budget, str(data_dir), chosen.folder, ends):
                if result["failure"] in CUT_OFF:
                    print(f"{result['run_id']} is left for the next sitting: {result['message']}")
                    continue
                records.add({"kind": run.kind, "commit": made_by, "recipe": run.recipe, **result})
            if not all(map(records.has, planned)):
                break
    finally:
        launcher.close()
    print(f"{len(records.rows)} runs in {records.path}")


def _run(
    launcher: LocalLauncher, planned: list[Planned], budget: dict[str, float], data_dir: str, folder: Path, ends: float
) -> Iterator[tuple[Planned, dict[str, Any]]]:
    crew: Crew[Planned] = Crew(launcher)
    waiting = list(reversed(planned))

    def next_task() -> Task[Planned] | None:
        if not waiting or time.monotonic() > ends:
            return None
        run = waiting.pop()
        run_id = f"{recipe_key(run.recipe)[:12]}-{run.seed}"
        run_folder = folder / "runs" / run_id
        run_folder.mkdir(parents=True, exist_ok=True)
        request = RunRequest(
            run_id,
            dict(run.recipe),
            run.seed,
            budget,
            data_dir,
            str(run_folder / "result.json"),
            device="cpu",
            score_test=True,
            val_points=VAL_POINTS,
        )
        return Task(run, request, RUN_SECONDS)

    with Bar() as bar:
        shown = bar.add_task(planned[0].kind if planned else "", total=len(planned))
        while True:
            for _ in crew.hand_out(next_task):
                pass
            if not crew.in_flight:
                return
            event = crew.next_event()
            if isinstance(event, Lost):
                waiting.append(event.run)
            elif isinstance(event, Ended):
                bar.advance(shown)
                shutil.rmtree(folder / "runs" / event.result.run_id)
                yield event.run, asdict(event.result) | {"joules": event.energy.joules}


def the_text(folder: Path) -> Path:
    """The preset's text, prepared in the folder unless it is there."""
    text = load_preset(PRESET).settings.data.model_dump()
    return prepare(text.pop("source"), folder / "data", **text)


def commit() -> str:
    """The project's, with a mark where files are changed."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
