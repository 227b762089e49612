"""What a run costs through Ray beyond what it costs here: python benchmarks/cluster_overhead.py [--runs 300].

Hands runs that take no time (the tests' stub worker) one after another to one local worker and to one slot of a Ray
cluster on this machine, and measures from the submission to the result, in turns, so that a busy machine hits both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from autoresearch.config import EnergySettings, WorkerSettings
from autoresearch.study.preset import load_preset
from autoresearch.workers.launcher import Finished, Launcher
from autoresearch.workers.local import LocalLauncher
from autoresearch.workers.ray_launcher import RayLauncher
from trainer.protocol import RunRequest

STUB = (sys.executable, str(Path(__file__).parents[1] / "tests" / "support" / "stub_worker.py"))
WARM = 20  # runs that are not counted


def seconds_of(launcher: Launcher, request: RunRequest) -> float:
    began = time.perf_counter()
    launcher.submit(request, 60.0)
    while not isinstance(launcher.next_event(60.0), Finished):
        pass
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300, help="with each launcher")
    chosen = parser.parse_args()
    preset = load_preset("cpu-nano")
    workers = WorkerSettings(launcher="ray", address="local", most=1)
    settings = preset.settings.model_copy(update={"device": "cpu", "workers": workers})
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "workers.log"
        began = time.perf_counter()
        cluster = RayLauncher(settings, log, command=STUB)
        while not cluster.capacity:
            cluster.next_event(0.05)
        print(f"the first slot takes runs after {time.perf_counter() - began:.1f} s")
        launchers: dict[str, Launcher] = {"local": LocalLauncher(["cpu"], EnergySettings(), log, STUB), "ray": cluster}
        taken: dict[str, list[float]] = {name: [] for name in launchers}
        request = RunRequest("0001-0", preset.recipe, 0, {"tokens": 1000}, "data", str(Path(place) / "result.json"))
        for _ in range(WARM + chosen.runs):
            for name, launcher in launchers.items():
                taken[name].append(seconds_of(launcher, request))
        for launcher in launchers.values():
            launcher.close()
    for name, seconds in taken.items():
        parts = [1000 * part for part in statistics.quantiles(seconds[WARM:], n=20)]
        print(f"{name}: {parts[9]:.1f} ms a run (median of {chosen.runs}; nine of ten within {parts[17]:.1f} ms)")
    over = statistics.median(taken["ray"][WARM:]) - statistics.median(taken["local"][WARM:])
    print(f"through Ray {1000 * over:.1f} ms more a run")


if __name__ == "__main__":
    main()
