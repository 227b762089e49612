"""The runs of a study that were repeated on another class of device, to learn how far the two differ."""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch.study.store.rows import Rows
from autoresearch.trial import iso
from autoresearch.workers.energy import Energy


@dataclass(frozen=True)
class RepeatedRun:
    """The same recipe and seed on two classes of device. They are no runs of the trial: nothing is decided by them."""

    trial: int
    seed: int
    device: str
    against: str  # the class that the study's runs are made on
    val_bpb: float
    val_bpb_against: float


_FIELDS = tuple(RepeatedRun.__dataclass_fields__)


class Repeats(Rows):
    """What a night on unlike machines writes, and who tells a person of them reads."""

    def add_repeat(self, repeat: RepeatedRun, energy: Energy) -> None:
        with self.db.atomic():
            self._insert(
                "repeats",
                **{name: getattr(repeat, name) for name in _FIELDS},
                energy_joules=energy.joules, energy_source=energy.source, finished_at=iso(self.clock()),
            )  # fmt: skip

    def repeats(self) -> list[RepeatedRun]:
        rows = self._rows(f"SELECT {', '.join(_FIELDS)} FROM repeats ORDER BY device, against, trial, seed")
        return [RepeatedRun(**row) for row in rows]

    def repeats_joules(self, since: str = "") -> float:
        """Of all, or of those that ended since a moment (ISO-8601)."""
        sql = "SELECT COALESCE(SUM(energy_joules), 0) AS joules FROM repeats WHERE finished_at >= ?"
        return float(self._one(sql, [since])["joules"])

    def first_device(self) -> str | None:
        """The class of device that the first complete run was made on; None: there is none, or it is not told."""
        row = self._first(
            "SELECT json_extract(versions, '$.device') AS device FROM runs WHERE state = 'complete' "
            "AND json_extract(versions, '$.device') IS NOT NULL ORDER BY finished_at, trial, seed LIMIT 1"
        )
        return row["device"] if row else None

    def scores_on(self, device: str) -> dict[tuple[int, int], float]:
        """(trial, seed) -> val_bpb of the complete runs on such a device, in order."""
        rows = self._rows(
            "SELECT trial, seed, val_bpb FROM runs WHERE state = 'complete' "
            "AND json_extract(versions, '$.device') = ? ORDER BY trial, seed",
            [device],
        )
        return {(row["trial"], row["seed"]): row["val_bpb"] for row in rows}
