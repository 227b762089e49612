"""The runs of promotions in a study's database: its best recipes, trained again at a longer budget."""

from __future__ import annotations

import json
from dataclasses import dataclass

from autoresearch.study.store.rows import Rows
from autoresearch.trial import iso
from autoresearch.workers.energy import Energy
from trainer.protocol import RunResult


@dataclass(frozen=True)
class PromotedRun:
    """One training of a trial's recipe at `factor` times the study's budget. Scores are None unless complete."""

    trial: int
    factor: float
    seed: int
    state: str  # complete or failed
    failure: str | None
    message: str
    failed_step: int | None
    val_bpb: float | None
    test_bpb: float | None
    window_bpb: float | None
    tokens: int | None
    steps: int | None
    total_seconds: float | None
    energy_joules: float
    energy_source: str
    finished_at: str


_FIELDS = tuple(PromotedRun.__dataclass_fields__)


class Promotions(Rows):
    """What `promote` writes, and who asks how the best recipes did reads."""

    def add_promoted_run(self, trial: int, factor: float, seed: int, result: RunResult, energy: Energy) -> None:
        """Writes down a run that has ended, once."""
        measured = (
            "failure", "message", "failed_step", "val_bpb", "test_bpb", "window_bpb", "tokens", "steps",
            "train_seconds",
        )  # fmt: skip
        with self.db.atomic():
            self._insert(
                "promotions",
                trial=trial, factor=factor, seed=seed, state=result.state,
                **{name: getattr(result, name) for name in measured},
                total_seconds=result.total_seconds, energy_joules=energy.joules, energy_source=energy.source,
                curve=json.dumps(result.curve), device=result.device or None, finished_at=iso(self.clock()),
            )  # fmt: skip

    def promoted_runs(self) -> list[PromotedRun]:
        rows = self._rows(f"SELECT {', '.join(_FIELDS)} FROM promotions ORDER BY factor, trial, seed")
        return [PromotedRun(**row) for row in rows]
