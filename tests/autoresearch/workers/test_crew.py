"""The crew: every worker has a run, a lost run is tried again, and what a killed night left behind is taken in."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launching import DIES, DIES_ONCE, DIVERGES, WAITS, pid, request
from studies import STUB

from autoresearch.config import EnergySettings
from autoresearch.workers import process
from autoresearch.workers.crew import Crew, Ended, Lost, Task, left_behind
from autoresearch.workers.energy import Energy
from autoresearch.workers.launcher import Progress
from autoresearch.workers.local import LocalLauncher
from trainer.protocol import RunResult


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[LocalLauncher]:
    launcher = LocalLauncher(["cpu", "cpu"], EnergySettings(), tmp_path / "workers.log", command=STUB)
    yield launcher
    launcher.close()


class Runs:
    """What waits to be handed out, by name; a lost one goes to the front."""

    def __init__(self, folder: Path, **waiting: dict[str, Any]) -> None:
        self.folder, self.knobs = folder, waiting
        self.waiting = deque(waiting)

    def next(self) -> Task[str] | None:
        if not self.waiting:
            return None
        name = self.waiting.popleft()
        return Task(name, request(self.folder, name, **self.knobs[name]), 600.0)

    def work(self, crew: Crew[str]) -> Iterator[Ended[str] | Lost[str]]:
        """Until all is done."""
        while True:
            list(crew.hand_out(self.next))
            if not crew.in_flight:
                return
            event = crew.next_event()
            if isinstance(event, Lost):
                self.waiting.appendleft(event.run)
            if isinstance(event, Ended | Lost):
                yield event


def ended(crew: Crew[str]) -> Ended[str]:
    while not isinstance(event := crew.next_event(), Ended):
        assert event is None or isinstance(event, Progress)
    return event


def test_every_worker_has_a_run_and_no_run_is_asked_for_too_early(launcher: LocalLauncher, tmp_path: Path) -> None:
    crew: Crew[str] = Crew(launcher)
    runs = Runs(tmp_path, a=WAITS, b=WAITS, c={})
    assert list(crew.hand_out(runs.next)) == ["a", "b"] == list(crew.in_flight)
    assert list(crew.hand_out(runs.next)) == [] and list(runs.waiting) == ["c"], "nobody is free"
    crew.cancel("b")
    assert ended(crew).run == "b"
    assert list(crew.hand_out(runs.next)) == ["c"]
    assert crew.in_flight == {"a": "a", "c": "c"}
    end = ended(crew)
    assert (end.run, end.result.state) == ("c", "complete") and end.energy.joules > 0
    assert crew.in_flight == {"a": "a"}


def test_nothing_to_hand_out_is_nothing_to_hear(launcher: LocalLauncher, tmp_path: Path) -> None:
    crew: Crew[str] = Crew(launcher)
    assert list(crew.hand_out(Runs(tmp_path).next)) == []
    assert crew.next_event(0) is None and not crew.in_flight


def test_a_run_whose_worker_died_is_tried_once_more(launcher: LocalLauncher, tmp_path: Path) -> None:
    lost, end = Runs(tmp_path, a=DIES_ONCE).work(Crew(launcher))
    assert isinstance(lost, Lost) and isinstance(end, Ended)
    assert lost.run == "a" and "exit code 7; it is tried once more" in lost.message
    assert (end.run, end.result.state) == ("a", "complete")


def test_a_run_that_kills_its_worker_again_has_failed(launcher: LocalLauncher, tmp_path: Path) -> None:
    events = list(Runs(tmp_path, a=DIES, b=DIES).work(Crew(launcher)))
    assert sorted((event.run, type(event).__name__) for event in events) == [
        ("a", "Ended"), ("a", "Lost"), ("b", "Ended"), ("b", "Lost"),
    ]  # fmt: skip
    assert {event.result.failure for event in events if isinstance(event, Ended)} == {"worker_died"}


def test_attempts_of_another_night_do_not_count(launcher: LocalLauncher, tmp_path: Path) -> None:
    for _ in range(2):
        lost, end = Runs(tmp_path, a=DIES).work(Crew(launcher))
        assert isinstance(lost, Lost) and isinstance(end, Ended) and end.result.failure == "worker_died"


def test_whoever_measures_recipes_hears_of_the_first_death(launcher: LocalLauncher, tmp_path: Path) -> None:
    (end,) = Runs(tmp_path, a=DIES_ONCE).work(Crew(launcher, max_attempts=1))
    assert isinstance(end, Ended) and end.result.failure == "worker_died"


def test_a_run_that_the_kernel_killed_is_not_tried_again(
    launcher: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "oom_kills", lambda: None)
    crew: Crew[str] = Crew(launcher)
    assert len(list(crew.hand_out(Runs(tmp_path, a=WAITS).next))) == 1
    os.kill(pid(tmp_path / "a"), signal.SIGKILL)
    assert ended(crew).result.failure == "out_of_memory"


def test_a_failed_run_is_not_tried_again(launcher: LocalLauncher, tmp_path: Path) -> None:
    (end,) = Runs(tmp_path, a=DIVERGES).work(Crew(launcher))
    assert isinstance(end, Ended) and end.result.failure == "diverged"


def test_a_cancelled_run_is_a_result_of_its_own_kind_and_its_worker_stays_warm(tmp_path: Path) -> None:
    launcher = LocalLauncher(["cpu"], EnergySettings(), tmp_path / "workers.log", command=STUB)
    try:
        crew: Crew[str] = Crew(launcher)
        runs = Runs(tmp_path, a=WAITS, b={})
        assert len(list(crew.hand_out(runs.next))) == 1
        assert isinstance(crew.next_event(30.0), Progress)
        crew.cancel("nobody")
        crew.cancel("a")
        assert ended(crew).result.state == "cancelled"
        crew.cancel("a")
        assert len(list(crew.hand_out(runs.next))) == 1
        assert ended(crew).result.state == "complete"
        assert pid(tmp_path / "a") == pid(tmp_path / "b")
    finally:
        launcher.close()


def test_what_a_killed_night_left_is_taken_in_with_an_estimate_of_its_energy(tmp_path: Path) -> None:
    path, settings = tmp_path / "result.json", EnergySettings(watts_per_core=10.0)
    assert left_behind("a", path, settings) is None
    path.write_text('{"run_id": "a", "see')
    assert left_behind("a", path, settings) is None, "half a result is none"
    result = RunResult("a", 0, "complete", val_bpb=2.5, cpu_seconds=3.0, processes=2)
    result.write(path)
    assert left_behind("a", path, settings) == Ended("a", result, Energy(60.0, "estimate"))
