"""The trials and scores as they stand, kept between two looks: a night of thousands asks for them at every trial."""

from __future__ import annotations

import json
from dataclasses import replace

from autoresearch.decide import Runs
from autoresearch.study.store.rows import Rows
from autoresearch.study.store.trajectory import trial_of
from autoresearch.trial import Trial

# What this connection writes is noted by the database itself, so that a transaction rolled back takes its notes along;
# what others write is seen by data_version, and then all is read again.
NOTES = """
    CREATE TEMP TABLE changed_trials (number INTEGER PRIMARY KEY ON CONFLICT IGNORE);
    CREATE TEMP TRIGGER trial_opened AFTER INSERT ON main.trials
        BEGIN INSERT INTO changed_trials VALUES (new.number); END;
    CREATE TEMP TRIGGER trial_changed AFTER UPDATE ON main.trials
        BEGIN INSERT INTO changed_trials VALUES (new.number); END;
    CREATE TEMP TRIGGER run_ended AFTER UPDATE OF state ON main.runs
        BEGIN INSERT INTO changed_trials VALUES (new.trial); END;
"""


class Latest(Rows):
    """What `trials` and `scores` of the trajectory say, read anew only where something has changed."""

    _version: int | None = None  # of the database when all was read; None: never
    _trials: dict[int, Trial]
    _scores: dict[int, Runs]

    def trials_now(self) -> list[Trial]:
        """All trials, in their order."""
        self._catch_up()
        return [*self._trials.values()]

    def scores_now(self) -> dict[int, Runs]:
        """Trial -> seed -> val_bpb, over all complete runs; the same object until another run is complete."""
        self._catch_up()
        return self._scores

    def _catch_up(self) -> None:
        version = int(self.db.execute("PRAGMA data_version").fetchone()[0])
        if version != self._version:
            if self._version is None:
                self.db.conn.executescript(NOTES)
            self._version, self._trials, self._scores = version, {}, {}
            self._read("1", "1")
        else:
            changed = [number for (number,) in self.db.execute("SELECT number FROM changed_trials").fetchall()]
            if not changed:
                return
            chosen = f"IN ({', '.join(map(str, changed))})"
            self._read(f"number {chosen}", f"trial {chosen}")
        self.db.execute("DELETE FROM changed_trials")

    def _read(self, of_trials: str, of_runs: str) -> None:
        for row in self._rows(f"SELECT * FROM trials WHERE {of_trials} ORDER BY number"):
            self._trials[row["number"]] = self._lean(trial_of(row), row["recipe"])
        scores: dict[int, dict[int, float]] = {}
        # The + keeps SQLite from looking through all complete runs of the study.
        sql = f"SELECT trial, seed, val_bpb FROM runs WHERE +state = 'complete' AND {of_runs} ORDER BY trial, seed"
        for trial, seed, val_bpb in self.db.execute(sql).fetchall():
            scores.setdefault(trial, {})[seed] = val_bpb
        if any(self._scores.get(trial) != runs for trial, runs in scores.items()):
            self._scores = dict(sorted({**self._scores, **scores}.items()))

    def _lean(self, trial: Trial, recipe: str) -> Trial:
        """The trial, with what its recipe shares with its parent's in memory once."""
        parent = self._trials.get(-1 if trial.parent is None else trial.parent)
        shared = {**parent.recipe, **trial.changes} if parent else {}
        return replace(trial, recipe=shared) if json.dumps(shared) == recipe else trial
