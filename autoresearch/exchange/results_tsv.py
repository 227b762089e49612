"""Writes results.tsv as users of karpathy/autoresearch expect it: commit, val_bpb, memory_gb, status, description."""

from __future__ import annotations

import csv
import io

from autoresearch import words
from autoresearch.exchange.study_rows import StudyRows, WholeTrial
from autoresearch.metric import VAL_BPB, Metric
from autoresearch.study.folder import StudyFolder
from rails import clean

COLUMNS = ("commit", "val_bpb", "memory_gb", "status", "description")


def write(folder: StudyFolder) -> str:
    """Trials that were trained; a crash reads 0.000000 and 0.0, as that format has it."""
    rows = StudyRows.of(folder)
    stream = io.StringIO()
    table = csv.writer(stream, delimiter="\t", lineterminator="\n")
    metric = folder.metric
    table.writerow(metric.name if column == VAL_BPB.name else column for column in COLUMNS)
    for trial in rows.trials:
        if trial.row["state"] != "blocked" and not trial.is_open:
            table.writerow(_cells(rows, trial, metric))
    return stream.getvalue()


def _cells(rows: StudyRows, trial: WholeTrial, metric: Metric) -> tuple[str, ...]:
    row = trial.row
    # An imported trial has no commit; its recipe's key serves as well to tell recipes apart.
    commit = (row["commit"] or row["recipe_key"] or f"{trial.number:07d}")[:7]
    if trial.number == 0:
        description = "baseline"
    else:
        change = words.change(trial.changes, rows.parent_recipe(trial))
        description = clean(": ".join(part for part in (change, row["hypothesis"]) if part), 300)
    if row["val_bpb"] is None:
        return commit, "0.000000", "0.0", "crash", description
    status = "keep" if trial.number == 0 or row["decision"] == "keep" else "discard"
    memory = f"{(trial.most('peak_memory_bytes') or 0) / 2**30:.1f}"
    return commit, words.exact(row["val_bpb"], metric), memory, status, description
