"""Studies for tests: real git, real SQLite, real worker processes that answer at once."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from autoresearch.config import EnergySettings, LimitSettings
from autoresearch.energy import EnergyMeter
from autoresearch.folder import StudyFolder, create_study
from autoresearch.launcher import LocalLauncher
from autoresearch.limits import StopRule
from autoresearch.machine import Machine
from autoresearch.observer import Observer
from autoresearch.proposers import Proposer
from autoresearch.proposers.classic import ScriptedProposer
from autoresearch.study import Study

STUB = (sys.executable, str(Path(__file__).parents[1] / "stub_worker.py"))
MACHINE = Machine("cpu", "test", 2, 16 * 2**30, ("fp32", "bf16"))
# What a study of stub workers needs on the way: two seconds of trials instead of minutes.
GOOD, BAD = 0.004, 0.0005  # learning rates: the stub's best, and one that is clearly worse than the default


def change(knob: str, value: object, reason: str = "because") -> str:
    return json.dumps({"knob": knob, "new_value": value, "reason": reason})


def make_study(home: Path, name: str = "one", **overrides: Any) -> StudyFolder:
    """`decision__max_runs=4` overrides max_runs in [decision]."""
    settings = {key.replace("__", "."): value for key, value in overrides.items()}
    return create_study(home, name, "cpu-nano", MACHINE, settings)


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
    launcher = LocalLauncher(["cpu"] * workers, EnergyMeter(EnergySettings()), log, command=STUB)
    stop = StopRule(folder, LimitSettings(trials=trials, min_free_disk_bytes=0))
    try:
        chosen = proposer or ScriptedProposer(answers or [])
        return Study(folder, launcher, chosen, MACHINE, folder.path, stop, observer).run()
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


def assert_git_and_database_agree(folder: StudyFolder) -> None:
    """Branch, tags, trees and rows tell one story; nothing is lost and nothing is there twice."""
    import tomllib

    study = query(folder, "SELECT incumbent, incumbent_commit FROM studies")[0]
    assert git(folder, "rev-parse", "incumbent").strip() == study[1]
    assert git(folder, "status", "--porcelain") == ""
    incumbent = json.loads(query(folder, f"SELECT recipe FROM trials WHERE number = {study[0]}")[0][0])
    assert tomllib.loads(git(folder, "show", "incumbent:recipe.toml")) == incumbent
    tags = git(folder, "tag").split()
    rows = query(folder, 'SELECT number, state, decision, "commit", merge_commit, recipe FROM trials ORDER BY number')
    assert [row[0] for row in rows] == list(range(len(rows)))
    closed = [f"trial/{row[0]:04d}" for row in rows if row[1] in ("complete", "failed", "timed_out")]
    assert tags == closed
    for number, state, decision, commit, merge, recipe in rows:
        if state == "blocked":
            assert commit is None
            continue
        assert tomllib.loads(git(folder, "show", f"{commit}:recipe.toml")) == json.loads(recipe)
        if f"trial/{number:04d}" in tags:
            assert git(folder, "rev-parse", f"trial/{number:04d}^{{commit}}").strip() == commit
        if merge:
            assert decision == "keep"
            assert git(folder, "rev-parse", f"{merge}^{{tree}}") == git(folder, "rev-parse", f"{commit}^{{tree}}")
    story = [
        line.split()[2].rstrip(":") for line in git(folder, "log", "--format=%s", "--first-parent").splitlines()[:-1]
    ]
    assert story == [str(row[0]) for row in reversed(rows) if row[4]]
    assert query(folder, "SELECT trial, seed FROM runs GROUP BY trial, seed HAVING COUNT(*) > 1") == []
