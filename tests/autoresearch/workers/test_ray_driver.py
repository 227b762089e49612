"""Runs on a cluster of two nodes: slots follow the nodes, and what is lost with one is done again once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from launching import HANGS, WAITS, finished, pid, progress, submit
from studies import (
    STUB,
    assert_git_and_database_agree,
    is_running,
    make_study,
    query,
    wait_until,
)

from autoresearch.errors import UserError
from autoresearch.study.folder import StudyFolder
from autoresearch.workers.doctor import examine_cluster
from autoresearch.workers.fleet import Fleet, Place
from autoresearch.workers.launcher import Finished, Note
from autoresearch.workers.ray_data import Text, fingerprint

pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")

import clusters
from clusters import ANSWERS, SHORT, facts

from autoresearch.workers.ray_cluster import Node, device_there
from autoresearch.workers.ray_driver import RayDriver

if TYPE_CHECKING:
    from clusters import TwoNodes

Start = Callable[..., Any]


def slots(fleet: Fleet) -> list[Place]:
    found = fleet.read()
    return found.slots if found else []


@pytest.fixture
def start(two_nodes: TwoNodes, tmp_path: Path) -> Iterator[Start]:
    """Launchers with stub workers, closed after the test."""
    launchers: list[Any] = []

    def start(slots: int | None = None, **asked: Any) -> Any:
        launchers.append(clusters.driver_on(tmp_path / "workers.log", STUB, slots, **asked))
        return launchers[-1]

    yield start
    for launcher in launchers:
        launcher.close()


def heard(launcher: Any) -> tuple[Finished, list[str]]:
    """The end of a run, and what a person is told until then."""
    notes: list[str] = []
    while not isinstance(event := launcher.next_event(60.0), Finished):
        assert event is not None, "the cluster is silent"
        notes += clusters.told(event)
    return event, notes


def test_slots_follow_the_nodes_to_none_and_back(start: Start, two_nodes: TwoNodes, tmp_path: Path) -> None:
    launcher = start(slots=2, labels=["site=other"])
    submit(launcher, tmp_path, **WAITS)
    progress(launcher)
    two_nodes.kill(two_nodes.other)
    end, notes = heard(launcher)
    assert (end.run_id, end.result.state, end.result.failure) == ("0001-0", "failed", "worker_died")
    assert end.energy.joules > 0 and "is lost" in notes[0]
    notes = clusters.wait_for_slots(launcher, 0)
    while not any("the night waits" in note for note in notes):
        event = launcher.next_event(60.0)
        assert isinstance(event, Note)
        notes.append(event.text)
    two_nodes.other = two_nodes.add()
    clusters.wait_for_slots(launcher, 2)
    submit(launcher, tmp_path)
    assert finished(launcher).result.state == "complete"


def test_a_killed_actor_takes_its_run_and_its_worker_along_and_another_is_made(start: Start, tmp_path: Path) -> None:
    launcher = start(most=1)
    worker = pid(submit(launcher, tmp_path, **WAITS))
    psutil.Process(psutil.Process(worker).ppid()).kill()
    end, notes = heard(launcher)
    assert (end.result.failure, len(notes)) == ("worker_died", 1)
    wait_until(lambda: not is_running(worker))
    folders = set(Path(tempfile.gettempdir()).glob("autoresearch-slot-*/0001-0"))
    clusters.wait_for_slots(launcher, 1)
    assert folders and not any(folder.exists() for folder in folders), "the next one cleans up"
    folder = submit(launcher, tmp_path)
    assert finished(launcher).result.state == "complete" and pid(folder) != worker


def test_a_killed_worker_process_costs_its_run_alone(start: Start, tmp_path: Path) -> None:
    launcher = start(most=1)
    worker = pid(submit(launcher, tmp_path, **HANGS))
    os.kill(worker, signal.SIGKILL)
    end, notes = heard(launcher)
    assert (end.result.failure, notes, launcher.capacity) == ("worker_died", [], 1)
    submit(launcher, tmp_path)
    assert finished(launcher).result.state == "complete"


def test_log_device_and_host_come_back_with_a_run(start: Start, tmp_path: Path) -> None:
    launcher = start(most=1)
    folder = submit(launcher, tmp_path, n_layer=1)
    result = finished(launcher).result
    assert "about to die" in (folder / "worker.log").read_text()
    assert result.versions["device"] and result.versions["host"]
    assert not (folder / "result.json").exists(), "a run whose worker died is done again, also by the next runner"


def test_a_node_that_is_lost_in_the_middle_of_a_night_changes_nothing(
    start: Start, two_nodes: TwoNodes, tmp_path: Path, undisturbed: list[object]
) -> None:
    launcher = start(most=1, labels=["site=other"])
    usual, count = launcher.submit, 0

    def submit(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 4:
            two_nodes.kill(two_nodes.other)
            two_nodes.other = two_nodes.add()
        usual(*arguments)

    launcher.submit = submit
    folder = make_study(tmp_path, **SHORT)
    clusters.night_on(launcher, folder, ANSWERS)
    assert facts(folder) == undisturbed
    assert query(folder, "SELECT attempts FROM runs WHERE attempts > 1") == [(2,)]
    kinds = {kind for (kind,) in query(folder, "SELECT kind FROM events")}
    assert {"worker_lost", "workers"} <= kinds
    assert_git_and_database_agree(folder)


def test_a_runner_that_is_killed_and_started_again_loses_nothing_and_does_nothing_twice(
    start: Start, two_nodes: TwoNodes, tmp_path: Path, undisturbed: list[object]
) -> None:
    make_study(tmp_path, **SHORT).store.close()
    script = Path(clusters.__file__).with_name("killed_runner.py")
    command = [sys.executable, str(script), two_nodes.cluster.address, str(tmp_path), "4"]
    path = os.pathsep.join([*sys.path])
    done = subprocess.run(
        command,
        input=json.dumps(ANSWERS),
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = StudyFolder(tmp_path, "one")
    clusters.night_on(start(most=1), folder, ANSWERS)
    assert facts(folder) == undisturbed
    assert_git_and_database_agree(folder)


def test_a_drained_node_finishes_its_runs_and_gets_no_others(two_nodes: TwoNodes, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    settings = clusters.cluster_settings(labels=["site=head"])
    launcher: Any = RayDriver(settings, tmp_path / "workers.log", fleet=fleet, command=STUB)
    try:
        clusters.wait_for_slots(launcher, 2)
        submit(launcher, tmp_path, **WAITS)
        progress(launcher)
        wait_until(lambda: [launcher.next_event(0.0), len(slots(fleet)) == 2][1])
        assert {slot.does for slot in slots(fleet)} <= {"idle", "0001-0", "is made ready"}
        fleet.drain(slots(fleet)[0].node[:12])
        clusters.wait_for_slots(launcher, 1)
        launcher.cancel("0001-0")
        assert finished(launcher).result.state == "cancelled"
        clusters.wait_for_slots(launcher, 0)
    finally:
        launcher.close()
    used = fleet.read()
    assert used and not used.slots and 0 < used.busy_seconds < used.seconds, "two slots, and one had a run"
    assert used.in_all().startswith("up to 2 slots at once on 1 node, busy ")


def test_the_doctor_says_what_a_cluster_offers(two_nodes: TwoNodes) -> None:
    whole, *each = examine_cluster(two_nodes.cluster.address)
    assert whole.fine and "Ray 2." in whole.found and " CPU" in whole.found
    good = [
        finding.found for finding in each if finding.fine
    ]  # one killed a moment ago may still be listed, as no good
    assert len(good) == 2 and all("1 CPU" in found and "site=" in found and "torch" in found for found in good)
    assert [finding.fine for finding in examine_cluster("http://nowhere")] == [False]


def test_a_text_that_a_node_does_not_see_is_sent_there_and_checked(
    two_nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    (folder / "train.bin").write_bytes(os.urandom(1000))
    monkeypatch.chdir(tmp_path)  # so that the slots, which are elsewhere, do not find it by this name
    launcher = RayDriver(clusters.cluster_settings(), tmp_path / "workers.log", Path("text"), command=STUB)
    try:
        clusters.wait_for_slots(launcher, 4)
    finally:
        launcher.close()
    text = Text.of(Path("text"))
    assert text is not None
    chunks = text.send()
    monkeypatch.chdir("/")
    sent = text.here()
    assert sent is not None and sent != text.path and fingerprint(Path(sent)) == text.sha256
    (Path(sent) / "train.bin").write_bytes(b"other")
    with pytest.raises(UserError, match="did not arrive"):
        text.receive({"manifest.json": chunks["manifest.json"]})
    assert text.receive(chunks) == sent and text.here() == sent


def test_a_node_carries_as_many_slots_as_its_scarcest_resource() -> None:
    node = Node("id", "host", "::1", {"CPU": 8.0, "GPU": 2.0, "memory": 64e9}, {"site": "lab"})

    def fits(**asked: Any) -> int:
        return node.fits(clusters.cluster_settings(**asked).workers)

    assert (fits(cpus=1.0), fits(cpus=1.0, gpus=0.5), fits(cpus=0.1, gpus=0.1)) == (8, 4, 20)
    assert (fits(memory_bytes=20 * 10**9), fits(labels=["site=lab"]), fits(labels=["site=home"])) == (3, 16, 0)


@pytest.mark.parametrize(
    ("device", "asked", "said"),
    [
        ("cuda", {}, "workers.gpus is 0"),
        ("cuda:1", {"gpus": 1.0}, "Ray chooses the GPU"),
        ("cpu", {"gpus": 1.0}, "leave one of them out"),
    ],
)
def test_a_device_that_ray_cannot_give_is_refused(device: str, asked: dict[str, Any], said: str) -> None:
    settings = clusters.cluster_settings(**asked).model_copy(update={"device": device})
    with pytest.raises(UserError, match=said):
        device_there(settings)
