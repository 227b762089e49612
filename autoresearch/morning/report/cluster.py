"""What the live page shows of the cluster that a night runs on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autoresearch.evidence.cluster import cluster
from autoresearch.morning.report.table import Kind, Table, table
from autoresearch.terminal.workers import COLUMNS, slot_rows

NUMBERS = ("runs", "busy")


@dataclass(frozen=True)
class ClusterFacts:
    sentence: str
    slots: Table


def cluster_facts(study: Path) -> ClusterFacts | None:
    """None: no night of this study runs on a cluster."""
    found = cluster(study)
    if found is None:
        return None
    columns: list[tuple[str, Kind]] = [(name, "number" if name in NUMBERS else "word") for name in COLUMNS]
    return ClusterFacts(f"{found.now()}.", table(columns, slot_rows(found)))
