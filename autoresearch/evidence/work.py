"""Where the seconds of the workers and of the proposer went."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from autoresearch.evidence.evidence import Evidence
from autoresearch.trial import Run

PHASES = ("data", "forward", "backward", "optimizer")
SHORTEST = 1e-3  # seconds; less is what the rounding of the clocks left over


@dataclass(frozen=True)
class WorkPart:
    """One part of the work, its seconds summed over all runs, those side by side too, and its share of the whole."""

    part: str
    seconds: float
    share: float


def work(evidence: Evidence) -> list[WorkPart]:
    """The longest first; empty where nobody wrote any time down."""
    seconds: Counter[str] = Counter()
    seconds["proposing"] = sum(row["latency_seconds"] for row in evidence.folder.store.proposals().values())
    for runs in evidence.runs.values():
        for run in runs:
            seconds.update(_parts(run))
    whole = sum(seconds.values())
    return [WorkPart(part, spent, spent / whole) for part, spent in seconds.most_common() if spent >= SHORTEST]


def _parts(run: Run) -> dict[str, float]:
    total, train, scoring = run.total_seconds or 0.0, run.train_seconds or 0.0, run.eval_seconds or 0.0
    if run.state == "failed":
        return {"failed runs": total}
    steps = {phase: (getattr(run, f"{phase}_seconds") or 0.0) * (run.steps or 0) for phase in PHASES}
    rest = "rest of training" if any(steps.values()) else "training"
    starting = max(0.0, total - train - scoring)
    return {"starting": starting, **steps, rest: max(0.0, train - sum(steps.values())), "scoring": scoring}
