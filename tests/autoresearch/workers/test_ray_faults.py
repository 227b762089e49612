"""Faults of a cluster in the middle of a night: a node that hangs, one whose disk is full, several lost at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from launching import HANGS, WAITS, finished, pid, progress, submit
from studies import (
    GOOD,
    STUB,
    assert_git_and_database_agree,
    change,
    is_running,
    make_study,
    query,
    wait_until,
)

from autoresearch.study.folder import StudyFolder
from autoresearch.workers.fleet import Fleet
from autoresearch.workers.launcher import Note

pytest.importorskip("ray", reason="Ray is not installed: pip install 'autoresearch[ray]'")

import clusters
from clusters import ANSWERS, SHORT, facts

from autoresearch.workers import ray_driver
from autoresearch.workers.ray_driver import RayDriver

if TYPE_CHECKING:
    from clusters import TwoNodes

FULL_DISK = "from autoresearch.workers import ray_slot\nray_slot.FULL_DISK_BYTES = 2**62"
SMALL_DISK = """
import resource
from autoresearch.workers import ray_data
usual = ray_data.Text.receive
def receive(*arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, -1))
    return usual(*arguments)
ray_data.Text.receive = receive
"""
FATAL = 4  # the run of a night in which something happens, from 1


@pytest.fixture
def pair(two_nodes: TwoNodes) -> Iterator[list[Any]]:
    """Two more nodes, of the site "pair"; killed after the test, unless they are gone."""
    nodes = [two_nodes.add("pair"), two_nodes.add("pair")]
    yield nodes
    for node in nodes:
        two_nodes.kill(node)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent slot is given up within seconds."""
    monkeypatch.setattr(ray_driver, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(ray_driver, "SILENCE_SECONDS", 3.0)
    monkeypatch.setattr(ray_driver, "LOOK_SECONDS", 0.3)
    monkeypatch.setattr(ray_driver, "REST_SECONDS", 0.3)


def on_pair(tmp_path: Path, most: int | None = 1) -> Any:
    settings = clusters.cluster_settings(labels=["site=pair"], most=most)
    return RayDriver(settings, tmp_path / "workers.log", fleet=Fleet(tmp_path), command=STUB)


def of_node(process: int) -> list[psutil.Process]:
    """The node's own process and all below it, of which the given one is."""
    (raylet,) = [parent for parent in psutil.Process(process).parents() if parent.name() == "raylet"]
    return [raylet, *raylet.children(recursive=True)]


def night(launcher: Any, folder: StudyFolder, answers: list[str], fault: Any) -> list[str]:
    """A night in which `fault` is done just after the fatal run was handed out; returns what a person was told."""
    usual, count = launcher.submit, 0

    def submit(*arguments: Any) -> None:
        nonlocal count
        usual(*arguments)
        count += 1
        if count == FATAL:
            fault()

    launcher.submit = submit
    clusters.night_on(launcher, folder, answers)
    return [message for (message,) in query(folder, "SELECT message FROM events WHERE kind = 'workers' ORDER BY id")]


def test_a_node_that_hangs_is_given_up_and_what_it_says_later_changes_nothing(
    pair: list[Any], tmp_path: Path, undisturbed: list[object]
) -> None:
    launcher = on_pair(tmp_path)
    clusters.wait_for_slots(launcher, 1)
    first = pid(submit(launcher, tmp_path, "warm-0"))
    assert finished(launcher).result.state == "complete"
    hung = of_node(first)

    def hang() -> None:
        for process in hung:
            process.suspend()

    folder = make_study(tmp_path, **SHORT)
    try:
        told = night(launcher, folder, ANSWERS, hang)
    finally:
        for process in hung:
            process.resume()
    assert any("it has said nothing for 3 s" in text for text in told)
    assert facts(folder) == undisturbed
    assert query(folder, "SELECT attempts FROM runs WHERE attempts > 1") == [(2,)]
    assert_git_and_database_agree(folder)


def test_a_night_whose_only_node_hangs_can_be_ended(two_nodes: TwoNodes, tmp_path: Path) -> None:
    node = two_nodes.add("pair")
    launcher = on_pair(tmp_path)
    clusters.wait_for_slots(launcher, 1)
    hung = of_node(pid(submit(launcher, tmp_path, **WAITS)))
    progress(launcher)
    for process in hung:
        process.suspend()
    try:
        while isinstance(event := launcher.next_event(60.0), Note):
            pass
        assert (event.result.failure, launcher.capacity) == ("worker_died", 0)
        launcher.close()
    finally:
        for process in hung:
            process.resume()
        two_nodes.kill(node)


def test_all_nodes_at_once_may_go_and_others_come(
    two_nodes: TwoNodes, pair: list[Any], tmp_path: Path, undisturbed: list[object]
) -> None:
    def fault() -> None:
        for node in pair:
            two_nodes.kill(node)
        pair[:] = [two_nodes.add("pair")]

    launcher, folder = on_pair(tmp_path), make_study(tmp_path, **SHORT)
    clusters.wait_for_slots(launcher, 1)
    night(launcher, folder, ANSWERS, fault)
    assert facts(folder) == undisturbed
    assert_git_and_database_agree(folder)


def test_a_run_that_is_lost_twice_has_failed_and_is_not_tried_again(pair: list[Any], tmp_path: Path) -> None:
    launcher, folder = on_pair(tmp_path), make_study(tmp_path, **SHORT)
    clusters.wait_for_slots(launcher, 1)
    usual, killed = launcher.submit, set[int]()

    def submit(request: Any, seconds: float) -> None:
        usual(request, seconds)
        if request.recipe["grad_clip"] == HANGS["grad_clip"]:
            threading.Thread(target=kill, args=[Path(request.result_path).parent]).start()

    def kill(run: Path) -> None:
        wait_until(lambda: pid(run) not in killed and is_running(pid(run)))  # not one of another test
        killed.add(pid(run))
        psutil.Process(psutil.Process(pid(run)).ppid()).kill()

    launcher.submit = submit
    clusters.night_on(launcher, folder, [change("grad_clip", HANGS["grad_clip"]), change("lr", GOOD)])
    assert query(folder, "SELECT state, failure, attempts FROM runs WHERE trial = 1") == [("failed", "worker_died", 2)]
    assert query(folder, "SELECT state FROM trials ORDER BY number") == [("complete",), ("failed",), ("complete",)]
    assert_git_and_database_agree(folder)


def test_a_run_that_is_cancelled_while_its_node_goes_is_no_failed_one(
    two_nodes: TwoNodes, pair: list[Any], tmp_path: Path
) -> None:
    launcher = on_pair(tmp_path)
    clusters.wait_for_slots(launcher, 1)
    submit(launcher, tmp_path, **WAITS)
    progress(launcher)
    while pair:
        two_nodes.kill(pair.pop())
    launcher.cancel("0001-0")
    assert finished(launcher).result.state == "cancelled"
    launcher.close()


def test_on_a_node_whose_disk_is_full_no_recipe_is_blamed(
    two_nodes: TwoNodes, tmp_path: Path, undisturbed: list[object]
) -> None:
    launcher, folder = on_pair(tmp_path), make_study(tmp_path, **SHORT)
    with two_nodes.peculiar("pair", tmp_path, FULL_DISK, STUB_DISK_IS_FULL="1"):
        clusters.wait_for_slots(launcher, 1)
        good = two_nodes.add("pair")
        told = night(launcher, folder, ANSWERS, lambda: None)
    two_nodes.kill(good)
    assert [text.rpartition(": ")[2] for text in told if "is turned away" in text] == ["its disk is full"]
    assert facts(folder) == undisturbed


def test_a_node_that_cannot_take_the_text_is_turned_away(
    two_nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text"
    text.mkdir()
    (text / "manifest.json").write_text("{}")
    (text / "train.bin").write_bytes(os.urandom(2 * 2**20))
    settings = clusters.cluster_settings(labels=["site=pair"])
    with two_nodes.peculiar("pair", tmp_path, SMALL_DISK):
        monkeypatch.chdir(tmp_path)  # the slots, which are elsewhere, do not find it by its name there
        launcher = RayDriver(settings, tmp_path / "workers.log", Path("text"), command=STUB)
        while isinstance(event := launcher.next_event(60.0), Note) and "is turned away" not in event.text:
            pass
        assert isinstance(event, Note) and "File too large" in event.text and launcher.capacity == 0
        launcher.close()
