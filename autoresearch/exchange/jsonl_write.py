"""Writes a study in the published trajectory format, with objects of our own for what that has no place for."""

from __future__ import annotations

import json
from typing import Any

from autoresearch.exchange.objects import answer_object, run_objects, shared_settings, trial_object
from autoresearch.exchange.source import moment, verbatim
from autoresearch.exchange.study_rows import StudyRows, WholeTrial
from autoresearch.facts import told
from autoresearch.study.folder import StudyFolder
from rails.patch import unified_diff

META = "trajectory log; the first line is the baseline, each later one an iteration, the last the end of the loop"


def write_jsonl(folder: StudyFolder) -> str:
    """An imported trajectory leaves as it came, to the byte."""
    rows = StudyRows.of(folder)
    if source := rows.source("jsonl"):
        return verbatim(source, [trial.row for trial in rows.trials])
    best = rows.trials[0].row["val_bpb"]
    lines = [_head(folder, rows)]
    for trial in rows.trials[1:]:
        lines.append(_line(rows, trial, best))
        best = _best(best, trial.row["val_bpb"])
    lines.append(_tail(rows))
    return "".join(json.dumps(told(line, folder.metric), allow_nan=False) + "\n" for line in lines)


def _head(folder: StudyFolder, rows: StudyRows) -> dict[str, Any]:
    baseline = rows.trials[0]
    val_bpb = baseline.row["val_bpb"]
    return {
        "_meta": META,
        "baseline_val_bpb": val_bpb,
        "baseline_cfg": baseline.recipe,
        "accept_delta_frac": folder.settings.decision.min_improvement / abs(val_bpb) if val_bpb else 0.0,
        "study": {
            "name": rows.study["name"], "created_at": rows.study["created_at"],
            "incumbent": rows.study["incumbent"], "settings": shared_settings(folder.settings),
            "menu": folder.menu_text,
        },
        "trial": trial_object(baseline.row),
        "runs": run_objects(baseline.runs),
    }  # fmt: skip


def _line(rows: StudyRows, trial: WholeTrial, best: float | None) -> dict[str, Any]:
    row, proposal = trial.row, trial.proposal
    ended = moment(row["finished_at"]) or moment(row["started_at"])
    started = moment(row["started_at"])
    assert ended and started
    line: dict[str, Any] = {"iter": trial.number, "ts": ended.strftime("%Y-%m-%d %H:%M:%S")}
    if trial.is_open:
        line |= {"stage": "running", "verdict_ok": None}
    elif row["state"] == "blocked":
        line |= {"stage": "blocked", "verdict_ok": False, "rail": row["rail"], "reason": row["reason"]}
    else:
        line |= {"stage": "evaluated" if row["state"] == "complete" else "eval_failed", "verdict_ok": True}
    line["proposal"] = _proposal(trial)
    if trial.recipe:
        reference = rows.trials[row["reference"] or 0].row["val_bpb"]
        line |= {
            "diff": unified_diff(rows.parent_recipe(trial), trial.recipe),
            "candidate_cfg": trial.recipe,
            "eval_metrics": _metrics(trial),
            "baseline_val_bpb": reference,
        }
        if row["state"] == "complete":
            line |= {
                "val_bpb": row["val_bpb"],
                "improvement_frac": round(row["improvement"] / abs(reference), 4)
                if row["improvement"] is not None and reference
                else None,
                "decision": "keep" if row["decision"] == "keep" else "revert",
                "is_new_best": best is None or row["val_bpb"] < best,
            }
        elif not trial.is_open:
            line["decision"] = "revert (eval crash)"
    return line | {
        "raw": proposal["raw"] if proposal else "",
        "nim_latency_s": proposal["latency_seconds"] if proposal else None,
        "iter_wall_s": round((ended - started).total_seconds(), 3),
        "trial": trial_object(row),
        "runs": run_objects(trial.runs),
        "answer": answer_object(proposal) if proposal else None,
    }


def _proposal(trial: WholeTrial) -> dict[str, Any] | None:
    reason = {"reason": trial.row["hypothesis"]}
    match list(trial.changes.items()):
        case []:
            return None
        case [(knob, value)]:
            return {"knob": knob, "new_value": value, **reason}
        case _:
            return {"changes": trial.changes, **reason}


def _metrics(trial: WholeTrial) -> dict[str, Any]:
    """Of the first run that the state speaks of; val_bpb is the mean over all of them."""
    row = trial.row
    complete = row["state"] == "complete"
    run = next((run for run in trial.runs if (run["state"] == "complete") == complete), None)
    common = {
        "n_runs": row["n_runs"], "val_bpb_stderr": row["val_bpb_stderr"],
        "energy_joules": row["energy_joules"], "energy_source": row["energy_source"],
    }  # fmt: skip
    if run is None or not complete:
        failure = run["failure"] if run else row["state"]
        return {"ok": False, "oom": failure == "out_of_memory", "error": row["reason"] or failure, **common}
    curve = json.loads(run["curve"] or "[]")
    steps, seconds = run["steps"], run["train_seconds"]
    measured = {
        "ok": True,
        "params_m": run["params"] / 1e6 if run["params"] is not None else None,
        "train_steps": steps,
        "train_loss_first": curve[0][1] if curve else None,
        "train_loss_last": curve[-1][1] if curve else None,
        "val_bpb": row["val_bpb"],
        "mean_step_ms": 1000 * seconds / steps if steps and seconds is not None else None,
        "train_wall_s": seconds,
        "val_wall_s": run["eval_seconds"],
        "peak_gpu_mem_gib": run["peak_memory_bytes"] / 2**30 if run["peak_memory_bytes"] is not None else None,
    }
    return measured | common


def _tail(rows: StudyRows) -> dict[str, Any]:
    trials = [trial.row for trial in rows.trials[1:]]
    baseline = rows.trials[0].row["val_bpb"]
    scored = [trial for trial in rows.trials[1:] if trial.row["val_bpb"] is not None]
    best = min(scored, key=lambda trial: trial.row["val_bpb"], default=None)
    best_bpb = _best(baseline, best.row["val_bpb"] if best else None)
    better = best is not None and best_bpb == best.row["val_bpb"] and best_bpb != baseline
    moments = [moment(row[name]) for row in trials for name in ("started_at", "finished_at")]
    known = [m for m in moments if m]
    seconds = (max(known) - min(known)).total_seconds() if known else 0.0
    return {
        "stage": "loop_complete",
        "iters_requested": len(trials),
        "accept_count": sum(row["decision"] == "keep" for row in trials),
        "revert_count": sum(row["decision"] == "discard" for row in trials),
        "block_count": sum(row["state"] == "blocked" for row in trials),
        "eval_fail_count": sum(row["state"] in ("failed", "timed_out", "abandoned") for row in trials),
        "loop_wall_s": round(seconds, 1),
        "loop_wall_min": round(seconds / 60, 1),
        "baseline_val_bpb": baseline,
        "best_val_bpb": best_bpb,
        "best_proposal": _proposal(best) if best and better else None,
        "best_improvement_frac": round((baseline - best_bpb) / abs(baseline), 4) if baseline and better else 0.0,
    }


def _best(one: float | None, other: float | None) -> float | None:
    return min((v for v in (one, other) if v is not None), default=None)
