"""The cluster of the night that runs: its slots, and how busy they were."""

from __future__ import annotations

from pathlib import Path

from autoresearch.study.lock import lock_holder
from autoresearch.workers.fleet import Cluster, Fleet


def cluster(study: Path) -> Cluster | None:
    """None: no night of this study runs on one. What a killed night left is not believed."""
    return Fleet(study).read() if lock_holder(study / "runner.lock") is not None else None
