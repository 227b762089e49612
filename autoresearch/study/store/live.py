"""What a live view asks of a study's database: whether it changed, a moment that stands still, ready questions."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from autoresearch.study.store import Store

# For Datasette: a name -> title and SQL; `:trial` becomes a field to fill in.
QUESTIONS = {
    "kept_trials": {
        "title": "Kept trials",
        "sql": """
            SELECT number, parent, proposer, changes, val_bpb, n_runs, improvement, improvement_low, improvement_high,
                test_bpb, energy_joules, energy_source, hypothesis
            FROM trials WHERE decision = 'keep' ORDER BY number""",
    },
    "energy_per_proposer": {
        "title": "Trials and energy per proposer",
        "sql": """
            SELECT proposer, COUNT(*) AS trials, SUM(state = 'blocked') AS blocked, SUM(decision = 'keep') AS kept,
                SUM(energy_joules) AS energy_joules, SUM(energy_joules) / 3.6e6 AS kwh
            FROM trials GROUP BY proposer ORDER BY trials DESC""",
    },
    "failures": {
        "title": "Runs that failed, and why",
        "sql": """
            SELECT trial, seed, failure, message, failed_step, attempts, energy_joules, finished_at
            FROM runs WHERE state = 'failed' ORDER BY trial, seed""",
    },
    "runs_of_a_trial": {
        "title": "Runs of one trial",
        "sql": """
            SELECT seed, purpose, state, val_bpb, test_bpb, window_bpb, tokens, flops, steps, train_seconds,
                tokens_per_second, mfu, peak_memory_bytes, energy_joules, energy_source, device
            FROM runs WHERE trial = :trial ORDER BY seed""",
    },
}


def version(store: Store) -> int:
    """Another number once somebody else's connection has changed the database."""
    return int(store.db.execute("PRAGMA data_version").fetchone()[0])


def snapshot(store: Store) -> AbstractContextManager[Any]:
    """Reads inside see one moment, whatever the runner writes meanwhile; they hold nobody up (WAL)."""
    return store.db.atomic()
