"""Writes a study as an Optuna storage, a SQLite file that optuna-dashboard opens."""

from __future__ import annotations

import json
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

from autoresearch.exchange.source import moment
from autoresearch.exchange.study_rows import StudyRows, WholeTrial
from autoresearch.facts import told
from autoresearch.metric import Metric
from autoresearch.study.folder import StudyFolder
from rails import Knob, Menu, RailsError, clean

ATTRIBUTES = (
    "parent", "proposer", "hypothesis", "decision", "reason", "val_bpb_stderr", "n_runs", "improvement",
    "improvement_low", "improvement_high", "test_bpb", "energy_joules", "energy_source",
)  # fmt: skip


def save_optuna(folder: StudyFolder, out: Path) -> None:
    """One study that makes its metric better; blocked trials, which were never trained, and open ones are left out."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = StudyRows.of(folder)
    storage = optuna.storages.RDBStorage(f"sqlite:///{out}")
    metric = folder.metric
    directions = optuna.study.StudyDirection
    direction = directions.MAXIMIZE if metric.higher_is_better else directions.MINIMIZE
    study = optuna.create_study(storage=storage, study_name=rows.study["name"], direction=direction)
    if not metric.is_bits_per_byte:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([metric.name])
    study.set_user_attr("made_by", "autoresearch")
    distributions = {name: _distribution(knob) for name, knob in folder.menu.knobs.items()}
    trained = [trial for trial in rows.trials if trial.row["state"] != "blocked" and not trial.is_open]
    study.add_trials([_trial(trial, folder.menu, distributions, metric) for trial in trained])
    storage.engine.dispose()


def _distribution(knob: Knob) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if knob.choices:
        return CategoricalDistribution(knob.choices)
    assert knob.low is not None and knob.high is not None
    log = knob.scale == "log"
    if knob.type == "int":
        return IntDistribution(int(knob.low), int(knob.high), log=log)
    return FloatDistribution(knob.low, knob.high, log=log)


def _trial(trial: WholeTrial, menu: Menu, distributions: dict[str, Any], metric: Metric) -> Any:
    """Optuna's form of a trial; a value that the menu does not admit is an attribute and no parameter."""
    from optuna.trial import TrialState, create_trial

    row = trial.row
    attributes = {"trial": trial.number, "state": row["state"], "changes": trial.changes}
    attributes |= told({name: row[name] for name in ATTRIBUTES if row[name] is not None}, metric)
    if trial.window_bpb is not None:
        attributes["window_bpb"] = trial.window_bpb
    parameters = {}
    for name, value in trial.recipe.items():
        try:
            parameters[name] = menu.knobs[name].admit(value)
        except (KeyError, RailsError):
            attributes[f"recipe_{name}"] = value
    first = next(iter(trial.measured), None)
    curve = json.loads(first["curve"] or "[]") if first else []
    complete = row["state"] == "complete"
    made = create_trial(
        state=TrialState.COMPLETE if complete else TrialState.FAIL,
        value=metric.turned(row["val_bpb"]) if complete else None,
        params=parameters,
        distributions={name: distributions[name] for name in parameters},
        user_attrs={name: clean(value, 500) if isinstance(value, str) else value for name, value in attributes.items()},
        intermediate_values={int(step): loss for step, loss in curve},
    )
    made.datetime_start, made.datetime_complete = _moment(row["started_at"]), _moment(row["finished_at"])
    return made


def _moment(text: str | None) -> datetime | None:
    """As Optuna keeps it: UTC without a zone."""
    found = moment(text)
    return found.replace(tzinfo=None) if found else None
