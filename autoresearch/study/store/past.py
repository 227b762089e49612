"""The trajectory as it stood when a trial was proposed: what came of it later is not in it."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

from autoresearch.study.store.rows import Rows
from autoresearch.study.store.trajectory import RUN_FIELDS, TAKEN_BACK, sums_of_runs, trial_of
from autoresearch.trial import Run, Trial

# What a trial's row holds until the trial is closed.
STILL_OPEN: dict[str, Any] = dict.fromkeys(
    ("decision", "rail", "reference", "improvement", "improvement_low", "improvement_high",
     "merge_commit", "finished_at"),
) | {"state": "running", "reason": ""}  # fmt: skip


class Past(Rows):
    """What of the trajectory had happened before a tick."""

    def opened_tick(self, trial: int) -> int:
        """When the trial was opened, on the study's logical clock: it saw what has a lower tick."""
        return int(self._one("SELECT opened_tick FROM trials WHERE number = ?", [trial])["opened_tick"])

    def trials_then(self, before: int) -> list[Trial]:
        """The trials that were opened before a tick, with their states and sums of then."""
        sums = sums_of_runs(f"ended_tick < {int(before)}")
        columns = ", ".join(f"{sql} AS then_{name}" for name, sql in sums.items())
        rows = self._rows(f"SELECT *, {columns} FROM trials WHERE opened_tick < ? ORDER BY number", [before])
        return [trial_of(_then(row, sums, before)) for row in rows]

    def runs_at_close(self) -> dict[int, list[Run]]:
        """Trial -> those of its runs that had ended when it was closed, by seed."""
        found: dict[int, list[Run]] = {}
        columns = ", ".join(f"runs.{name}" for name in RUN_FIELDS)
        for row in self._rows(
            f"SELECT {columns} FROM runs JOIN trials ON number = trial WHERE ended_tick < closed_tick "
            "ORDER BY trial, seed"
        ):
            found.setdefault(row["trial"], []).append(Run(**row))
        return found

    def merged(self) -> list[int]:
        """Trials that became the incumbent, in that order."""
        rows = self._rows("SELECT number FROM trials WHERE merge_commit IS NOT NULL ORDER BY closed_tick")
        return [row["number"] for row in rows]

    def standings(self) -> list[float | None]:
        """After each run that ended, in their order and those that confirm left out: the mean val_bpb of what was the
        incumbent when all that the run led to was decided, over its runs by then; None where none is complete."""
        runs = self._rows(
            "SELECT trial, ended_tick, CASE state WHEN 'complete' THEN val_bpb END AS score FROM runs "
            "WHERE state IN ('complete', 'failed', 'stopped') AND purpose <> 'confirmation' ORDER BY ended_tick"
        )
        merges = self._rows(
            "SELECT number, closed_tick, kept_until FROM trials WHERE merge_commit IS NOT NULL ORDER BY closed_tick"
        )
        found = []
        for place in range(len(runs)):
            before = runs[place + 1]["ended_tick"] if place + 1 < len(runs) else math.inf
            kept = (
                row["number"]
                for row in reversed(merges)
                if row["closed_tick"] < before and (row["kept_until"] is None or row["kept_until"] >= before)
            )
            incumbent = next(kept, 0)
            ended = (run["score"] for run in runs[: place + 1] if run["trial"] == incumbent)
            scores = [score for score in ended if score is not None]
            found.append(fmean(scores) if scores else None)
        return found


def _then(row: dict[str, Any], sums: dict[str, str], before: int) -> dict[str, Any]:
    if (row["kept_until"] or 0) >= before:
        row |= {"decision": "keep", "reason": row["reason"].partition(TAKEN_BACK)[0]}
    was_open = row["closed_tick"] is None or row["closed_tick"] >= before
    row |= {name: row[f"then_{name}"] for name in sums} | (STILL_OPEN if was_open else {})
    return row if row["state"] == "complete" else row | {"val_bpb": None}
