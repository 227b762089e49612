"""Reads the published trajectory format: a head with the baseline, then one JSON object per iteration."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from autoresearch.exchange.objects import changes_of, read_answer, read_runs, read_settings, read_trial, settle
from autoresearch.exchange.source import (
    Imported,
    Source,
    curve_of,
    moment,
    real,
    recipe_of,
    score_of,
    table,
    text,
    times,
    whole,
)
from autoresearch.facts import kept
from autoresearch.metric import Metric
from autoresearch.study.store.imports import Row
from autoresearch.trial import EPOCH, Recipe, iso
from autoresearch.untrusted import storable
from rails import recipe_key
from rails.values import clean

STAGES = {"evaluated": "complete", "eval_failed": "failed", "blocked": "blocked", "running": "abandoned"}


def read_jsonl(source: Source) -> Imported:
    """Times without a zone are taken as UTC. An unfinished last line is skipped, with a warning.

    Raises UserError naming the line for text that is not of the format.
    """
    lines = source.text.split("\n")
    last = max((i for i, line in enumerate(lines) if line.strip()), default=0)
    head = _object(lines[0].removeprefix("\ufeff"))
    if head is None or not isinstance(head.get("baseline_cfg"), dict):
        raise source.fault(1, "a trajectory begins with an object that holds baseline_val_bpb and baseline_cfg")
    study = table(head.get("study"))
    settings, metric = read_settings(study.get("settings"))
    head = kept(head, metric)
    found = Imported(lines[0], recipe_of(head["baseline_cfg"]), [], metric=metric)
    found.one_by_one = not study
    found.settings = settings or _settings(found.recipe)
    found.menu_text = study["menu"] if isinstance(study.get("menu"), str) else None
    _add_baseline(found, head)
    for position, line in enumerate(lines[1:], 1):
        record = kept(_object(line), metric)
        if record is None and line.strip():
            if position != last:
                raise source.fault(position + 1, "this is no JSON object: mend or remove the line")
            source.warn(f"{source.name}, line {position + 1}: the last line is unfinished and was skipped")
        if record is None or record.get("stage") not in STAGES:
            found.pieces.append((position, line))
        else:
            _add_trial(found, head, record, line)
    found.trials[0]["started_at"] = found.trials[0].get("started_at") or min(
        (row["started_at"] for row in found.trials[1:]), default=EPOCH
    )
    for row in found.trials:
        row["finished_at"] = row.get("finished_at") or row["started_at"]
    _settle_descent(found)
    found.incumbent = _incumbent(found, whole(study.get("incumbent")))
    return found


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Every trial of the published loop is judged against its baseline."""
    steps = whole(recipe.get("steps"))
    budget = {"budget": {"steps": steps}} if steps and steps > 0 else {}
    return {"decision": {"reference": "baseline"}, **budget}


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _add_baseline(found: Imported, head: dict[str, Any]) -> None:
    val_bpb = score_of(found.metric)(head.get("baseline_val_bpb"))
    row: Row = {
        "number": 0, "parent": None, "proposer": "baseline", "changes": "{}", "recipe": json.dumps(found.recipe),
        "recipe_key": recipe_key(found.recipe), "hypothesis": "The recipe as it stands.", "state": "complete",
        "reason": "", "decision": None, "val_bpb": val_bpb, "started_at": None,
    }  # fmt: skip
    row |= read_trial(head.get("trial"), found.metric) | {"parent": None}
    runs = read_runs(head.get("runs"), 0, found.metric)
    if runs is None and val_bpb is not None:
        runs = [_run(0, val_bpb=val_bpb)]
    settle(row, runs or [])
    found.trials.append(row)
    found.runs += runs or []


def _run(trial: int, **values: Any) -> Row:
    measured = values.get("val_bpb") is not None
    state = {"state": "complete"} if measured else {"state": "failed", "failure": "error"}
    return {"trial": trial, "seed": 0, "purpose": "candidate", "attempts": 1, "message": "", **state, **values}


def _add_trial(found: Imported, head: dict[str, Any], record: dict[str, Any], line: str) -> None:
    """As the published format has it, and over that what our own export says more exactly."""
    number = len(found.trials)
    proposal, metrics = table(record.get("proposal")), table(record.get("eval_metrics"))
    state = STAGES[record["stage"]]
    val_bpb = score_of(found.metric)(record.get("val_bpb", metrics.get("val_bpb")))
    if state == "complete" and val_bpb is None:
        state = "failed"
    knob, several = proposal.get("knob"), proposal.get("changes")
    single = {knob: proposal.get("new_value")} if isinstance(knob, str) else {}
    wanted = several if isinstance(several, dict) else single
    changes = changes_of(wanted)
    trained = state in ("complete", "failed")
    recipe = recipe_of(record.get("candidate_cfg")) or ({**found.recipe, **recipe_of(wanted)} if trained else {})
    latency = max(0.0, real(record.get("nim_latency_s")) or 0.0)
    started, finished = _times(found, record)
    decision = str(record.get("decision"))
    baseline = real(record.get("baseline_val_bpb", head.get("baseline_val_bpb")))
    row: Row = {
        "number": number, "parent": 0, "proposer": text(head.get("proposer")) or "llm",
        "changes": json.dumps(changes), "recipe": json.dumps(recipe),
        "recipe_key": recipe_key(recipe) if recipe else None, "hypothesis": text(proposal.get("reason"), 500) or "",
        "expected_delta": real(proposal.get("expected_delta")), "state": state,
        "decision": None if state != "complete" else "keep" if decision == "keep" else "discard",
        "rail": text(record.get("rail"), 40) if state == "blocked" else None,
        "reason": _reason(state, record, metrics, head, found.metric),
        "val_bpb": val_bpb if state == "complete" else None,
        "started_at": started, "finished_at": finished, "source": line,
        "improvement": None if state != "complete" or baseline is None or val_bpb is None else baseline - val_bpb,
        "energy_joules": real(metrics.get("energy_joules")), "energy_source": text(metrics.get("energy_source")),
    }  # fmt: skip
    own = read_trial(record.get("trial"), found.metric)
    row |= own
    row["own"] = bool(own)
    runs = read_runs(record.get("runs"), number, found.metric)
    if runs is None and trained:
        runs = [_published_run(number, row, recipe, metrics, latency, record)]
    settle(row, runs or [])
    raw = record.get("raw") if isinstance(record.get("raw"), str) else json.dumps(proposal) if proposal else ""
    answer: Row = {
        "proposer": row["proposer"], "raw": storable(str(raw)), "model": text(record.get("model", head.get("model"))),
        "latency_seconds": latency, "passed": int(state != "blocked"), "rail": row["rail"],
        "reason": row["reason"] if state == "blocked" else "", "created_at": started,
    }  # fmt: skip
    found.trials.append(row)
    found.runs += runs or []
    found.proposals.append(answer | read_answer(record.get("answer")) | {"trial": number})


def _reason(state: str, record: dict[str, Any], metrics: dict[str, Any], head: dict[str, Any], metric: Metric) -> str:
    if state == "blocked":
        return text(record.get("reason")) or ""
    if state == "failed":
        return text(metrics.get("error")) or f"the source gives no {metric.name}"
    gained, asked = real(record.get("improvement_frac")), real(head.get("accept_delta_frac"))
    if gained is None or asked is None:
        return ""
    return f"{gained:+.2%} on the baseline, {asked:.2%} asked"


def _times(found: Imported, record: dict[str, Any]) -> tuple[str, str]:
    """A record is written when its iteration ends. Without a readable time, a trial follows the one before it."""
    finished = moment(record.get("ts"))
    if finished is None:
        before = found.trials[-1].get("finished_at") or EPOCH
        return before, before
    seconds = max(0.0, real(record.get("iter_wall_s")) or 0.0)
    try:
        return iso(finished - timedelta(seconds=seconds)), iso(finished)
    except OverflowError:
        return iso(finished), iso(finished)


def _published_run(
    trial: int, row: Row, recipe: Recipe, metrics: dict[str, Any], latency: float, record: dict[str, Any]
) -> Row:
    steps = whole(metrics.get("train_steps"))
    train, scored = real(metrics.get("train_wall_s")), real(metrics.get("val_wall_s"))
    batch, length = whole(recipe.get("batch_size")), whole(recipe.get("seq_len"))
    tokens = steps * batch * length if steps and batch and length else None
    wall = real(record.get("iter_wall_s"))
    first, final = metrics.get("train_loss_first"), metrics.get("train_loss_last")
    failed = {} if row["val_bpb"] is not None else {"failure": "out_of_memory" if metrics.get("oom") else "error"}
    return _run(
        trial, val_bpb=row["val_bpb"], steps=steps, tokens=whole(tokens), params=times(metrics.get("params_m"), 1e6),
        train_seconds=train, eval_seconds=scored,
        total_seconds=train + (scored or 0.0) if train is not None else wall and max(0.0, wall - latency),
        tokens_per_second=tokens / train if tokens and train else None,
        peak_memory_bytes=times(metrics.get("peak_gpu_mem_gib"), 2**30),
        energy_joules=row["energy_joules"], energy_source=row["energy_source"],
        curve=curve_of(metrics.get("curve")) or curve_of([[1, first], [steps or 1, final]]),
        message="" if row["val_bpb"] is not None else clean(row["reason"], 300),
        started_at=row["started_at"], finished_at=row["finished_at"], **failed,
    )  # fmt: skip


def _settle_descent(found: Imported) -> None:
    """Parents where the source does not name them, and references that are there.

    If every recipe is the baseline with one change, the loop never moved on from its baseline. Otherwise a trial's
    parent is the latest kept trial whose recipe it changes.
    """
    recipes = [json.loads(row["recipe"]) for row in found.trials]
    changes = [json.loads(row["changes"]) for row in found.trials]
    pairs = list(zip(recipes, changes, strict=True))
    moved = any(recipe and not _is_change_of(found.recipe, recipe, change) for recipe, change in pairs)
    kept: list[int] = []
    for number, row in enumerate(found.trials):
        own = row.pop("own", False)
        if number and not (own and row["parent"] is not None and 0 <= row["parent"] < number):
            row["parent"] = next((k for k in reversed(kept) if moved and _is_change_of(recipes[k], *pairs[number])), 0)
        if not own and row.get("improvement") is not None:
            row["reference"] = row["parent"]
        if row.get("reference") is not None and not 0 <= row["reference"] < len(found.trials):
            row["reference"] = None
        kept += [number] if row.get("decision") == "keep" else []


def _is_change_of(before: Recipe, after: Recipe, change: Recipe) -> bool:
    """Whether nothing but the change is between two recipes."""
    return all(before.get(name) == after.get(name) for name in {**before, **after} if name not in change)


def _incumbent(found: Imported, named: int | None) -> int:
    """The trial that the source names, else the last kept one that others build on, else the best kept one."""
    kept = [row for row in found.trials if row.get("decision") == "keep" and row["val_bpb"] is not None]
    if named is not None and any(row["number"] == named for row in [found.trials[0], *kept]):
        return named
    if not kept:
        return 0
    if any(row["parent"] for row in found.trials):
        return int(kept[-1]["number"])
    return int(min(kept, key=lambda row: row["val_bpb"])["number"])


def is_jsonl(content: str) -> bool:
    head = _object(content.partition("\n")[0].removeprefix("\ufeff"))
    return head is not None and "baseline_cfg" in head
