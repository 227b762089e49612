"""A trial, its runs and its answer as JSON objects, so that what a foreign format has no place for still travels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import ValidationError

from autoresearch.config import Settings, TrainerSettings
from autoresearch.errors import UserError
from autoresearch.exchange.source import curve_of, real, score, score_of, stamp, table, text, whole
from autoresearch.metric import VAL_BPB, Metric
from autoresearch.study.store.imports import Row
from autoresearch.study.store.terms import limits_text
from autoresearch.trial import Recipe
from rails import Limits, RailsError, clean
from rails.values import presentable
from trainer.protocol import BUDGET_UNITS, FAILURES, WHOLE_UNITS

Read = Callable[[object], Any]
# The tables of study.toml that the numbers depend on. The rest is the machine's, and may hold paths and addresses.
# And of a program of somebody's own: what its numbers are.
OF_A_PROGRAM = ("score", "unit", "lower_is_better")
ELSEWHERE = "(run elsewhere)"
SHARED_SETTINGS = ("preset", "backend", "repeatable", "seed", "budget", "decision", "energy")
OPEN = ("proposed", "running")


def _word(*allowed: str) -> Read:
    return lambda value: value if isinstance(value, str) and value in allowed else None


def shared_settings(settings: Settings) -> dict[str, Any]:
    """Of a program of one's own what it is scored by, and no more: its command is the machine's."""
    shared = settings.model_dump(mode="json", include=set(SHARED_SETTINGS)) | {"budget": settings.whole_budget}
    own = settings.trainer
    trainer = {} if own is None else own.model_dump(include=set(OF_A_PROGRAM))
    return shared | ({"trainer": trainer} if own else {})


def read_settings(value: object) -> tuple[dict[str, Any], Metric]:
    """The tables of study.toml that a source holds, not judged yet, and what its runs are scored by. Raises UserError
    for a program whose score is none."""
    settings = {name: entry for name, entry in table(value).items() if name != "trainer"}
    given = table(value).get("trainer")
    if not isinstance(given, dict):
        return settings, VAL_BPB
    told = {name: entry for name, entry in given.items() if name in OF_A_PROGRAM}
    try:
        trainer = TrainerSettings.model_validate({"command": [ELSEWHERE], **told})
    except ValidationError as error:
        raise UserError(f"the trajectory's program is told no score: {error.errors()[0]['msg']}") from None
    return settings | {"trainer": trainer.model_dump(mode="json", exclude_none=True)}, trainer.metric


def changes_of(value: object) -> Recipe:
    """What a proposal asks for, fit to be shown: a blocked one may name anything."""
    return {clean(name, 64): presentable(wanted) for name, wanted in table(value).items()}


def _changes(value: object) -> str | None:
    return json.dumps(changes_of(value)) if isinstance(value, dict) else None


def _versions(value: object) -> str | None:
    return json.dumps({clean(k, 64): clean(str(v), 100) for k, v in value.items()}) if isinstance(value, dict) else None


def _limits(value: object) -> str | None:
    """Another machine's limits, if the rails take them for limits."""
    given = table(value)
    budget = table(given.get("budget"))
    amounts = {
        unit: whole(budget.get(unit)) if unit in WHOLE_UNITS else real(budget.get(unit)) for unit in BUDGET_UNITS
    }
    precisions = given.get("precisions")
    try:
        return limits_text(
            Limits(
                budget={unit: amount for unit, amount in amounts.items() if amount is not None} or None,
                memory_bytes=whole(given.get("memory_bytes")),
                run_seconds=real(given.get("run_seconds")),
                vocab_size=whole(given.get("vocab_size")),
                precisions=tuple(clean(str(one), 20) for one in precisions) if isinstance(precisions, list) else None,
                device=str(given.get("device")),
            )
        )
    except RailsError:
        return None


ENDED = ("complete", "failed", "cancelled", "stopped")  # states of runs that travel
_TRIAL: dict[str, Read] = {
    "parent": whole, "proposer": text, "changes": _changes, "hypothesis": text, "expected_delta": real,
    "state": _word("blocked", "complete", "failed", "timed_out", "abandoned", "stopped", *OPEN),
    "decision": _word("keep", "discard"), "rail": text, "reason": text, "val_bpb": score, "val_bpb_stderr": real,
    "n_runs": whole, "reference": whole, "improvement": real, "improvement_low": real, "improvement_high": real,
    "test_bpb": score, "energy_joules": real, "energy_source": text, "started_at": stamp, "finished_at": stamp,
}  # fmt: skip
_TRIAL_NEVER_NULL = ("proposer", "changes", "hypothesis", "state", "reason", "n_runs", "started_at")
_RUN: dict[str, Read] = {
    "purpose": _word("candidate", "reference", "confirmation"), "state": _word(*ENDED),
    "attempts": whole,
    "failure": _word(*FAILURES), "message": text, "failed_step": whole, "val_bpb": score, "test_bpb": score,
    "window_bpb": score, "tokens": whole, "steps": whole, "params": whole, "train_seconds": real, "eval_seconds": real,
    "total_seconds": real, "cpu_seconds": real, "tokens_per_second": real, "peak_memory_bytes": whole,
    "energy_joules": real, "energy_source": text, "curve": curve_of, "device": text, "versions": _versions,
    "started_at": stamp, "finished_at": stamp, "data_seconds": real, "forward_seconds": real,
    "backward_seconds": real, "optimizer_seconds": real, "first_step_seconds": real, "mfu": real, "peak_flops": real,
    "peak_flops_source": text, "flops": real,
}  # fmt: skip
_ANSWER: dict[str, Read] = {
    "proposer": text, "model": text, "latency_seconds": real, "prompt_tokens": whole, "completion_tokens": whole,
    "passed": whole, "rail": text, "reason": text, "created_at": stamp, "limits": _limits, "deviation": real,
    "energy_joules": real, "energy_source": text,
}  # fmt: skip
_ANSWER_NEVER_NULL = ("proposer", "latency_seconds", "reason", "created_at")
_JSON = ("changes", "curve", "versions", "limits")


def _object(row: Row, columns: Iterable[str]) -> dict[str, Any]:
    found = {name: row[name] for name in columns}
    return {name: json.loads(v) if name in _JSON and v is not None else v for name, v in found.items()}


def trial_object(row: Row) -> dict[str, Any]:
    """With the commits, by which a person finds the trial in the repository that it came from."""
    return _object(row, (*_TRIAL, "commit", "merge_commit"))


def run_objects(rows: Iterable[Row], without: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The runs that have ended."""
    columns = [name for name in ("seed", *_RUN) if name not in without]
    return [
        {name: value for name, value in _object(row, columns).items() if value is not None}
        for row in rows
        if row["state"] in ENDED
    ]


def answer_object(row: Row) -> dict[str, Any]:
    metered = row["energy_joules"] is not None
    return _object(row, (name for name in _ANSWER if metered or not name.startswith("energy")))


def read_trial(value: object, metric: Metric = VAL_BPB) -> Row:
    """The columns that the object has and that are of the right kind."""
    return _columns(value, _scored(_TRIAL, metric), _TRIAL_NEVER_NULL)


def _scored(readers: dict[str, Read], metric: Metric) -> dict[str, Read]:
    return {name: score_of(metric) if read is score else read for name, read in readers.items()}


def read_answer(value: object) -> Row:
    return _columns(value, _ANSWER, _ANSWER_NEVER_NULL)


def read_runs(value: object, trial: int, metric: Metric = VAL_BPB) -> list[Row] | None:
    """One row a seed; None where there is no list of runs."""
    if not isinstance(value, list):
        return None
    rows: dict[int, Row] = {}
    readers = _scored(_RUN, metric)
    for entry in value:
        seed = whole(table(entry).get("seed"))
        if seed is None or seed < 0:
            continue
        row = {name: read(table(entry).get(name)) for name, read in readers.items()}
        row |= {"trial": trial, "seed": seed, "message": row["message"] or "", "attempts": row["attempts"] or 0}
        row["purpose"] = row["purpose"] or "candidate"
        if row["state"] is None or (row["state"] == "complete" and row["val_bpb"] is None):
            row["state"] = "failed"
        if row["state"] != "complete":
            row |= {"val_bpb": None, "test_bpb": None, "window_bpb": None}
        if row["state"] == "failed":
            row["failure"] = row["failure"] or "error"
        rows[seed] = row
    return list(rows.values())


def settle(row: Row, runs: Iterable[Row]) -> None:
    """What may be relied on in every trial: it is closed, and its state, score, decision and runs agree."""
    if row["state"] in OPEN:
        row |= {"state": "abandoned", "reason": "still open when the trajectory was exported"}
    row["n_runs"] = sum(run["state"] == "complete" and run["purpose"] != "confirmation" for run in runs)
    if row["state"] == "complete" and (row["val_bpb"] is None or not row["n_runs"]):
        row["state"] = "failed"
    if row["state"] == "failed":
        row["reason"] = row["reason"] or "the source gives it no measurement"
    if row["state"] != "complete":
        row |= {"decision": None, "val_bpb": None, "val_bpb_stderr": None}
    comparison = ("improvement", "improvement_low", "improvement_high")
    if any(row.get(name) is None for name in comparison):
        row |= {"improvement_low": None, "improvement_high": None}


def _columns(value: object, readers: dict[str, Read], never_null: tuple[str, ...]) -> Row:
    given = table(value)
    found = {name: read(given[name]) for name, read in readers.items() if name in given}
    return {name: v for name, v in found.items() if v is not None or (name not in never_null and given[name] is None)}
