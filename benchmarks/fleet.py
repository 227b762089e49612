"""How much of what so many workers could do a night really does: python benchmarks/fleet.py [--ray].

The shipped study loop, with its database on disk and its git repository. By default the workers are simulated: a run
takes its simulated length, and the clock goes on besides by the real time that the runner needs between two events, so
that workers wait for a slow runner as they would. Scores are those of a surrogate of real runs (benchmarks/search).
With --ray the workers are real: actors of a Ray cluster on this machine, each with a worker that sleeps.

A run takes 300 s, within a tenth: one of minutes, of which a worker does 96 in eight hours. The shorter a run, the more
the runner has to do, hence --seconds: gpt-354m's 983,040 tokens are five seconds of training where a GPU does 200,000 a
second. --runs is what a worker has time for, so that with 96 a night's end weighs the same for any length. Two ratios,
both over the whole night:

of ideal: trials an hour, against as many times those of the same night with one worker. The runs of the baseline and
those that confirm weigh more in a short list of trials, and a long one replicates fewer, so this may exceed 1.
runs, of ideal: the share of the workers' time in which they ran something; 1 is no gap between two runs, which would be
workers x 3600 / run length an hour. "before its end" is the same until the night's hours were over: after that no trial
begins, and the runs that settle and confirm what there is leave workers idle.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean

from search.ground import PRESET, the_space
from search.night import World
from search.surrogate import Recorded, fit
from search.table import recorded
from sleeper import SCATTER

from autoresearch.config import LimitSettings, WorkerSettings
from autoresearch.night.limits import SECONDS_PER_HOUR, StopRule
from autoresearch.night.loop import StudyLoop
from autoresearch.proposers import Proposer
from autoresearch.proposers.bayes import BayesProposer
from autoresearch.proposers.classic import RandomProposer
from autoresearch.proposers.hybrid import HybridProposer
from autoresearch.study.folder import StudyFolder, create_study
from autoresearch.trial import History, Proposal, from_iso, utc_now
from autoresearch.workers.energy import Energy
from autoresearch.workers.launcher import Event, Finished, Progress
from autoresearch.workers.machine import Machine
from rails import recipe_key
from trainer.protocol import RunRequest

MACHINE = Machine("cpu", "simulated", 2, 2**40, ("fp32", "bf16"))
STEPS = 60
SIGN_SECONDS = 0.5  # between two signs of a run; the trainer's
# Where in a run it gives a sign: shares of it, and seconds before its end, when a model is asked for the next proposal.
SIGNS, LAST_SIGNS = (0.0, 0.25, 0.5, 0.75), (12.0, 6.0, 4.0, 2.0)
ANSWER_SECONDS = 3.0  # of a model
MODEL_SHARE = 0.3  # of a hybrid's trials; the presets'


@dataclass(order=True)
class _Due:
    at: float
    number: int  # of two at once the first one submitted comes first
    event: Event = field(compare=False)
    stands_for: float = field(compare=False, default=1.0)  # so many events of its kind


class Late:
    """A proposer whose model takes ANSWER_SECONDS of the simulated clock for an answer; one question at a time."""

    def __init__(self, proposer: Proposer) -> None:
        self.name, self._proposer = proposer.name, proposer
        self.clock: Callable[[], float] = time.monotonic
        self.due: float | None = None  # when the question that is out will be answered
        self._thought, self._answered = threading.Event(), threading.Event()

    def takes_long(self, history: History) -> bool:
        takes_long: Callable[[History], bool] = getattr(self._proposer, "takes_long", lambda _: True)
        if not takes_long(history):
            return False
        self.due = self.clock() + ANSWER_SECONDS
        self._thought.clear()
        self._answered.clear()
        return True

    def propose(self, history: History) -> Proposal:
        due, proposal = self.due, self._proposer.propose(history)
        if due is None:
            return proposal
        self._thought.set()
        self._answered.wait()
        return replace(proposal, latency_seconds=ANSWER_SECONDS)

    def is_now(self, now: float) -> None:
        """What this machine does for an answer is done by then, however fast the clock goes."""
        if self.due is not None:
            self._thought.wait()
            if now >= self.due:
                self.due = None
                self._answered.set()

    def hang_up(self) -> None:
        self._answered.set()


class AtOnce(RandomProposer):
    """A model's answers, without its time."""

    name = "llm"

    def propose(self, history: History, advice: object = None) -> Proposal:
        return replace(super().propose(history), proposer=self.name)

    def takes_long(self, history: History) -> bool:
        return True


PROPOSERS: dict[str, Callable[[], Proposer]] = {
    "gp": BayesProposer,
    "random": RandomProposer,
    "model": lambda: Late(AtOnce()),
    "hybrid": lambda: Late(HybridProposer(BayesProposer(), AtOnce(), MODEL_SHARE)),
}


WITHOUT_A_MODEL = ("gp", "random")
SLEEPER = (sys.executable, str(Path(__file__).with_name("sleeper.py")))
CPUS = 0.1  # of a run on Ray: a worker that sleeps takes none


class ClockedLauncher:
    """So many simulated workers, on a clock that also counts what the runner takes in real time."""

    def __init__(self, world: World, capacity: int, run_seconds: float, proposer: Proposer) -> None:
        self.capacity, self.runner_seconds = capacity, 0.0
        self.ran: list[tuple[float, float]] = []  # when a run began and when it ended
        self._world, self._run_seconds = world, run_seconds
        self._late = proposer if isinstance(proposer, Late) else None
        if self._late:
            self._late.clock = self.clock
        self._due: list[_Due] = []
        self._numbers = itertools.count()
        self._now, self._since, self._counts = 0.0, time.perf_counter(), 1.0

    def clock(self) -> float:
        """Simulated seconds since the beginning."""
        return self._now + time.perf_counter() - self._since

    def submit(self, request: RunRequest, timeout_seconds: float) -> None:
        request.write(Path(request.result_path).with_name("request.json"))
        with self._unseen():
            self._begin(request, self.clock())

    def cancel(self, run_id: str) -> None: ...

    def next_event(self, timeout_seconds: float) -> Event | None:
        spent = (time.perf_counter() - self._since) * self._counts
        self.runner_seconds += spent
        self._now += spent
        self._counts, found = 1.0, self._look(timeout_seconds)
        self._since = time.perf_counter()
        return found

    def close(self) -> None: ...

    def _begin(self, request: RunRequest, began: float) -> None:
        result = self._world.run(request.recipe, request.seed, 0)
        luck = random.Random(f"{request.seed}/{recipe_key(request.recipe)}")
        took = self._run_seconds * luck.uniform(1 - SCATTER, 1 + SCATTER)
        if result.state == "failed":
            took *= luck.random()
        shares = sorted({*SIGNS, *(1 - seconds / took for seconds in LAST_SIGNS if seconds < took)})
        for share in shares:
            sign = Progress(request.run_id, "train", round(STEPS * share), STEPS, 5.0)
            heapq.heappush(
                self._due,
                _Due(
                    began + share * took,
                    next(self._numbers),
                    sign,
                    max(1.0, took / SIGN_SECONDS / len(shares)),
                ),
            )
        curve = [[step, 5.0] for step in range(1, STEPS + 1)]
        result = replace(result, run_id=request.run_id, total_seconds=took, curve=curve)
        ended = Finished(request.run_id, result, Energy(0.0, "estimate"))
        heapq.heappush(self._due, _Due(began + took, next(self._numbers), ended))
        self.ran.append((began, began + took))

    def _look(self, timeout_seconds: float) -> Event | None:
        asked = self._late is not None and self._late.due is not None
        # With no question out, nothing can happen before the next event.
        until = self._now + timeout_seconds if asked or not self._due else self._due[0].at
        if self._due and self._due[0].at <= until:
            found = heapq.heappop(self._due)
            self._now, self._counts = max(self._now, found.at), found.stands_for
            event: Event | None = found.event
        else:
            self._now, event = until, None
        if self._late:
            self._late.is_now(self._now)
        return event

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        """What is done inside takes no time."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began


@dataclass(frozen=True)
class Night:
    """What came of one. Shares of the workers' time: with a run, over all of the night and until its time was over."""

    runs: int
    trials: int
    hours: float
    busy: float
    busy_before_end: float
    runner: float | None = None  # share of the night in which the runner was at work

    @property
    def trials_an_hour(self) -> float:
        return self.trials / self.hours


def simulated(world: World, proposer: Proposer, workers: int, run_seconds: float, hours: float, seed: int) -> Night:
    with tempfile.TemporaryDirectory() as home:
        folder = create_study(Path(home), "night", PRESET, MACHINE, {"seed": seed})
        launcher = ClockedLauncher(world, workers, run_seconds, proposer)
        stop = StopRule(folder, LimitSettings(hours=hours, min_free_disk_bytes=0), seconds=launcher.clock)
        StudyLoop(folder, launcher, proposer, MACHINE, folder.path, stop).run()
        ended = launcher.clock()
        night = _summed_up(folder, launcher.ran, workers, hours, ended)
        folder.store.close()
    return replace(night, runner=launcher.runner_seconds / ended)


def on_ray(proposer: Proposer, workers: int, run_seconds: float, hours: float, seed: int) -> Night:
    """One night on so many places of a cluster on this machine, begun when all of them take runs."""
    from autoresearch.workers.ray_launcher import RayLauncher

    with tempfile.TemporaryDirectory() as home:
        folder = create_study(Path(home), "night", PRESET, MACHINE, {"seed": seed})
        asked = WorkerSettings(launcher="ray", address="local", most=workers, cpus=CPUS)
        settings = folder.settings.model_copy(update={"device": "cpu", "workers": asked})
        launcher = RayLauncher(settings, Path(home) / "workers.log", command=[*SLEEPER, str(run_seconds)])
        while launcher.capacity < workers:
            launcher.next_event(0.05)
        try:
            began = utc_now()
            stop = StopRule(folder, LimitSettings(hours=hours, min_free_disk_bytes=0))
            StudyLoop(folder, launcher, proposer, MACHINE, folder.path, stop).run()
            ended = (utc_now() - began).total_seconds()
        finally:
            launcher.close()
        runs = [run for run in folder.store.runs() if run.started_at]
        begun = [(from_iso(run.started_at or "") - began).total_seconds() for run in runs]
        ran = [(at, at + (run.total_seconds or 0.0)) for at, run in zip(begun, runs, strict=True)]
        night = _summed_up(folder, ran, workers, hours, ended)
        folder.store.close()
    return night


def _summed_up(
    folder: StudyFolder, ran: Sequence[tuple[float, float]], workers: int, hours: float, ended: float
) -> Night:
    """ran: when runs began and ended, in seconds since the night's beginning, as `ended` is."""
    tried = sum(trial.number > 0 and trial.n_runs > 0 for trial in folder.store.trials())
    given = hours * SECONDS_PER_HOUR
    before = sum(min(until, given) - min(began, given) for began, until in ran)
    busy = sum(until - began for began, until in ran)
    return Night(len(ran), tried, ended / SECONDS_PER_HOUR, busy / (workers * ended), before / (workers * given))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ray", action="store_true", help="real workers, on Ray")
    options.add_argument("--workers", type=int, nargs="+", help="1 4 16 64; with --ray 1 2 4 8")
    options.add_argument("--seconds", type=float, help="that a run takes: 300; with --ray 2")
    options.add_argument("--runs", type=int, help="that a worker has time for: 96, eight hours; with --ray 30")
    options.add_argument("--proposer", choices=list(PROPOSERS), default="gp")
    options.add_argument("--seed", type=int, nargs="+", default=[0], help="of the study; of several, the means")
    chosen = options.parse_args()
    seconds = chosen.seconds or (2.0 if chosen.ray else 300.0)
    hours = (chosen.runs or (30 if chosen.ray else 96)) * seconds / SECONDS_PER_HOUR
    if chosen.ray:
        assert chosen.proposer in WITHOUT_A_MODEL, "a model is simulated on the clock of simulated workers only"
        night: Callable[..., Night] = on_ray
    else:
        space = the_space()
        night = partial(simulated, fit("smooth", space, Recorded.of(space, recorded())))
    print(f"{chosen.proposer}, runs of {seconds:g} s, nights of {hours:.2f} h")
    print("workers   runs  trials  trials/h  of ideal  runs, of ideal  before its end  runner at work")
    alone: float | None = None
    for workers in chosen.workers or ([1, 2, 4, 8] if chosen.ray else [1, 4, 16, 64]):
        nights = [night(PROPOSERS[chosen.proposer](), workers, seconds, hours, seed) for seed in chosen.seed]
        rate = fmean(each.trials_an_hour for each in nights)
        alone = rate if workers == 1 else alone
        runner = [each.runner for each in nights if each.runner is not None]
        print(
            f"{workers:7} {fmean(each.runs for each in nights):6.0f} {fmean(each.trials for each in nights):7.0f} "
            f"{rate:9.1f} {rate / (workers * alone) if alone else math.nan:9.3f} "
            f"{fmean(each.busy for each in nights):15.3f} {fmean(each.busy_before_end for each in nights):15.4f} "
            f"{fmean(runner) if runner else math.nan:15.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
