"""Ray in a process of its own: what ends that process, the loss of the head among it, ends no night."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from launching import WAITS, finished, pid, progress, submit
from studies import STUB, is_running, make_study, run_study, wait_until

from autoresearch import words
from autoresearch.config import LimitSettings
from autoresearch.errors import UserError
from autoresearch.evidence import Evidence
from autoresearch.evidence.nights import ending
from autoresearch.night import session
from autoresearch.night.session import Night
from autoresearch.proposers.classic import RandomProposer
from autoresearch.study.device_classes import REPEATS, DeviceClasses
from autoresearch.study.folder import StudyFolder
from autoresearch.study.lock import RunnerLock
from autoresearch.study.observer import Observer
from autoresearch.workers.fleet import Cluster, Fleet, Place
from autoresearch.workers.launcher import Finished, Note
from autoresearch.workers.machine import look
from trainer.protocol import RunRequest

pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")

import clusters

from autoresearch.workers import ray_launcher
from autoresearch.workers.ray_launcher import RayLauncher, machine_of_cluster

if TYPE_CHECKING:
    from clusters import TwoNodes


OTHER_CPU = """
from pathlib import Path
from autoresearch.workers import machine
machine.CPU_FACTS = Path({!r})
"""


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_launcher, "RETRY_SECONDS", 0.2)


@pytest.fixture
def launcher(two_nodes: TwoNodes, tmp_path: Path, hasty: None) -> Iterator[RayLauncher]:
    launcher = clusters.launcher_on(two_nodes.cluster.address, tmp_path / "workers.log", STUB, Fleet(tmp_path))
    yield launcher
    launcher.close()


class Notes(Observer):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


def ray_process() -> psutil.Process:
    """The one that this process has begun for Ray."""
    (found,) = multiprocessing.active_children()
    return psutil.Process(found.pid)


def heard(launcher: RayLauncher) -> tuple[Finished, list[str]]:
    """The end of a run, and what a person is told until then."""
    notes: list[str] = []
    while not isinstance(event := launcher.next_event(60.0), Finished):
        notes += clusters.told(event)
    return event, notes


def test_when_ray_ends_its_process_the_run_is_lost_and_the_next_process_goes_on(
    launcher: RayLauncher, tmp_path: Path
) -> None:
    worker = pid(submit(launcher, tmp_path, **WAITS))
    wait_until(lambda: (seen := Fleet(tmp_path).read()) and seen.busy_seconds)
    ray_process().kill()
    end, notes = heard(launcher)
    assert (end.run_id, end.result.failure, launcher.capacity) == ("0001-0", "worker_died", 0)
    assert end.energy.joules > 0 and "the cluster is lost" in notes[0]
    left = Fleet(tmp_path).read()
    assert left and not left.slots, "no slot is shown that is no more"
    assert left.busy_seconds > 0, "but its time counts on"
    assert "the cluster is there again" in clusters.wait_for_slots(launcher, 1)
    wait_until(lambda: not is_running(worker))
    submit(launcher, tmp_path)
    assert finished(launcher).result.state == "complete"
    launcher.close()
    both = Fleet(tmp_path).read()
    assert both and both.most == 1 and both.seconds > left.seconds and both.busy_seconds > left.busy_seconds


def test_a_night_ends_with_how_busy_its_cluster_was(
    two_nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, notes = make_study(tmp_path), Notes()
    fleet = Fleet(folder.path)
    fleet.write([Place(7, "gone", "aaaa1111", "x", "0001-0", False, 3, 0.5, 9e9)])  # a killed night left it
    address, log = two_nodes.cluster.address, folder.path / "workers.log"
    monkeypatch.setattr(session, "start_workers", lambda *_: clusters.launcher_on(address, log, STUB, fleet, 2))
    monkeypatch.setattr(StudyFolder, "prepare_data", lambda self: self.path)
    limits, proposer = LimitSettings(trials=2, min_free_disk_bytes=0), RandomProposer()
    with RunnerLock(folder.path):
        Night(folder, notes, limits=limits, proposer=proposer).run()
    told = ending(Evidence(folder)).partition("; its cluster had ")[2]
    assert told.startswith("up to 2 slots at once on ") and told.endswith(" % of their time")
    assert f"the cluster had {told}" in notes.told and "busy 0 %" not in told and "busy 50 %" not in told
    assert fleet.read() is None, "it is gone with the night"


def test_a_cancelled_run_is_no_failed_one_when_the_process_ends(launcher: RayLauncher, tmp_path: Path) -> None:
    submit(launcher, tmp_path, **WAITS)
    progress(launcher)
    process = ray_process()
    process.suspend()
    launcher.cancel("0001-0")
    process.kill()
    assert heard(launcher)[0].result.state == "cancelled"


def test_a_process_that_hangs_is_given_up(
    launcher: RayLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(launcher, tmp_path, **WAITS)
    progress(launcher)
    monkeypatch.setattr(ray_launcher, "SILENCE_SECONDS", 1.0)
    ray_process().suspend()
    end, notes = heard(launcher)
    assert end.result.failure == "worker_died" and "nothing was heard" in notes[0]
    monkeypatch.undo()
    clusters.wait_for_slots(launcher, 1)


def test_what_a_person_sends_to_all_processes_is_the_runners_to_answer(launcher: RayLauncher, tmp_path: Path) -> None:
    submit(launcher, tmp_path)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(ray_process().pid, number)
    assert finished(launcher).result.state == "complete"


def test_a_lost_head_is_waited_for(tmp_path: Path, hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "1")  # Ray's own is a minute
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    with clusters.head(port) as address:
        launcher = clusters.launcher_on(address, tmp_path / "workers.log", STUB)
        submit(launcher, tmp_path, **WAITS)
        progress(launcher)
    try:
        end, notes = heard(launcher)
        assert (end.result.failure, launcher.capacity) == ("worker_died", 0)
        while not any("the night waits for it" in note for note in notes):
            event = launcher.next_event(60.0)
            notes += [event.text] if isinstance(event, Note) else []
        with clusters.head(port):
            clusters.wait_for_slots(launcher, 1)
            submit(launcher, tmp_path)
            assert finished(launcher).result.state == "complete"
            launcher.close()
    finally:
        launcher.close()


def test_where_no_cluster_is_the_night_does_not_begin(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = clusters.cluster_settings(address=f"127.0.0.1:{port}")
    for ask in (lambda: RayLauncher(settings, tmp_path / "log"), lambda: machine_of_cluster(settings, print)):
        with pytest.raises(UserError, match="no Ray cluster lets us in"):
            ask()


def test_the_machine_of_a_node_is_asked_for_and_waited_for(
    two_nodes: TwoNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"address": two_nodes.cluster.address, "labels": ["site=late"]}
    node: list[Any] = []

    def note(text: str) -> None:
        assert "site=late" in text and "waits for one" in text
        node.append(node or two_nodes.add("late"))

    monkeypatch.setattr(ray_launcher, "WORD_SECONDS", 1.0)
    try:
        machine = machine_of_cluster(clusters.cluster_settings(**asked), note)
        assert (machine.kind, bool(machine.name), len(node) >= 1) == ("cpu", True, True)
    finally:
        two_nodes.kill(node[0])


@pytest.mark.parametrize(("offset", "slots"), [(0.0, 4), (0.5, 2)])
def test_another_class_of_device_repeats_runs_before_it_has_any(
    two_nodes: TwoNodes, tmp_path: Path, offset: float, slots: int
) -> None:
    folder = make_study(tmp_path, decision__baseline_runs=REPEATS)
    run_study(folder, [])
    folder.store.db.execute("UPDATE runs SET versions = json_set(versions, '$.device', ?)", [look("cpu").name])
    asked = clusters.cluster_settings(address=two_nodes.cluster.address, labels=["site=mixed"])
    notes: list[str] = []
    (tmp_path / "cpuinfo").write_text("model name : Other CPU\n")
    node = two_nodes.add("mixed")
    with two_nodes.peculiar("mixed", tmp_path, OTHER_CPU.format(str(tmp_path / "cpuinfo")), STUB_OFFSET=str(offset)):
        launcher = RayLauncher(asked, tmp_path / "log", admission=DeviceClasses(folder, ""), command=STUB)
        while len(folder.store.repeats()) < REPEATS or (offset and not any("is turned away" in note for note in notes)):
            event = launcher.next_event(60.0)
            assert isinstance(event, Note), "the night itself hears of no run"
            notes += clusters.told(event)
        clusters.wait_for_slots(launcher, slots)
        launcher.close()
    two_nodes.kill(node)
    assert "Other CPU is another class of device than this study's" in notes[0]
    assert f"Other CPU scores {words.gain(offset)} ± 0.0000" in notes[1]


def test_a_node_that_is_lost_while_it_is_compared_costs_its_class_nothing(two_nodes: TwoNodes, tmp_path: Path) -> None:
    folder, fleet = make_study(tmp_path, decision__baseline_runs=REPEATS), Fleet(tmp_path)
    run_study(folder, [])
    folder.store.db.execute("UPDATE runs SET versions = json_set(versions, '$.device', ?)", [look("cpu").name])
    usual = {file: RunRequest.read(str(file)) for file in folder.path.glob("runs/*/request.json")}
    for file, run in usual.items():
        replace(run, recipe={**run.recipe, **WAITS}).write(file)
    (tmp_path / "cpuinfo").write_text("model name : Other CPU\n")
    code = OTHER_CPU.format(str(tmp_path / "cpuinfo"))
    asked = clusters.cluster_settings(address=two_nodes.cluster.address, labels=["site=frail"])
    launcher = RayLauncher(asked, tmp_path / "log", admission=DeviceClasses(folder, ""), fleet=fleet, command=STUB)

    def both_repeat() -> bool:
        assert isinstance(launcher.next_event(0.05), Note | None), "the night itself hears of no run"
        slots = (fleet.read() or Cluster()).slots
        return [slot.does.endswith("-again") for slot in slots] == [True, True]

    with two_nodes.peculiar("frail", tmp_path, code):
        wait_until(both_repeat, 60.0)
    for file, run in usual.items():
        run.write(file)
    with two_nodes.peculiar("frail", tmp_path, code):
        notes = clusters.wait_for_slots(launcher, 2)
        launcher.close()
    assert sum("is lost" in note for note in notes) == 2 and len(folder.store.repeats()) == REPEATS


def test_a_runner_that_ends_without_closing_leaves_no_process(two_nodes: TwoNodes, tmp_path: Path) -> None:
    code = (
        "import multiprocessing, sys; from pathlib import Path; import clusters; from studies import STUB\n"
        "held = clusters.launcher_on(sys.argv[1], Path(sys.argv[2]), STUB)\n"
        "print(multiprocessing.active_children()[0].pid); sys.exit('an error')"
    )
    command = [sys.executable, "-c", code, two_nodes.cluster.address, str(tmp_path / "workers.log")]
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=path, timeout=90, check=False)
    assert (done.returncode, done.stderr) == (1, "an error\n")
    assert not is_running(int(done.stdout))
