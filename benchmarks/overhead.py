"""Share of the workers' time that is not training or evaluation: python benchmarks/overhead.py [--trials 6].

Runs real cpu-nano nights on this machine in a temporary folder, with one worker and with one per core. Looks at the
stretch in which every worker is warm and there is always work: from the end of the first run on each worker to the
start of the last trial, after which workers run dry one by one. Overhead is everything but training and evaluation:
proposing, rails, git, SQLite, process traffic, building model and batches, waiting.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from autoresearch.config import EnergySettings, LimitSettings
from autoresearch.night.limits import StopRule
from autoresearch.night.loop import StudyLoop
from autoresearch.proposers.tpe import TpeProposer
from autoresearch.study.folder import StudyFolder, create_study
from autoresearch.trial import from_iso
from autoresearch.workers.local import LocalLauncher
from autoresearch.workers.machine import look


def night(home: Path, workers: int, trials: int) -> StudyFolder:
    machine = look("cpu")
    folder = create_study(home, f"workers-{workers}", "cpu-nano", machine, {})
    data_dir = folder.prepare_data()
    launcher = LocalLauncher(["cpu"] * workers, EnergySettings(), folder.path / "workers.log")
    stop = StopRule(folder, LimitSettings(trials=trials))
    try:
        StudyLoop(folder, launcher, TpeProposer(), machine, data_dir, stop).run()
    finally:
        launcher.close()
    return folder


def shares(folder: StudyFolder, workers: int) -> tuple[float, float, int, float]:
    """(share outside training and evaluation, of it inside the worker process, runs looked at, trials per hour)."""
    sql = """SELECT started_at, finished_at, train_seconds + eval_seconds, total_seconds FROM runs
             WHERE state = 'complete' ORDER BY started_at"""
    rows = [(from_iso(a), from_iso(b), busy, total) for a, b, busy, total in folder.store.db.execute(sql).fetchall()]
    begin = max(row[1] for row in rows[:workers])
    end = from_iso(max(trial.started_at for trial in folder.store.trials() if trial.state != "blocked"))
    window = (end - begin).total_seconds() * workers
    busy = inside = 0.0
    for started, finished, work, total in rows:
        overlap = (min(finished, end) - max(started, begin)).total_seconds()
        if overlap > 0:
            share = overlap / (finished - started).total_seconds()
            busy += work * share
            inside += (total - work) * share
    trials = len(folder.store.trials()) - 1
    hours = (rows[-1][1] - rows[0][0]).total_seconds() / 3600
    return 1 - busy / window, inside / window, len(rows), trials / hours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=6, help="trials in each night")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        for workers in sorted({1, look("cpu").devices}):
            folder = night(Path(home), workers, arguments.trials)
            overhead, inside, runs, per_hour = shares(folder, workers)
            seconds = [run.total_seconds for run in folder.store.runs() if run.total_seconds]
            print(
                f"{workers} workers: overhead {100 * overhead:.2f} % of the workers' time "
                f"({100 * inside:.2f} % inside the worker: model, data, results), {runs} runs of "
                f"{statistics.median(seconds):.1f} s (median; {min(seconds):.1f} to {max(seconds):.1f}), "
                f"{per_hour:.0f} trials an hour",
                flush=True,
            )


if __name__ == "__main__":
    main()
