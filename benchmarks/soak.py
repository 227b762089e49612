"""A night of 5,000 trials, and what grows in it: `python benchmarks/soak.py [--trials 5000]`.

Runs the whole night (loop, rails, git, database, plain display, report) in a temporary folder with the stub worker of
the tests, which answers at once. At trial 500, 1,000 and so on a line: resident memory of the runner, its open files
and threads, the processor's time for a trial (its own and git's; the worker's is left out) over the last 200, and the
size of the database. At the end: what the report takes, and one load of the live page's facts. Targets: at the last
trial memory within 10 % of that at 500, and a median trial at most 1.5 times as long.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import httpx
import psutil
import uvicorn
from rich.console import Console

from autoresearch.config import EnergySettings, LimitSettings
from autoresearch.morning.reporter import Reporter
from autoresearch.morning.serve import make_app
from autoresearch.night.display import Display
from autoresearch.night.limits import StopRule
from autoresearch.night.loop import StudyLoop
from autoresearch.proposers.classic import ScriptedProposer
from autoresearch.study.folder import StudyFolder, create_study
from autoresearch.study.observer import Observer, Observers
from autoresearch.trial import Trial
from autoresearch.workers.local import LocalLauncher
from autoresearch.workers.machine import look

STUB = (sys.executable, str(Path(__file__).parents[1] / "tests" / "support" / "stub_worker.py"))
EVERY, LAST = 500, 200
HEADINGS = ("trial", "memory MiB", "files", "threads", "median ms", "mean ms", "database MiB")
# Knob -> lowest and highest value. A beta1 below 0.6 diverges, a lr of 0.004 is best; the rest is noise.
DRAWN = {
    "lr": (1e-4, 3e-2), "weight_decay": (0.0, 0.5), "beta1": (0.55, 0.99), "beta2": (0.8, 0.9999),
    "grad_clip": (0.1, 5.0),
}  # fmt: skip
REPEATED = 0.05  # share of answers that came before, which the rails block


def answers(trials: int) -> Iterator[str]:
    """A night's answers, the same each time: one knob, one value; some come again."""
    rng, known = random.Random(0), list[str]()
    for _ in range(trials):
        knob = rng.choice(list(DRAWN))
        value = float(f"{rng.uniform(*DRAWN[knob]):.6g}")
        answer = json.dumps({"knob": knob, "new_value": value, "reason": "Drawn at random."})
        known.append(rng.choice(known) if known and rng.random() < REPEATED else answer)
        yield known[-1]


def busy_seconds() -> float:
    """Processor seconds of this process and of those it has waited for: every git, but not the workers, which last."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


class Watch(Observer):
    """Prints what the process has grown to."""

    def __init__(self, folder: StudyFolder) -> None:
        self.database, self.process = folder.path / "study.db", psutil.Process()
        self._last: deque[float] = deque(maxlen=LAST)
        self._before = busy_seconds()
        self.seen: list[tuple[float, float]] = []  # memory, median

    def trial_closed(self, trial: Trial) -> None:
        now = busy_seconds()
        self._last.append(1000 * (now - self._before))
        self._before = now
        if trial.number and trial.number % EVERY == 0:
            memory = self.process.memory_info().rss / 2**20
            median = statistics.median(self._last)
            self.seen.append((memory, median))
            size = sum(path.stat().st_size for path in self.database.parent.glob("study.db*")) / 2**20
            print(
                f"{trial.number:>7}{memory:>12.1f}{self.process.num_fds():>8}{self.process.num_threads():>9}"
                f"{median:>11.1f}{statistics.fmean(self._last):>10.1f}{size:>14.1f}",
                flush=True,
            )


def night(folder: StudyFolder, trials: int, said: TextIO) -> Watch:
    """Runs the study as a session does, but for the workers."""
    watch = Watch(folder)
    launcher = LocalLauncher(["cpu"], EnergySettings(), folder.path / "workers.log", command=STUB)
    display = Display(folder, Console(file=said, width=120))
    reporter = Reporter(folder, display.note)
    stop = StopRule(folder, LimitSettings(trials=trials, min_free_disk_bytes=0))
    proposer = ScriptedProposer(list(answers(trials)))
    try:
        observers = Observers([display, reporter, watch])
        StudyLoop(folder, launcher, proposer, look("cpu"), folder.path, stop, observers).run()
    finally:
        launcher.close()
        reporter.write()
    return watch


def timed(name: str, began: tuple[float, float], size: int) -> None:
    seconds, busy = time.perf_counter() - began[0], busy_seconds() - began[1]
    print(f"{name}: {seconds:.1f} s ({busy:.1f} s busy), {size / 2**20:.1f} MiB", flush=True)


def morning(folder: StudyFolder) -> None:
    """The report and the live page's facts after such a night."""
    import socket
    import threading

    from autoresearch.morning.report.page import write_report

    began = time.perf_counter(), busy_seconds()
    timed("report", began, write_report(folder).stat().st_size)
    server = uvicorn.Server(uvicorn.Config(make_app(folder.path.parent, folder.name), log_level="warning", ws="none"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        began = time.perf_counter(), busy_seconds()
        facts = httpx.get(f"http://127.0.0.1:{listener.getsockname()[1]}/facts.json", timeout=600).raise_for_status()
        timed("facts of the live page", began, len(facts.content))
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5_000, help="trials of the night")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = create_study(Path(temporary), "soak", "cpu-nano", look("cpu"), {})
        print("{:>7}{:>12}{:>8}{:>9}{:>11}{:>10}{:>14}".format(*HEADINGS), flush=True)
        with (Path(temporary) / "display.txt").open("w", encoding="utf-8") as said:
            watch = night(folder, arguments.trials, said)
        if len(watch.seen) > 1:
            (memory, median), (memory_then, median_then) = watch.seen[-1], watch.seen[0]
            print(f"last to first: memory {memory / memory_then:.3f}, median trial {median / median_then:.2f}")
        morning(folder)
        folder.store.close()


if __name__ == "__main__":
    main()
