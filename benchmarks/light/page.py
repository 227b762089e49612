"""The Markdown table of first_light.py, from whatever has been measured so far."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from autoresearch import words
from light.aims import HOW, Row, against_references, aims, found_by, median_of, ratio, rows_of

UNITS = ("tokens a second", "peak", "MFU", "joules a million tokens", "runs")


def failed_tests(content: Row) -> list[Row]:
    return [row for row in found_by(content, "tests").get("rows", []) if row["outcome"] == "failed"]


def markdown(content: Row) -> str:
    """One page; a section for each piece that has found something."""
    parts = [_title(content), *_aims(content), *_first_step(content), *_speed(content), *_references(content)]
    parts += [*_memory(content), *_tests(content), *_pieces(content)]
    return "\n\n".join(parts) + "\n"


def _title(content: Row) -> str:
    found = found_by(content, "environment")
    if "is_gpu" not in found:
        title = "# First light: nothing is known yet"
    elif found["is_gpu"]:
        title = f"# First light on {found['card']}"
    else:
        title = "# First light without a GPU: the same path on the small shape, whose figures say nothing of a GPU"
    preset = found.get("plan", {}).get("preset", "")
    shape = f"shape {preset}, shrunk for a quick look" if content["quick"] else f"shape {preset}"
    lines = [f"{words.moment(content['started_at'])}, commit {content['commit']}" + (f", {shape}." if preset else ".")]
    if found:
        versions = [f"{name} {version}" for name, version in found["versions"].items() if version]
        absent = [name for name, version in found["versions"].items() if not version]
        lines += [f"- {', '.join(versions)}" + (f"; not installed: {', '.join(absent)}" if absent else "")]
        lines += [f"- {found['processor']}, {found['system']}"]
    if found.get("is_gpu"):
        lines += [
            f"- {found['card']}, {words.size(found['memory_bytes'])}, compute capability "
            f"{found['compute_capability']}, {found['multiprocessors']} multiprocessors, driver {found['driver']}, "
            f"CUDA {found['cuda']}, cuDNN {found['cudnn']}"
        ]
    if "precisions" in found:
        lines += [f"- trains a step in: {', '.join(found['precisions'])}"]
        lines += [f"- not in {precision}: {fault}" for precision, fault in found["refused"].items()]
    return title + "\n\n" + lines[0] + ("\n\n" + "\n".join(lines[1:]) if lines[1:] else "")


def _aims(content: Row) -> list[str]:
    if not (found := aims(content)):
        return []
    return ["## Aims on this card", _table(("aim", "measured", ""), found)]


def _first_step(content: Row) -> list[str]:
    if not (rows := rows_of(content, "first_step")):
        return []
    head = ("first step", "seconds", "whole run", "val_bpb")
    lines = [
        (row["name"], _seconds(row), words.duration(row.get("total_seconds")), words.bpb(row.get("val_bpb")))
        if row["state"] == "complete"
        else (row["name"], _failure(row), "", "")
        for row in rows
    ]
    parts = ["## First step", _table(head, lines)]
    if (repeats := found_by(content, "first_step").get("repeats")) is not None:
        same = "the same val_bpb and loss curve to the last bit" if repeats else "NOT the same numbers"
        parts.append(f"The three runs of one seed gave {same}.")
    return parts


def _speed(content: Row) -> list[str]:
    found = found_by(content, "speed")
    rows, failed = found.get("rows", []), found.get("failed", [])
    if not rows and not failed:
        return []
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        runs = [row for row in rows if row["name"] == name]
        lines.append(
            (
                name,
                _spread([row["tokens_per_second"] for row in runs]),
                words.size(median_of(runs, "peak_memory_bytes")),
                words.percent(median_of(runs, "mfu")),
                _joules(runs),
                str(len(runs)),
            )
        )
    lines += [(row["name"], _failure(row), "", "", "", "") for row in failed]
    parts = ["## Speed", _table(("trainer", *UNITS), lines)]
    for precision in ("bf16", "fp8"):
        slower = rows_of(content, "speed", precision, "repeatable")
        faster = rows_of(content, "speed", precision, "not repeatable")
        # Eager rows have no counterpart without repeatability.
        slower = [row for row in slower if "eager" not in row["name"] and "megatron" not in row["name"]]
        if (price := ratio(slower, faster)) is not None:
            parts.append(f"Repeatable over not repeatable, {precision}, same rounds: {price}.")
    plain = [row for row in rows_of(content, "speed", "bf16", "repeatable") if "eager" not in row["name"]]
    if (gain := ratio(rows_of(content, "speed", "fp8", "repeatable"), plain)) is not None:
        parts.append(f"fp8 over bf16, repeatable, same rounds: {gain}.")
    return parts


def _references(content: Row) -> list[str]:
    found = found_by(content, "references")
    if not (rows := found.get("rows", [])):
        return []
    lines = []
    groups: dict[tuple[str, bool], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["name"], row["repeatable"]), []).append(row)
    for (name, repeatable), runs in groups.items():
        speeds = _spread([row["tokens_per_second"] for row in runs])
        lines.append(
            (f"{name}, {HOW[repeatable]}", speeds, words.size(median_of(runs, "peak_memory_bytes")), str(len(runs)))
        )
    lines += [(row["name"], f"failed: {_cell(row['message'])}", "", "") for row in found.get("failed", [])]
    ratios = [f"- {pair}: {r}" for pair, r in against_references(content).items()]
    parts = ["## Beside others", _table(("who", "tokens a second", "peak", "runs"), lines)]
    parts += ["Ratios of speed, within the same rounds:\n\n" + "\n".join(ratios)] if ratios else []
    return parts + ([f"Left out: {found['left_out']}."] if "left_out" in found else [])


def _memory(content: Row) -> list[str]:
    done = [row for piece in ("first_step", "speed") for row in rows_of(content, piece) if row["state"] == "complete"]
    seen: dict[str, Row] = {}
    for row in done:
        if row.get("peak_memory_bytes", 0) > seen.get(row["name"], {}).get("peak_memory_bytes", 0):
            seen[row["name"]] = row
    rows = [*seen.values(), *rows_of(content, "memory")]
    lines = []
    for row in rows:
        predicted, peak = row.get("predicted_memory_bytes"), row.get("peak_memory_bytes")
        off = words.percent(peak / predicted - 1) if predicted and peak else ""
        lines.append((row["name"], words.size(predicted), words.size(peak) if peak else _failure(row), off))
    head = ("run", "predicted", "measured peak", "measured over predicted, less 1")
    return ["## Memory", _table(head, lines)] if lines else []


def _tests(content: Row) -> list[str]:
    found = found_by(content, "tests")
    rows = found.get("rows", [])
    if not rows:
        return []
    counted = {name: sum(row["outcome"] == name for row in rows) for name in ("passed", "failed", "skipped")}
    parts = ["## Tests marked `gpu`", ", ".join(f"{n} {name}" for name, n in counted.items()) + "."]
    told = [f"- failed: `{row['name']}`: {row['message']}" for row in rows if row["outcome"] == "failed"]
    reasons = [row["message"] for row in rows if row["outcome"] == "skipped"]
    told += [f"- skipped, {words.count(reasons.count(why), 'test')}: {why}" for why in dict.fromkeys(reasons)]
    if found.get("running"):
        told.append(f"- not finished: `{found['running']}`")
    return parts + (["\n".join(told)] if told else [])


def _pieces(content: Row) -> list[str]:
    lines = [
        (name, piece["state"], words.duration(piece["seconds"]) if "seconds" in piece else "", _cell(piece["message"]))
        for name, piece in content["pieces"].items()
    ]
    return ["## Pieces", _table(("piece", "state", "took", ""), lines)]


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


def _spread(values: list[float]) -> str:
    shown = f"{statistics.median(values):,.0f}"
    return shown if len(values) == 1 else f"{shown} ({min(values):,.0f} to {max(values):,.0f})"


def _joules(runs: list[Row]) -> str:
    """Of whole runs, building the model included; with its source."""
    metered = [row for row in runs if row.get("joules") is not None and row.get("tokens")]
    if not metered:
        return words.NONE
    # The median, since a first run may compile.
    figure = statistics.median(row["joules"] / row["tokens"] * 1e6 for row in metered)
    return f"{words.figure(figure)} ({', '.join(sorted({row['energy_source'] for row in metered}))})"


def _seconds(row: Row) -> str:
    return words.figure(row["first_step_seconds"])


def _failure(row: Row) -> str:
    return _cell(f"{row['state']}: {row['message']}")


def _cell(text: Any) -> str:
    """One line that breaks no table."""
    return " ".join(str(text).replace("|", "/").split())[:200]
