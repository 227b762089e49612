"""Studies for tests: real git, real SQLite, real worker processes that answer at once."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from autoresearch.config import EnergySettings, LimitSettings
from autoresearch.night.limits import StopRule
from autoresearch.night.loop import StudyLoop
from autoresearch.proposers import Proposer
from autoresearch.proposers.classic import ScriptedProposer
from autoresearch.study.folder import StudyFolder, create_study
from autoresearch.study.observer import Observer
from autoresearch.study.store import Store
from autoresearch.trial import utc_now
from autoresearch.workers.energy import Energy
from autoresearch.workers.local import LocalLauncher
from autoresearch.workers.machine import Machine
from trainer.protocol import RunResult

STUB = (sys.executable, str(Path(__file__).with_name("stub_worker.py")))
MACHINE = Machine("cpu", "test", 2, 16 * 2**30, ("fp32", "bf16"))
NOT_TAKEN = {"commit", "merge_commit", "source", "prompt", "id", "opened_tick", "closed_tick", "ended_tick"}
# What a study of stub workers needs on the way: two seconds of trials instead of minutes.
GOOD, BAD = 0.004, 0.0005  # learning rates: the stub's best, and one that is clearly worse than the default


def change(knob: str, value: object, reason: str = "because") -> str:
    return json.dumps({"knob": knob, "new_value": value, "reason": reason})


class Clock:
    """A second passes each time that it is asked."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def make_study(home: Path, name: str = "one", clock: Callable[[], datetime] = utc_now, **overrides: Any) -> StudyFolder:
    """`decision__max_runs=4` overrides max_runs in [decision]. Nights end without runs that confirm, unless asked."""
    overrides = {"decision__confirmation_runs": 0, **overrides}
    settings = {key.replace("__", "."): value for key, value in overrides.items()}
    folder = create_study(home, name, "cpu-nano", MACHINE, settings, now=clock)
    folder.store.clock = clock
    return folder


def run_study(
    folder: StudyFolder,
    answers: list[str] | None = None,
    *,
    proposer: Proposer | None = None,
    trials: int | None = None,
    workers: int = 2,
    observer: Observer | None = None,
) -> str:
    """One night with stub workers; `answers` are the scripted proposals for trials 1, 2, ..."""
    log = folder.path / "workers.log"
    launcher = LocalLauncher(["cpu"] * workers, EnergySettings(), log, command=STUB)
    stop = StopRule(folder, LimitSettings(trials=trials, min_free_disk_bytes=0))
    try:
        chosen = proposer or ScriptedProposer(answers or [])
        return StudyLoop(folder, launcher, chosen, MACHINE, folder.path, stop, observer).run()
    finally:
        launcher.close()


def wait_until(fact: Callable[[], object], seconds: float = 30.0) -> None:
    """Returns as soon as the fact holds; the seconds are for a machine that is busy with something else."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def git(folder: StudyFolder, *arguments: str) -> str:
    command = ["git", "-C", str(folder.path / "recipe"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def query(folder: StudyFolder, sql: str) -> list[tuple[Any, ...]]:
    """What any SQLite client sees, the project's own code left out."""
    with sqlite3.connect(folder.path / "study.db") as database:
        return database.execute(sql).fetchall()


def rows(folder: StudyFolder, table: str, order: str, without: set[str] = NOT_TAKEN) -> list[dict[str, Any]]:
    """A table as it stands, without the columns that do not travel with a trajectory."""
    with sqlite3.connect(folder.path / "study.db") as database:
        database.row_factory = sqlite3.Row
        found = database.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()
    return [{name: row[name] for name in row.keys() if name not in without} for row in found]  # noqa: SIM118


def write_promoted(store: Store, trial: int, scores: dict[int, float | str], factor: float = 8.0) -> None:
    """Rows as a promotion leaves them: seed -> val_bpb, or the failure."""
    for seed, score in scores.items():
        common = {"run_id": f"{trial}-{seed}", "seed": seed}
        if isinstance(score, str):
            result = RunResult(**common, state="failed", failure=score, message="so it is", failed_step=9)  # type: ignore[arg-type]
        else:
            result = RunResult(**common, state="complete", val_bpb=score, test_bpb=score + 0.1)  # type: ignore[arg-type]
        store.add_promoted_run(trial, factor, seed, result, Energy(2.0, "estimate"))


def assert_git_and_database_agree(folder: StudyFolder) -> None:
    """Branch, tags, trees and rows tell one story; nothing is lost and nothing is there twice."""
    import tomllib

    study = query(folder, "SELECT incumbent, incumbent_commit FROM studies")[0]
    assert git(folder, "rev-parse", "incumbent").strip() == study[1]
    assert git(folder, "status", "--porcelain") == ""
    incumbent = json.loads(query(folder, f"SELECT recipe FROM trials WHERE number = {study[0]}")[0][0])
    assert tomllib.loads(git(folder, "show", "incumbent:recipe.toml")) == incumbent
    tags = git(folder, "tag").split()
    columns = 'number, state, decision, "commit", merge_commit, recipe, kept_until'
    rows = query(folder, f"SELECT {columns} FROM trials ORDER BY number")
    assert [row[0] for row in rows] == list(range(len(rows)))
    closed = [f"trial/{row[0]:04d}" for row in rows if row[1] not in ("proposed", "running", "blocked")]
    assert tags == closed
    held = [f"refs/trials/{row[0]:04d}" for row in rows if row[1] == "running"]
    assert git(folder, "for-each-ref", "--format=%(refname)", "refs/trials").split() == held
    for number, state, decision, commit, merge, recipe, taken_back in rows:
        if state == "blocked":
            assert commit is None
            continue
        assert tomllib.loads(git(folder, "show", f"{commit}:recipe.toml")) == json.loads(recipe)
        if f"trial/{number:04d}" in tags:
            assert git(folder, "rev-parse", f"trial/{number:04d}^{{commit}}").strip() == commit
        if merge:
            assert decision == "keep" or taken_back
            assert git(folder, "rev-parse", f"{merge}^{{tree}}") == git(folder, "rev-parse", f"{commit}^{{tree}}")
    story = [
        line.split()[2].rstrip(":") for line in git(folder, "log", "--format=%s", "--first-parent").splitlines()[:-1]
    ]
    assert story == [str(row[0]) for row in reversed(rows) if row[4] and not row[6]]
    assert query(folder, "SELECT trial, seed FROM runs GROUP BY trial, seed HAVING COUNT(*) > 1") == []
