"""The state of a study: where it stands, what is in flight, what it cost so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from autoresearch import words
from autoresearch.evidence.cluster import cluster
from autoresearch.evidence.evidence import Evidence, Standing
from autoresearch.evidence.nights import ending, trouble
from autoresearch.evidence.sentences import devices, improved, seed_ignored
from autoresearch.facts import ABSENT_IF_NONE
from autoresearch.metric import Metric
from autoresearch.study.folder import StudyFolder
from autoresearch.study.lock import lock_holder
from autoresearch.workers.fleet import Cluster


@dataclass(frozen=True)
class Event:
    """Something that happened in a study; trial None: about the study."""

    id: int
    at: str
    kind: str
    trial: int | None
    message: str


@dataclass(frozen=True)
class Status:
    """Every number that a person sees in `status`, in base units. None: nobody holds the lock, or not known."""

    study: str
    path: str
    preset: str
    control: str
    runner_pid: int | None
    daemon_pid: int | None
    trials: dict[str, int]  # outcome -> how many
    ideas_waiting: int
    runs: int
    run_seconds: float
    energy_joules: float | None
    energy_sources: list[str]
    cost: float | None  # in all
    energy_cost: float | None = field(metadata=ABSENT_IF_NONE)  # of that, told where tokens have a price
    token_cost: float | None = field(metadata=ABSENT_IF_NONE)
    currency: str
    metric: Metric
    run_to_run_deviation: float
    repeatable: bool
    devices: list[str]  # how far classes of device differ that runs were repeated on
    baseline: Standing
    incumbent: Standing
    improved: str  # what came of it, in a sentence
    in_flight: list[str]
    cluster: Cluster | None = field(metadata=ABSENT_IF_NONE)  # of the night that runs, where it runs on one
    last_night: str  # why it ended; "" while one goes on
    trouble: list[str]  # what went wrong beside the trials
    events: list[Event]

    @property
    def activity(self) -> str:
        return words.activity(self.runner_pid is not None, self.control)


def status(folder: StudyFolder) -> Status:
    store, evidence = folder.store, Evidence(folder)
    runner_pid = lock_holder(folder.path / "runner.lock")
    cost = evidence.cost
    outcomes = [trial.outcome for trial in evidence.trials[1:]]
    return Status(
        study=evidence.study["name"],
        path=str(folder.path),
        preset=folder.settings.preset,
        control=evidence.study["control"],
        runner_pid=runner_pid,
        daemon_pid=lock_holder(folder.path / "daemon.lock"),
        trials={outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
        ideas_waiting=store.waiting_ideas(),
        runs=evidence.n_ended,
        run_seconds=sum(evidence.seconds(trial) or 0.0 for trial in evidence.trials),
        energy_joules=evidence.joules,
        energy_sources=evidence.energy_sources,
        cost=cost.total,
        energy_cost=cost.energy if cost.tokens is not None else None,
        token_cost=cost.tokens,
        currency=folder.settings.energy.currency,
        metric=evidence.metric,
        run_to_run_deviation=evidence.noise.deviation,
        repeatable=folder.settings.repeatable,
        devices=devices(evidence),
        baseline=evidence.standing(evidence.baseline),
        incumbent=evidence.standing(evidence.incumbent),
        improved=improved(evidence),
        in_flight=[run.id for run in store.pending_runs() if run.state == "running" and runner_pid is not None],
        cluster=cluster(folder.path),
        last_night=ending(evidence) if runner_pid is None else "",
        trouble=[*trouble(evidence, running=runner_pid is not None), *filter(None, [seed_ignored(evidence)])],
        events=[Event(**event) for event in store.events(8)],
    )
