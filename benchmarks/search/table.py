"""The recorded runs as one parquet table: `python -m benchmarks.search.table RUNS.JSONL` packs what `collect` wrote."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from autoresearch.study.preset import load_preset

from .ground import PRESET

TABLE = Path(__file__).with_name("recorded.parquet")
CURVES = ("curve", "val_curve")  # [step, nats] pairs; in the table two lists each
FIGURES = (
    "val_bpb", "test_bpb", "params", "steps", "tokens", "flops_per_token", "train_seconds", "eval_seconds",
    "total_seconds", "cpu_seconds", "peak_memory_bytes", "joules",
)  # fmt: skip
FACTS = ("kind", "commit", "seed", "state", "failure", "message", "failed_step", *FIGURES, "started_at")
VERSIONS = ("torch", "python")


def pack(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as `collect` writes them, one run each; the order stays. None: not measured, as in trainer.protocol."""
    columns: dict[str, list[Any]] = {}
    knobs = list(load_preset(PRESET).menu.knobs)
    for row in rows:
        flat = {name: row[name] for name in FACTS} | {knob: row["recipe"][knob] for knob in knobs}
        flat |= {name: row["versions"][name] for name in VERSIONS}
        for curve in CURVES:
            flat |= {f"{curve}_steps": [int(step) for step, _ in row[curve]]}
            flat |= {f"{curve}_nats": [nats for _, nats in row[curve]]}
        for name, value in flat.items():
            columns.setdefault(name, []).append(value)
    types = {f"{curve}_nats": pa.list_(pa.float32()) for curve in CURVES}
    types |= {f"{curve}_steps": pa.list_(pa.int32()) for curve in CURVES}
    types |= {"failure": pa.string(), "failed_step": pa.int32()}
    return pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})


def unpack(table: pa.Table) -> list[dict[str, Any]]:
    """The rows again; recipes whole, curves as pairs."""
    knobs = list(load_preset(PRESET).menu.knobs)
    found = []
    for flat in table.to_pylist():
        row = {name: flat[name] for name in FACTS} | {"recipe": {knob: flat[knob] for knob in knobs}}
        row["versions"] = {name: flat[name] for name in VERSIONS}
        for curve in CURVES:
            row[curve] = [list(pair) for pair in zip(flat[f"{curve}_steps"], flat[f"{curve}_nats"], strict=True)]
        found.append(row)
    return found


def recorded() -> list[dict[str, Any]]:
    """The runs that are shipped."""
    return unpack(pq.read_table(TABLE)) if TABLE.exists() else []


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("runs", type=Path)
    lines = options.parse_args().runs.read_text("utf-8").splitlines()
    pq.write_table(pack(map(json.loads, lines)), TABLE, compression="zstd", compression_level=19)
    print(f"{len(lines)} runs, {TABLE.stat().st_size:,} bytes in {TABLE}")


if __name__ == "__main__":
    main()
