"""What a run of somebody's own program costs beside the program itself: python benchmarks/own_program.py [--runs 60].

Two programs that take no time: a shell script as a plain command, and a Python function behind the adapter. For each a
night of random search on one worker. Told are the wall time between the end of one run and the end of the next, the
part of it that is the worker's (from the request to the result: for a plain command starting it, too), and the rest:
proposing, rails, git, SQLite, files, and for a plain command the start of its worker as far as that is waited for.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from autoresearch.config import LimitSettings
from autoresearch.night.limits import StopRule
from autoresearch.night.loop import StudyLoop
from autoresearch.proposers.classic import RandomProposer
from autoresearch.study.folder import StudyFolder, create_own_study
from autoresearch.study.observer import Observer
from autoresearch.study.requests import start_workers
from autoresearch.trial import Run
from autoresearch.workers.machine import look
from trainer.protocol import RunResult

MENU = """\
[knobs.lr]
type = "float"
low = 1e-4
high = 1.0
scale = "log"
default = 0.01
"""
SHELL = 'echo "val_bpb: 1.$AUTORESEARCH_SEED"\n'
FUNCTION = """\
from autoresearch.adapter import serve
serve(lambda recipe, seed, budget, report: 1 + seed / 10)
"""


class Ends(Observer):
    """When runs ended, and how long their workers had them."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.inside: list[float] = []

    def run_finished(self, run: Run, result: RunResult) -> None:
        assert result.state == "complete", result.message
        self.at.append(time.perf_counter())
        self.inside.append(result.total_seconds or 0.0)


def night(folder: StudyFolder, runs: int) -> Ends:
    ends, machine = Ends(), look("cpu")
    launcher = start_workers(folder, machine)
    stop = StopRule(folder, LimitSettings(trials=runs, min_free_disk_bytes=0))
    try:
        StudyLoop(folder, launcher, RandomProposer(), machine, folder.path, stop, ends).run()
    finally:
        launcher.close()
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60, help="trials in each night")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        (home / "go.sh").write_text(SHELL)
        (home / "train.py").write_text(FUNCTION)
        programs: dict[str, dict[str, Any]] = {
            "plain command": {"command": "sh go.sh", "recipe": "environment"},
            "adapter": {"command": [sys.executable, "train.py"], "recipe": "adapter"},
        }
        for name, trainer in programs.items():
            study = create_own_study(
                home / "home", name.replace(" ", "-"), {"folder": place, **trainer}, MENU, "menu.toml", {}
            )
            ends = night(study, arguments.runs)
            each = [after - before for before, after in zip(ends.at, ends.at[1:], strict=False)]
            inside = statistics.median(ends.inside)
            print(
                f"{name}: {1000 * statistics.median(each):.0f} ms a run (median of {len(each)}; 9 in 10 under "
                f"{1000 * statistics.quantiles(each, n=10)[-1]:.0f} ms), of it {1000 * inside:.1f} ms in the worker",
                flush=True,
            )


if __name__ == "__main__":
    main()
