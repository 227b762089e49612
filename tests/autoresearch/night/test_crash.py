"""kill -9 anywhere, start again: nothing is lost, nothing is there twice, git and the database agree."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from studies import BAD, GOOD, assert_git_and_database_agree, change, make_study, query, run_study

from autoresearch.study.folder import StudyFolder
from autoresearch.study.store import Store
from autoresearch.study.workspace import Workspace
from autoresearch.workers.local import LocalLauncher

ANSWERS = [change("lr", 99.0), change("lr", GOOD), change("lr", BAD)]
SHORT: dict[str, Any] = {
    "decision__baseline_runs": 2,
    "decision__reference_runs": 3,
    "decision__reference_max": 3,
    "decision__max_runs": 3,
}
# Everything that leaves a trace outside the process.
STEPS = {
    Store: [
        "open_trial",
        "block_trial",
        "start_trial",
        "finish_trial",
        "queue_runs",
        "hand_out_run",
        "finish_run",
        "log",
    ],
    Workspace: ["stage", "commit", "merge", "hold", "tag", "move_incumbent", "release"],
    LocalLauncher: ["submit"],
}


def run_until_killed(home: Path, fatal_step: int, after: bool) -> bool:
    """A night in a process of its own that is killed at its Nth step, before or after it took effect.

    Returns False if the night ended before that step.
    """
    child = os.fork()
    if child == 0:
        count = 0
        for owner, names in STEPS.items():
            for name in names:
                original = getattr(owner, name)

                def step(*args: object, _original: object = original, **kwargs: object) -> object:
                    nonlocal count
                    count += 1
                    here = count == fatal_step
                    if here and not after:
                        os.kill(os.getpid(), signal.SIGKILL)
                    result = _original(*args, **kwargs)  # type: ignore[operator]
                    if here:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return result

                setattr(owner, name, step)
        try:
            run_study(StudyFolder(home, "one"), ANSWERS, workers=1)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


def facts(folder: StudyFolder) -> list[object]:
    """What a night without a crash gives, to the last bit."""
    return [
        query(
            folder, "SELECT number, state, decision, changes, val_bpb, n_runs, improvement FROM trials ORDER BY number"
        ),
        query(folder, "SELECT trial, seed, purpose, state, val_bpb FROM runs ORDER BY trial, seed"),
        query(folder, "SELECT trial, raw, passed FROM proposals ORDER BY trial"),
    ]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a new study in it, to be copied: that is cheaper than to make one for each step."""
    home = tmp_path_factory.mktemp("fresh")
    make_study(home, **SHORT).store.close()
    return home


@pytest.fixture(scope="module")
def undisturbed(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    home = tmp_path_factory.mktemp("undisturbed") / "home"
    shutil.copytree(fresh, home)
    folder = StudyFolder(home, "one")
    run_study(folder, ANSWERS, workers=1)
    return facts(folder)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_night_killed_at_any_step_ends_as_if_it_had_not_been(
    tmp_path: Path, fresh: Path, undisturbed: list[object], after: bool
) -> None:
    step = 0
    while True:
        step += 1
        home = tmp_path / str(step)
        shutil.copytree(fresh, home)
        killed = run_until_killed(home, step, after)
        folder = StudyFolder(home, "one")
        run_study(folder, ANSWERS, workers=1)
        assert_git_and_database_agree(folder)
        assert facts(folder) == undisturbed, f"killed at step {step}"
        folder.store.close()
        if not killed:
            break
    assert step > 40, "the night has many steps; were they counted?"


def test_a_night_killed_again_and_again_still_ends(tmp_path: Path, undisturbed: list[object]) -> None:
    folder = make_study(tmp_path, **SHORT)
    folder.store.close()
    crashes = 0
    while run_until_killed(tmp_path, 9, True):
        crashes += 1
        assert crashes < 100
    assert crashes > 3
    folder = StudyFolder(tmp_path, "one")
    assert_git_and_database_agree(folder)
    assert facts(folder) == undisturbed
