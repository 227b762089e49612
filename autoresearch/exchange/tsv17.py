"""Reads and writes the lineage table of 17 columns, results.tsv, as fieldkit.lineage.LineageStore keeps it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from autoresearch.exchange.objects import (
    answer_object,
    read_answer,
    read_runs,
    read_settings,
    read_trial,
    run_objects,
    settle,
    shared_settings,
    trial_object,
)
from autoresearch.exchange.source import (
    Imported,
    Source,
    real,
    recipe_of,
    score_of,
    stamp,
    table,
    text,
    verbatim,
)
from autoresearch.exchange.study_rows import StudyRows, WholeTrial
from autoresearch.facts import kept, told
from autoresearch.metric import Metric
from autoresearch.study.folder import StudyFolder
from autoresearch.study.store.imports import Row
from autoresearch.trial import EPOCH, Recipe
from rails import clean, recipe_key
from rails.values import nearest

COLUMNS = (
    "exp_id", "timestamp", "specialist", "parent_exp", "baseline_exp", "domain", "hypothesis", "expected_delta",
    "status", "core_metric", "val_bpb", "delta_vs_best", "train_s", "total_s", "job_name", "snapshot_path", "notes",
)  # fmt: skip
SCORE = COLUMNS.index("val_bpb")
# status -> state. What crashed before it trained is failed here too: which rail would have blocked it is not known.
STATES = {
    "baseline": "complete", "keep": "complete", "discard": "complete", "disqualified": "complete",
    "crash": "failed", "preflight_crash": "failed", "eval_budget_overrun": "timed_out",
    "train_budget_overrun": "timed_out", "size_blocked": "blocked", "harness_abort": "abandoned",
}  # fmt: skip
STATUSES = {"failed": "crash", "timed_out": "train_budget_overrun", "abandoned": "harness_abort"}
# Columns of a trial that the table itself holds, or that notes need not repeat.
IN_TABLE = ("parent", "proposer", "hypothesis", "expected_delta", "val_bpb", "commit", "merge_commit")
BULKY = ("curve", "versions", "message")

Cells = dict[str, str]  # column -> text


def is_tsv17(content: str) -> bool:
    head = _cells_of(content.partition("\n")[0])
    return len(head) == len(COLUMNS) and head == _head(head[SCORE])


def _cells_of(head: str) -> list[str]:
    return head.removeprefix("\ufeff").rstrip("\r").split("\t")


def _head(name: str) -> list[str]:
    """The columns of scores of that name."""
    return [*COLUMNS[:SCORE], name, *COLUMNS[SCORE + 1 :]]


# --- out ---


def write(folder: StudyFolder) -> str:
    """An imported table leaves as it came, to the byte. Trials that are still open are left out."""
    rows = StudyRows.of(folder)
    if source := rows.source("tsv17"):
        return verbatim(source, [trial.row for trial in rows.trials])
    stream = io.StringIO()
    lines = csv.writer(stream, delimiter="\t", lineterminator="\n")
    lines.writerow(_head(folder.metric.name))
    best: float | None = None
    for trial in rows.trials:
        if not trial.is_open or trial.number == 0:
            lines.writerow(_cells(folder, rows, trial, best).values())
        if (val_bpb := trial.row["val_bpb"]) is not None:
            best = val_bpb if best is None else min(best, val_bpb)
    return stream.getvalue()


def _id(number: object) -> str:
    return f"{number:04d}" if isinstance(number, int) and number else "000"


def _cells(folder: StudyFolder, rows: StudyRows, trial: WholeTrial, best: float | None) -> Cells:
    row = trial.row
    metric, val_bpb = folder.metric, row["val_bpb"]
    shown = _shown(None if val_bpb is None else metric.turned(val_bpb))
    cells = {
        "exp_id": _id(trial.number),
        "timestamp": row["finished_at"] or row["started_at"],
        "specialist": row["proposer"],
        "parent_exp": _id(row["parent"]) if row["parent"] is not None else "",
        "baseline_exp": _id(0),
        "domain": ",".join(trial.changes) if trial.number else "baseline",
        "hypothesis": row["hypothesis"],
        "expected_delta": _shown(row["expected_delta"]),
        "status": _status(trial),
        "core_metric": shown,
        "val_bpb": shown,
        "delta_vs_best": _shown(metric.turned(val_bpb - best) if val_bpb is not None and best is not None else None),
        "train_s": _shown(trial.total("train_seconds")),
        "total_s": _shown(trial.total("total_seconds")),
        "job_name": f"{rows.study['name']}/{_id(trial.number)}",
        "snapshot_path": row["merge_commit"] or row["commit"] or "",
        "notes": "",
    }
    cells = {name: clean(value, 4000) for name, value in cells.items()}
    return cells | {
        "notes": json.dumps(told(_notes(folder, rows, trial), metric), separators=(",", ":"), allow_nan=False)
    }


def _shown(value: float | None) -> str:
    return "" if value is None else repr(value)


def _status(trial: WholeTrial) -> str:
    row = trial.row
    if trial.number == 0:
        return "baseline"
    if row["state"] == "blocked":
        return "size_blocked" if row["rail"] == "fit" else "preflight_crash"
    if row["state"] == "complete":
        return "keep" if row["decision"] == "keep" else "discard"
    return STATUSES[row["state"]]


def _notes(folder: StudyFolder, rows: StudyRows, trial: WholeTrial) -> dict[str, Any]:
    """What the other columns cannot hold; recipes follow from the baseline's and the changes."""
    kept = {k: v for k, v in trial_object(trial.row).items() if k not in IN_TABLE and v is not None}
    notes: dict[str, Any] = {"trial": kept, "runs": run_objects(trial.runs, without=BULKY)}
    if trial.proposal:
        notes["answer"] = {k: v for k, v in answer_object(trial.proposal).items() if v is not None}
    if trial.number == 0:
        notes["recipe"] = trial.recipe
        notes["study"] = {"incumbent": rows.study["incumbent"], "settings": shared_settings(folder.settings)}
    return notes


# --- in ---


def read(source: Source) -> Imported:
    """Raises UserError naming the line for a table that is not of 17 columns or has an unknown status."""
    chunks = list(_rows(source))
    if not chunks or not is_tsv17(chunks[0][0]):
        raise source.fault(1, f"the head must name the 17 columns, tab-separated: {' '.join(COLUMNS)}")
    named: list[tuple[int, str, Cells]] = []
    pieces: list[tuple[int, str]] = []
    for position, (chunk, row, line) in enumerate(chunks[1:], 1):
        if row:
            named.append((position, chunk, _named(source, row, line)))
        else:
            pieces.append((position, chunk))
    first = next((entry for entry in named if entry[2]["status"] == "baseline"), None)
    notes = _read_notes(first[2]) if first else {}
    study = table(notes.get("study"))
    settings, metric = read_settings(study.get("settings"))
    if (head := _cells_of(chunks[0][0]))[SCORE] != metric.name:
        raise source.fault(1, f"column {clean(head[SCORE], 40)}: the table does not tell which way it is better")
    found = Imported(chunks[0][0], recipe_of(notes.get("recipe")), [], pieces=pieces, settings=settings, metric=metric)
    found.one_by_one = not study
    if first:
        named.remove(first)
        # Trial 0 may stand anywhere in the table, so its text is placed by position and not by order.
        found.pieces.append((first[0], first[1]))
    numbers = {entry[2]["exp_id"]: number for number, entry in enumerate(named, 1)}
    found.trials.append(_baseline(found.recipe))
    if first:
        _fill(found, first[2], notes, numbers, number=0)
    for number, (_, chunk, cells) in enumerate(named, 1):
        found.trials.append({"number": number, "source": chunk})
        _fill(found, cells, _read_notes(cells), numbers, number)
    kept = {row["number"]: row["val_bpb"] for row in found.trials if row["decision"] == "keep"}
    named_one = numbers.get(_id(study.get("incumbent")), 0)
    best = 0 if "incumbent" in study else min(kept, key=lambda number: kept[number], default=0)
    found.incumbent = named_one if named_one in kept else best
    return found


def _rows(source: Source) -> Iterator[tuple[str, list[str], int]]:
    """(text, cells, line counted from 1) of each row; a quoted cell may span lines. Blank lines have no cells."""
    lines = source.text.split("\n")
    reader = csv.reader((f"{line}\n" for line in lines), delimiter="\t")
    before = 0
    try:
        for cells in reader:
            yield "\n".join(lines[before : reader.line_num]), cells if any(cells) else [], before + 1
            before = reader.line_num
    except csv.Error as error:
        raise source.fault(before + 1, f"this is no row of a table: {error}") from None


def _named(source: Source, cells: list[str], line: int) -> Cells:
    if len(cells) > len(COLUMNS):
        raise source.fault(line, f"this row has {len(cells)} cells, {len(COLUMNS)} is all there are columns for")
    row = dict(zip(COLUMNS, [*cells, *[""] * (len(COLUMNS) - len(cells))], strict=True))
    if row["status"] not in STATES:
        given = clean(row["status"], 40)
        raise source.fault(line, f"status {given!r} is none of {', '.join(STATES)}{nearest(given, list(STATES))}")
    return row


def _read_notes(cells: Cells) -> dict[str, Any]:
    """Our own notes; {} for anybody else's."""
    try:
        return table(json.loads(cells["notes"]))
    except (ValueError, RecursionError):
        return {}


def _baseline(recipe: Recipe) -> Row:
    return {
        "number": 0, "parent": None, "proposer": "baseline", "changes": "{}", "recipe": json.dumps(recipe),
        "recipe_key": recipe_key(recipe) if recipe else None, "hypothesis": "", "state": "abandoned",
        "decision": None, "reason": "the source gives it no measurement", "val_bpb": None, "n_runs": 0,
        "started_at": EPOCH, "finished_at": EPOCH,
    }  # fmt: skip


def _fill(found: Imported, cells: Cells, notes: dict[str, Any], numbers: dict[str, int], number: int) -> None:
    """The trial's row from its cells, and over that what our own notes say more exactly."""
    row = found.trials[number]
    status = cells["status"]
    metric, notes = found.metric, kept(notes, found.metric)
    scores = (_number(cells[name]) for name in ("val_bpb", "core_metric"))
    told_one = (score_of(metric)(None if given is None else metric.turned(given)) for given in scores)
    val_bpb = next((score for score in told_one if score is not None), None)
    state = STATES[status]
    if state == "complete" and val_bpb is None:
        state = "failed"
    ended = stamp(cells["timestamp"]) or (found.trials[number - 1]["finished_at"] if number else EPOCH)
    parent = numbers.get(cells["parent_exp"], 0)
    row |= {
        "parent": (parent if parent < number else 0) if number else None, "proposer": text(cells["specialist"]) or "?",
        "changes": "{}", "hypothesis": text(cells["hypothesis"], 500), "state": state, "decision": None,
        "expected_delta": _number(cells["expected_delta"]), "rail": "fit" if state == "blocked" else None,
        "reason": "" if status in ("baseline", "keep", "discard") else status, "val_bpb": val_bpb,
        "started_at": ended, "finished_at": ended,
    }  # fmt: skip
    if number and state == "complete":
        row["decision"] = "keep" if status == "keep" else "discard" if status != "baseline" else None
    own = {name: v for name, v in read_trial(notes.get("trial"), metric).items() if name not in IN_TABLE}
    row |= own
    runs = _runs(row, cells, notes, number, metric)
    settle(row, runs)
    row["finished_at"] = row["finished_at"] or row["started_at"]
    if row.get("reference"):
        row["reference"] = numbers.get(_id(row["reference"]))  # by name: a table may leave trials out
    if number:
        _descend(found, row, bool(own))
    found.runs += runs
    if number:
        found.proposals.append(_proposal(row, notes, number))


def _descend(found: Imported, row: Row, own: bool) -> None:
    """Recipe of a trained trial of ours: its parent's with the changes. Of others only the outcome is known."""
    trained = own and row["state"] != "blocked"
    recipe = recipe_of({**json.loads(found.trials[row["parent"]]["recipe"]), **json.loads(row["changes"])})
    row["recipe"] = json.dumps(recipe if trained else {})
    row["recipe_key"] = recipe_key(recipe) if trained and recipe else None


def _runs(row: Row, cells: Cells, notes: dict[str, Any], number: int, metric: Metric) -> list[Row]:
    runs = read_runs(notes.get("runs"), number, metric)
    if runs is not None:
        return runs
    if row["state"] in ("blocked", "abandoned"):
        return []
    complete = row["state"] == "complete"
    failure = None if complete else "timed_out" if row["state"] == "timed_out" else "error"
    return [
        {"trial": number, "seed": 0, "purpose": "candidate", "state": "complete" if complete else "failed",
         "attempts": 1, "failure": failure, "message": "" if complete else row["reason"], "val_bpb": row["val_bpb"],
         "train_seconds": _number(cells["train_s"]), "total_seconds": _number(cells["total_s"]),
         "started_at": row["started_at"], "finished_at": row["finished_at"]}
    ]  # fmt: skip


def _proposal(row: Row, notes: dict[str, Any], number: int) -> Row:
    """The table keeps no answer word for word: what it says of it stands in."""
    blocked = row["state"] == "blocked"
    answer: Row = {
        "proposer": row["proposer"], "raw": row["hypothesis"], "latency_seconds": 0.0, "passed": int(not blocked),
        "rail": row["rail"] if blocked else None, "reason": row["reason"] if blocked else "",
        "created_at": row["started_at"],
    }  # fmt: skip
    return answer | read_answer(notes.get("answer")) | {"trial": number}


def _number(cell: str) -> float | None:
    try:
        return real(float(cell))
    except ValueError:
        return None
