"""Trials, runs and scores as they stand, kept between two looks: a night of thousands asks for them every time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from autoresearch.decide import Runs
from autoresearch.study.store.trajectory import MEASUREMENTS, Trajectory, trial_of
from autoresearch.trial import Recipe, Run, Trial

# What this connection writes is noted by the database itself, so that a transaction rolled back takes its notes along;
# what others write is seen by data_version, and then all is read again.
NOTES = """
    CREATE TEMP TABLE changed_trials (number INTEGER PRIMARY KEY ON CONFLICT IGNORE);
    CREATE TEMP TRIGGER trial_opened AFTER INSERT ON main.trials
        BEGIN INSERT INTO changed_trials VALUES (new.number); END;
    CREATE TEMP TRIGGER trial_changed AFTER UPDATE ON main.trials
        BEGIN INSERT INTO changed_trials VALUES (new.number); END;
    CREATE TEMP TRIGGER run_queued AFTER INSERT ON main.runs
        BEGIN INSERT INTO changed_trials VALUES (new.trial); END;
    CREATE TEMP TRIGGER run_changed AFTER UPDATE ON main.runs
        BEGIN INSERT INTO changed_trials VALUES (new.trial); END;
"""


class Latest(Trajectory):
    """What the trajectory's `trials`, `runs`, `scores` and `measurements` say, read anew only where it has changed."""

    _version: int | None = None  # of the database when all was read; None: never
    _trials: dict[int, Trial]
    _runs: dict[int, list[Run]]  # of the trials that were asked for
    _scores: dict[int, Runs]
    _measured: dict[tuple[int, int], tuple[int, list[Any]]]  # (trial, seed) -> tick, measurement; the latest first

    def trials_now(self) -> list[Trial]:
        """All trials, in their order."""
        self._catch_up()
        return [*self._trials.values()]

    def trial_now(self, number: int) -> Trial:
        self._catch_up()
        return self._trials[number]

    def running_now(self) -> list[Trial]:
        """Trials that have passed the rails and wait for a decision."""
        self._catch_up()
        return [trial for trial in self._trials.values() if trial.state == "running"]

    def runs_now(self, trial: int) -> list[Run]:
        """All runs of a trial, by seed; not to be changed."""
        self._catch_up()
        if trial not in self._runs:
            self._runs[trial] = self.runs(trial)
        return self._runs[trial]

    def scores_now(self) -> dict[int, Runs]:
        """Trial -> seed -> val_bpb, over all complete runs that decisions read; until another ends, the same object."""
        self._catch_up()
        return self._scores

    def measurements_now(self) -> list[tuple[Recipe, int, float, int]]:
        """What `measurements` of the trajectory says."""
        self._catch_up()
        return [(self._trials[trial].recipe, *values) for (trial, _), (_, values) in self._measured.items()]

    def _catch_up(self) -> None:
        version = int(self.db.execute("PRAGMA data_version").fetchone()[0])
        if version != self._version:
            if self._version is None:
                self.db.conn.executescript(NOTES)
            self._version, self._trials, self._runs, self._scores, self._measured = version, {}, {}, {}, {}
            self._read("1", "1")
        else:
            changed = [number for (number,) in self.db.execute("SELECT number FROM changed_trials").fetchall()]
            if not changed:
                return
            for number in changed:
                self._runs.pop(number, None)
            chosen = f"IN ({', '.join(map(str, changed))})"
            self._read(f"number {chosen}", f"trial {chosen}")
        self.db.execute("DELETE FROM changed_trials")

    def _read(self, of_trials: str, of_runs: str) -> None:
        for row in self._rows(f"SELECT * FROM trials WHERE {of_trials} ORDER BY number"):
            self._trials[row["number"]] = self._lean(trial_of(row), row["recipe"])
        scores: dict[int, dict[int, float]] = {}
        # The + keeps SQLite from looking through all complete runs of the study.
        sql = f"""
            SELECT trial, seed, val_bpb, purpose, ended_tick, peak_memory_bytes, train_seconds, tokens
            FROM runs WHERE +state = 'complete' AND {of_runs} ORDER BY trial, seed"""
        for trial, seed, val_bpb, purpose, tick, *measured in self.db.execute(sql).fetchall():
            if purpose != "confirmation":
                scores.setdefault(trial, {})[seed] = val_bpb
            if all((value or 0) > 0 for value in measured):
                self._measured[trial, seed] = tick or 0, measured
        latest = sorted(self._measured.items(), key=lambda found: -found[1][0])
        self._measured = dict(latest[:MEASUREMENTS])
        if any(self._scores.get(trial) != runs for trial, runs in scores.items()):
            self._scores = dict(sorted({**self._scores, **scores}.items()))

    def _lean(self, trial: Trial, recipe: str) -> Trial:
        """The trial, with what its recipe shares with its parent's in memory once."""
        parent = self._trials.get(-1 if trial.parent is None else trial.parent)
        shared = {**parent.recipe, **trial.changes} if parent else {}
        return replace(trial, recipe=shared) if json.dumps(shared) == recipe else trial
