"""A study as one flat table, a row per trial: CSV for spreadsheets, Parquet for programs."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from autoresearch.errors import UserError
from autoresearch.exchange.study_rows import StudyRows, WholeTrial
from autoresearch.facts import told
from autoresearch.metric import Metric
from autoresearch.study.folder import StudyFolder
from rails import clean

ANSWER = ("model", "latency_seconds", "prompt_tokens", "completion_tokens")
SUMS = ("tokens", "flops", "train_seconds", "total_seconds")
# A spreadsheet takes a cell that begins so for a formula.
FORMULA = ("=", "+", "-", "@")


def csv_text(folder: StudyFolder) -> str:
    """Comma-separated, with a head; text that a spreadsheet would run as a formula gets a ' in front."""
    columns = _columns(StudyRows.of(folder), folder.metric)
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(columns)
    table.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    shown = clean(value, 4000)
    return f"'{shown}" if shown.startswith(FORMULA) else shown


def save_parquet(folder: StudyFolder, out: Path) -> None:
    """Raises UserError where pyarrow is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError("parquet needs pyarrow: pip install -e '.[data]'") from None
    parquet.write_table(pyarrow.table(_columns(StudyRows.of(folder), folder.metric)), out)


def _columns(rows: StudyRows, metric: Metric) -> dict[str, list[Any]]:
    """Name -> one value a trial: the columns of `trials`, then of the answer, then over the runs, then the knobs."""
    names = [name for name in rows.trials[0].row if name not in ("recipe", "source")]
    told_rows = [told({name: trial.row[name] for name in names}, metric) for trial in rows.trials]
    columns = {name: [row[name] for row in told_rows] for name in told_rows[0]}
    columns |= {name: [trial.proposal and trial.proposal[name] for trial in rows.trials] for name in ANSWER}
    columns |= {f"runs_{name}": [trial.total(name) for trial in rows.trials] for name in SUMS}
    columns["runs"] = [len(trial.runs) for trial in rows.trials]
    if metric.has_test:
        columns["window_bpb"] = [trial.window_bpb for trial in rows.trials]
    columns["params"] = [trial.most("params") for trial in rows.trials]
    columns["peak_memory_bytes"] = [trial.most("peak_memory_bytes") for trial in rows.trials]
    knobs = dict.fromkeys(knob for trial in rows.trials for knob in trial.recipe)
    return columns | {f"recipe_{knob}": _of_one_type(rows.trials, knob) for knob in knobs}


def _of_one_type(trials: list[WholeTrial], knob: str) -> list[Any]:
    values = [trial.recipe.get(knob) for trial in trials]
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    common: type = float if kinds == {int, float} else str
    return [common(value) if value is not None else None for value in values]
