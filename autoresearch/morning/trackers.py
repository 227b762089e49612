"""Experiment trackers, off by default: each closed trial goes to TensorBoard, Weights & Biases or Trackio."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Protocol

from autoresearch.errors import UserError
from autoresearch.evidence import Evidence
from autoresearch.evidence.compute import compute
from autoresearch.facts import told
from autoresearch.metric import VAL_BPB, Metric
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import Observer
from autoresearch.trial import Recipe, Trial
from autoresearch.workers.energy import JOULES_PER_KWH
from rails import clean

PROJECT = "autoresearch"
# So long may a tracker upload at the end of a night; what is left lies on disk for `wandb sync`.
FINISH_SECONDS = 60.0

Values = Mapping[str, float | str]


class Tracker(Protocol):
    """One place that takes values by name; text among them is short. It may raise anything."""

    def log(self, step: int, values: Values) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `tracking/tensorboard`, one a night; `tensorboard --logdir` shows them as one run."""

    def __init__(self, folder: StudyFolder) -> None:
        files = _package("tensorboard", "tensorboard.summary.writer.event_file_writer")
        self._writer = files.EventFileWriter(str(_place(folder) / "tensorboard"))

    def log(self, step: int, values: Values) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.util.tensor_util import make_tensor_proto

        found = [
            Summary.Value(tag=name, simple_value=value)
            if isinstance(value, int | float)
            else Summary.Value(
                tag=name, metadata=create_summary_metadata(name, ""), tensor=make_tensor_proto(value.encode())
            )
            for name, value in values.items()
        ]
        self._writer.add_event(Event(step=step, summary=Summary(value=found)))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run of project `autoresearch` that every night of the study goes on with; WANDB_MODE=offline is respected."""

    def __init__(self, folder: StudyFolder) -> None:
        wandb = _package("wandb", "wandb")
        # Nothing of the machine or of the checkout is sent, only what is logged.
        settings = dict(console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True)
        try:
            self._run = wandb.init(
                project=PROJECT, name=folder.name, id=_identity(folder), resume="allow", dir=str(_place(folder)),
                config=_terms(folder), settings=wandb.Settings(**settings, finish_timeout=FINISH_SECONDS),
            )  # fmt: skip
        except wandb.errors.UsageError as error:
            raise UserError(
                f"tracker wandb: {clean(str(error), 200)} Log in, set WANDB_MODE=offline, or take it out of `trackers` "
                f"in {folder.path}/study.toml"
            ) from None
        # Not wandb's own step, which may not go back: with several workers trial 8 may close before trial 7.
        self._run.define_metric("*", step_metric="trial")

    def log(self, step: int, values: Values) -> None:
        self._run.log({"trial": step, **values})

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of project `autoresearch` in Trackio's own folder; `trackio show --project autoresearch` shows it."""

    def __init__(self, folder: StudyFolder) -> None:
        trackio = _package("trackio", "trackio")
        # Trackio goes on with a run by its name, and another study may have had this one's.
        name = f"{folder.name}-{_identity(folder)[:6]}"
        self._run = trackio.init(
            project=PROJECT, name=name, resume="allow", config=_terms(folder), embed=False, auto_log_gpu=False,
            auto_log_cpu=False,
        )  # fmt: skip

    def log(self, step: int, values: Values) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[[StudyFolder], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


class Trackers(Observer):
    """Feeds the named trackers with each trial that closes, its number as the step. Use as a context manager.

    Raises UserError at once where a package or a login is missing. A tracker that fails in any other way, now or
    later, is noted in the study's events, told to `tell` and left out from then on: the night goes on.
    """

    def __init__(
        self, folder: StudyFolder, names: Iterable[str], tell: Callable[[str], None] = lambda text: None
    ) -> None:
        self.folder, self._tell = folder, tell
        self._open: dict[str, Tracker] = {}
        for name in names:
            try:
                self._open[name] = TRACKERS[name](folder)
            except UserError:
                self.close()
                raise
            except Exception as error:  # packages of others, and a network: see the class
                self._leave_out(name, error)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def trial_closed(self, trial: Trial) -> None:
        if self._open:
            evidence = Evidence(self.folder)
            values = measured(evidence, trial).values(evidence.metric)
            self._each(lambda tracker: tracker.log(trial.number, values))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())
        self._open.clear()

    def _each(self, work: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                work(tracker)
            except Exception as error:  # as above
                self._leave_out(name, error)

    def _leave_out(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        problem = clean(f"{type(error).__name__}: {error}", 200)
        text = f"tracker {name} failed ({problem}); the night goes on without it"
        self.folder.store.log("tracker", text)
        self._tell(text)


@dataclass(frozen=True)
class Measured:
    """What is known of a trial when it closes, in base units; None where there is nothing to tell."""

    val_bpb: float | None
    val_bpb_half_interval: float | None
    n_runs: int
    improvement: float | None
    incumbent_val_bpb: float | None
    energy_joules: float | None
    study_kwh: float
    seconds: float | None
    tokens: float | None
    flops: float | None
    tokens_per_second: float | None
    outcome: str
    recipe: Recipe

    def values(self, metric: Metric = VAL_BPB) -> Values:
        """By name, flat: those that there are, and recipe/KNOB for each knob that is a number."""
        facts = told(vars(self), metric)
        known = {name: value for name, value in facts.items() if name != "recipe" and value is not None}
        knobs = {f"recipe/{knob}": float(value) for knob, value in self.recipe.items() if not isinstance(value, str)}
        return {**known, **knobs}


def measured(evidence: Evidence, trial: Trial) -> Measured:
    took = compute(evidence, trial)
    return Measured(
        val_bpb=trial.val_bpb,
        val_bpb_half_interval=evidence.half_interval(trial),
        n_runs=trial.n_runs,
        improvement=trial.improvement,
        incumbent_val_bpb=evidence.standing(evidence.incumbent).val_bpb,
        energy_joules=trial.energy_joules,
        study_kwh=(evidence.joules or 0.0) / JOULES_PER_KWH,
        seconds=evidence.seconds(trial),
        tokens=took.tokens,
        flops=took.flops,
        tokens_per_second=evidence.tokens_per_second(trial),
        outcome=trial.outcome,
        recipe=trial.recipe,
    )


def _package(extra: str, module: str) -> ModuleType:
    try:
        found = import_module(module)
        missing = found.__file__ is None  # a mere folder of that name, such as the ./wandb that wandb leaves behind
    except ImportError:
        missing = True
    if missing:
        raise UserError(
            f"tracker {extra} is not installed: run `pip install -e '.[{extra}]'`, or take it out of `trackers` in "
            "study.toml"
        )
    return found


def _place(folder: StudyFolder) -> Path:
    place = folder.path / "tracking"
    place.mkdir(exist_ok=True)
    return place


def _identity(folder: StudyFolder) -> str:
    """The same every night, and another for a later study of the same name."""
    study = folder.store.study()
    return hashlib.sha256(f"{study['name']} {study['created_at']}".encode()).hexdigest()[:16]


def _terms(folder: StudyFolder) -> dict[str, Any]:
    baseline = folder.store.trial(0)
    assert baseline is not None
    return {"preset": folder.settings.preset, "budget": folder.settings.whole_budget, "baseline": baseline.recipe}
