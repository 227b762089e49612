"""Logical time for trajectories that came without: the order in which trials opened, runs ended and trials closed."""

from __future__ import annotations

from sqlite_utils import Database

OPEN, RUN, CLOSE = range(3)


def number_moments(db: Database, *, one_by_one: bool) -> None:
    """Gives every moment of the trajectory its tick, from 1, by (time, trial, open < run < close).

    `one_by_one`: the source's times are those of a log, too coarse to tell which trials were in flight together; a
    trial ends before the next begins. Times that run backwards or are missing stay within what must be: trials open
    in their order, and nothing of a trial comes before it opens.
    """
    rows = db.execute("SELECT number, state, started_at, finished_at FROM trials ORDER BY number").fetchall()
    moments: list[tuple[str, int, int, int]] = []  # (time, trial, kind, seed); times are ISO-8601 and sort as text
    opened: dict[int, str] = {}
    closed: dict[int, str] = {}
    latest = ""
    for number, state, started_at, finished_at in rows:
        latest = opened[number] = "" if one_by_one else max(latest, started_at)
        moments.append((opened[number], number, OPEN, 0))
        if state not in ("proposed", "running"):
            closed[number] = max(opened[number], "" if one_by_one else finished_at or "")
            moments.append((closed[number], number, CLOSE, 0))
    for trial, seed, finished_at in db.execute(
        "SELECT trial, seed, finished_at FROM runs WHERE state NOT IN ('queued', 'running')"
    ).fetchall():
        ended = "" if one_by_one else finished_at or closed.get(trial, "")
        moments.append((max(opened[trial], ended), trial, RUN, seed))
    ticks: dict[int, list[tuple[int, int, int]]] = {OPEN: [], RUN: [], CLOSE: []}
    for tick, (_, trial, kind, seed) in enumerate(sorted(moments), 1):
        ticks[kind].append((tick, trial, seed))
    trial_only = {kind: [found[:2] for found in ticks[kind]] for kind in (OPEN, CLOSE)}
    db.conn.executemany("UPDATE trials SET opened_tick = ? WHERE number = ?", trial_only[OPEN])
    db.conn.executemany("UPDATE trials SET closed_tick = ? WHERE number = ?", trial_only[CLOSE])
    db.conn.executemany("UPDATE runs SET ended_tick = ? WHERE trial = ? AND seed = ?", ticks[RUN])
    db.execute("UPDATE studies SET tick = ?", [len(moments)])
