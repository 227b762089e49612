"""What every launcher does, wherever its workers are: a new one is a line in LAUNCHERS."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import worker_process
from clusters import here, launcher_on
from launching import DIES, DIVERGES, HANGS, RECIPE, WAITS, event, finished, pid, progress, submit
from studies import STUB, is_running, wait_until

from autoresearch.config import EnergySettings
from autoresearch.workers.launcher import Finished, Launcher, Progress
from autoresearch.workers.local import LocalLauncher
from autoresearch.workers.process import WORKER
from trainer.data import prepare
from trainer.protocol import RunRequest, RunResult

Factory = Callable[[Path, Sequence[str]], Launcher]

# Each gets a path for the workers' log and the command of a worker.
LAUNCHERS: dict[str, Factory] = {
    "local": lambda log, command: LocalLauncher(["cpu"], EnergySettings(), log, command),
    "local, two devices": lambda log, command: LocalLauncher(["cpu", "cpu"], EnergySettings(), log, command),
    "ray": lambda log, command: launcher_on(here(), log, command),
}


@pytest.fixture(params=list(LAUNCHERS))
def factory(request: pytest.FixtureRequest) -> Factory:
    if request.param == "ray":
        request.getfixturevalue("two_nodes")
    return LAUNCHERS[request.param]


@pytest.fixture
def launcher(factory: Factory, tmp_path: Path) -> Iterator[Launcher]:
    """With stub workers."""
    launcher = factory(tmp_path / "workers.log", STUB)
    yield launcher
    launcher.close()


def test_a_run_tells_its_progress_and_then_its_result(launcher: Launcher, tmp_path: Path) -> None:
    folder = submit(launcher, tmp_path)
    assert event(launcher) == Progress("0001-0", "train", 1, 2, 3.0)
    end = event(launcher)
    assert isinstance(end, Finished)
    assert (end.run_id, end.result.run_id) == ("0001-0", "0001-0")
    assert (end.result.state, end.result.tokens) == ("complete", 1_000)
    assert end.result == RunResult.read(folder / "result.json")
    assert launcher.next_event(0) is None


def test_workers_do_one_run_after_another_in_one_process(launcher: Launcher, tmp_path: Path) -> None:
    pids = set()
    for number in range(launcher.capacity + 2):
        folder = submit(launcher, tmp_path, f"000{number}-0")
        assert finished(launcher).result.state == "complete"
        pids.add(pid(folder))
    assert len(pids) <= launcher.capacity


def test_as_many_runs_as_its_capacity_are_in_flight_at_once(launcher: Launcher, tmp_path: Path) -> None:
    names = [f"000{number}-0" for number in range(launcher.capacity)]
    folders = [submit(launcher, tmp_path, name, **WAITS) for name in names]
    assert {progress(launcher).run_id for _ in names} == set(names)
    assert len({pid(folder) for folder in folders}) == launcher.capacity
    for name in reversed(names):
        launcher.cancel(name)
        assert finished(launcher).run_id == name, "the others go on"


def test_a_run_that_fails_is_a_result_and_no_exception(launcher: Launcher, tmp_path: Path) -> None:
    folder = submit(launcher, tmp_path, **DIVERGES)
    result = finished(launcher).result
    assert (result.state, result.failure, result.failed_step, result.val_bpb) == ("failed", "diverged", 9, None)
    again = submit(launcher, tmp_path, "0002-0")
    assert finished(launcher).result.state == "complete"
    assert launcher.capacity > 1 or pid(again) == pid(folder), "its worker goes on"


def test_a_run_that_takes_too_long_is_killed_and_its_worker_replaced(launcher: Launcher, tmp_path: Path) -> None:
    folder = submit(launcher, tmp_path, seconds=0.2, **HANGS)
    hung = pid(folder)
    result = finished(launcher).result
    assert (result.state, result.failure, result.val_bpb) == ("failed", "timed_out", None)
    assert "limits.run_seconds" in result.message
    wait_until(lambda: not is_running(hung))
    submit(launcher, tmp_path, "0002-0")
    assert finished(launcher).result.state == "complete"


def test_a_worker_that_dies_is_reported_and_replaced(launcher: Launcher, tmp_path: Path) -> None:
    submit(launcher, tmp_path, **DIES)
    result = finished(launcher).result
    assert (result.run_id, result.state, result.failure) == ("0001-0", "failed", "worker_died")
    assert result.message
    submit(launcher, tmp_path, "0002-0")
    assert finished(launcher).result.state == "complete"


def test_a_result_of_an_earlier_attempt_does_not_count(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "0001-0").mkdir()
    RunResult("0001-0", 0, "complete", val_bpb=1.0).write(tmp_path / "0001-0" / "result.json")
    submit(launcher, tmp_path, **DIES)
    assert finished(launcher).result.failure == "worker_died"


def test_a_cancelled_run_ends_with_its_curve_so_far_and_its_worker_stays_warm(
    launcher: Launcher, tmp_path: Path
) -> None:
    folder = submit(launcher, tmp_path, **WAITS)
    progress(launcher)
    launcher.cancel("0001-0")
    end = finished(launcher)
    assert (end.run_id, end.result.state, end.result.failure) == ("0001-0", "cancelled", None)
    assert (end.result.val_bpb, end.result.steps, end.result.curve) == (None, 1, [[1, 7.6]])
    again = submit(launcher, tmp_path, "0002-0")
    assert finished(launcher).result.state == "complete"
    assert pid(again) == pid(folder)


def test_a_run_may_be_cancelled_before_its_worker_has_begun_it(launcher: Launcher, tmp_path: Path) -> None:
    submit(launcher, tmp_path, **WAITS)
    launcher.cancel("0001-0")
    launcher.cancel("0001-0")
    assert finished(launcher).result.state == "cancelled"
    assert launcher.next_event(0) is None


def test_to_cancel_what_is_not_in_flight_harms_nothing(launcher: Launcher, tmp_path: Path) -> None:
    for run_id in ("0001-0", "nobody", ""):
        launcher.cancel(run_id)
    for _ in range(2):  # the same run again, after it was cancelled too late
        submit(launcher, tmp_path)
        launcher.cancel("nobody")
        assert finished(launcher).result.state == "complete"
        launcher.cancel("0001-0")
    submit(launcher, tmp_path, "0002-0")
    assert finished(launcher).result.state == "complete"


def test_a_cancelled_run_may_be_run_again(launcher: Launcher, tmp_path: Path) -> None:
    for knobs, state in ((WAITS, "cancelled"), ({}, "complete"), (WAITS, "cancelled")):
        submit(launcher, tmp_path, **knobs)
        if knobs:
            launcher.cancel("0001-0")
        assert finished(launcher).result.state == state


def test_a_cancelled_run_whose_worker_dies_is_no_failed_one(launcher: Launcher, tmp_path: Path) -> None:
    folder = submit(launcher, tmp_path, **HANGS)
    deaf = pid(folder)
    launcher.cancel("0001-0")
    os.kill(deaf, signal.SIGKILL)
    end = finished(launcher)
    assert (end.result.state, end.result.failure, end.result.curve) == ("cancelled", None, [])
    assert end.energy.joules > 0
    submit(launcher, tmp_path, "0002-0")
    assert finished(launcher).result.state == "complete"


@pytest.mark.parametrize(
    ("knobs", "outcome"),
    [
        ({}, "complete"), (DIVERGES, "diverged"), (WAITS, "cancelled"), (HANGS, "timed_out"), (DIES, "worker_died"),
    ],
)  # fmt: skip
def test_every_result_has_its_energy(launcher: Launcher, tmp_path: Path, knobs: dict[str, Any], outcome: str) -> None:
    submit(launcher, tmp_path, seconds=0.2 if knobs is HANGS else 600.0, **knobs)
    if knobs is WAITS:
        launcher.cancel("0001-0")
    end = finished(launcher)
    assert (end.result.failure or end.result.state) == outcome
    assert end.energy.joules > 0 and end.energy.source in ("nvml", "rapl", "estimate")


def test_closing_leaves_no_process(launcher: Launcher, tmp_path: Path) -> None:
    pids = [pid(submit(launcher, tmp_path, f"000{number}-0", **WAITS)) for number in range(launcher.capacity)]
    assert all(is_running(pid) for pid in pids)
    for _ in range(2):
        launcher.close()
    wait_until(lambda: not any(is_running(pid) for pid in pids))


def test_a_real_training_is_cancelled_and_the_next_begins_warm(factory: Factory, tmp_path: Path) -> None:
    texts = worker_process.write_texts(tmp_path / "texts")
    data_dir = prepare(str(texts), tmp_path / "data", vocab_size=512, val_bytes=10_000, test_bytes=10_000)
    launcher = factory(tmp_path / "workers.log", WORKER)
    try:
        for run_id, steps in (("long", 10**7), ("short", 5)):
            (tmp_path / run_id).mkdir()
            result = str(tmp_path / run_id / "result.json")
            recipe = {**RECIPE, **worker_process.RECIPE}
            launcher.submit(RunRequest(run_id, recipe, 0, {"steps": steps}, str(data_dir), result), 600)
            if run_id == "long":
                progress(launcher)
                launcher.cancel(run_id)
                end = finished(launcher)
                assert (end.result.state, end.energy.joules > 0) == ("cancelled", True)
                assert end.result.steps and end.result.curve[-1][0] == end.result.steps
        assert finished(launcher).result.steps == 5
    finally:
        launcher.close()
