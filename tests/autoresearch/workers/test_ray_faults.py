"""Faults of a cluster in the middle of a night: nodes that hang, are full or slow, or are lost at a bad moment."""

from __future__ import annotations

import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from launching import DIVERGES, HANGS, WAITS, finished, pid, progress, request, submit
from studies import (
    GOOD,
    STUB,
    assert_git_and_database_agree,
    change,
    is_running,
    make_study,
    query,
    run_study,
    wait_until,
)

from autoresearch.config import EnergySettings, LimitSettings
from autoresearch.night.limits import StopRule
from autoresearch.study.folder import StudyFolder
from autoresearch.workers.fleet import Fleet
from autoresearch.workers.launcher import Note
from trainer.protocol import cancel_line

pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")

import clusters
from clusters import ANSWERS, SHORT, facts

from autoresearch.workers import ray_driver, ray_slot
from autoresearch.workers.ray_driver import RayDriver
from autoresearch.workers.ray_slot import Done, Offer, Slot, Terms

if TYPE_CHECKING:
    from clusters import TwoNodes

FATAL = 4  # the run of a night in which something happens, from 1
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def spare(two_nodes: TwoNodes) -> Iterator[list[Any]]:
    """Nodes of the site "pair", killed after the last test; who kills one before takes it out."""
    nodes: list[Any] = []
    yield nodes
    for node in nodes:
        two_nodes.kill(node)


@pytest.fixture
def pair(two_nodes: TwoNodes, spare: list[Any]) -> list[Any]:
    """Two nodes of that site."""
    while len(spare) < 2:
        spare.append(two_nodes.add("pair"))
    return spare


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent slot is given up within seconds."""
    for name, seconds in {"ANSWER": 0.3, "SILENCE": 3.0, "READY": 3.0, "LOOK": 0.3, "REST": 0.3}.items():
        monkeypatch.setattr(ray_driver, f"{name}_SECONDS", seconds)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Launchers on the pair, with as many slots as asked for there; closed after the test."""
    launchers: list[Any] = []

    def start(slots: int = 1, wait: bool = True, text: Path | None = None) -> Any:
        settings = clusters.cluster_settings(labels=["site=pair"], most=slots)
        launchers.append(RayDriver(settings, tmp_path / "workers.log", text, fleet=Fleet(tmp_path), command=STUB))
        if wait:
            clusters.wait_for_slots(launchers[-1], slots)
        return launchers[-1]

    yield start
    for launcher in launchers:
        launcher.close()


def of_nodes(nodes: Sequence[Any]) -> list[psutil.Process]:
    """The nodes' own processes and all below them."""
    raylets = [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in nodes]
    return [process for raylet in raylets for process in [raylet, *raylet.children(recursive=True)]]


@contextmanager
def hanging() -> Iterator[list[psutil.Process]]:
    """Those that are suspended meanwhile are to be put into the list."""
    processes: list[psutil.Process] = []
    yield processes
    wake(processes)


def hang(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()


def wake(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def actor_of(worker: int) -> psutil.Process:
    """The process of the slot that feeds it."""
    (found,) = [parent for parent in psutil.Process(worker).parents() if parent.name().startswith("ray::Slot")]
    return found


def nothing() -> None:
    pass


def night(
    launcher: Any,
    folder: StudyFolder,
    answers: list[str],
    before: Callable[[], None] = nothing,
    after: Callable[[], None] = nothing,
    stop: StopRule | None = None,
) -> list[str]:
    """A night in which something is done just before or after the fatal run is handed out; what a person was told."""
    usual, count = launcher.submit, 0

    def submit(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == FATAL:
            before()
        usual(*arguments)
        if count == FATAL:
            after()

    launcher.submit = submit
    clusters.night_on(launcher, folder, answers, stop)
    return [message for (message,) in query(folder, "SELECT message FROM events WHERE kind = 'workers' ORDER BY id")]


def told(launcher: Any, word: str) -> str:
    """The next note to a person that has the word."""
    while not (isinstance(event := launcher.next_event(60.0), Note) and word in event.text):
        assert event is not None, "the cluster is silent"
    return event.text


# --- a node whose disk is full ---


def test_on_a_node_whose_disk_is_full_no_recipe_is_blamed(
    two_nodes: TwoNodes, spare: list[Any], start: Start, tmp_path: Path, undisturbed: list[object]
) -> None:
    while spare:
        two_nodes.kill(spare.pop())
    full = two_nodes.add("pair", STUB_DISK_IS_FULL="1")
    launcher, folder = start(), make_study(tmp_path, **SHORT)
    spare.append(two_nodes.add("pair"))
    texts = night(launcher, folder, ANSWERS)
    two_nodes.kill(full)
    assert [text.rpartition(": ")[2] for text in texts if "is turned away" in text] == ["its disk is full"]
    assert facts(folder) == undisturbed
    assert query(folder, "SELECT attempts FROM runs WHERE attempts > 1") == [(2,)]


def test_a_slot_tells_a_full_disk_from_a_bad_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    slot = Slot(Terms("cpu", "torch", 1, EnergySettings(), STUB, None))

    def done(run_id: str) -> Done:
        slot.begin(request(tmp_path, run_id, **DIVERGES), 60.0)
        while not isinstance(event := slot.events(60.0), Done):
            assert event is not None
        return event

    slot.offer()
    try:
        assert not done("0001-0").disk_full
        monkeypatch.setattr(ray_slot, "FULL_DISK_BYTES", 2**62)
        assert done("0001-1").disk_full
    finally:
        slot.close()


def test_a_node_with_no_room_for_the_text_or_for_a_slot_is_turned_away(
    pair: list[Any], start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SmallDisk(Slot):
        def receive(self, chunks: Mapping[str, Sequence[Any]]) -> Offer:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, -1))
            return super().receive(chunks)

    class NoDisk(Slot):
        def offer(self) -> Offer:
            Path("/dev/full").write_text("scratch")
            return super().offer()

    for disk, said in ((SmallDisk, "File too large"), (NoDisk, "No space left on device")):
        monkeypatch.setattr(ray_driver, "Slot", disk)
        launcher = start(wait=False, text=text(tmp_path, monkeypatch))
        assert said in told(launcher, "is turned away")
        assert launcher.capacity == 0
        launcher.close()


def text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prepared text that the slots, which are elsewhere, do not find by its name there."""
    (folder / "text").mkdir(exist_ok=True)
    (folder / "text" / "manifest.json").write_text("{}")
    (folder / "text" / "train.bin").write_bytes(os.urandom(2 * 2**20))
    monkeypatch.chdir(folder)
    return Path("text")


# --- a node that hangs ---


def test_a_node_that_hangs_is_given_up_and_what_it_says_later_changes_nothing(
    pair: list[Any], start: Start, tmp_path: Path, undisturbed: list[object]
) -> None:
    launcher, folder = start(), make_study(tmp_path, **SHORT)
    worker = pid(submit(launcher, tmp_path, "warm-0"))
    assert finished(launcher).result.state == "complete"
    (its_node,) = [node for node in pair if worker in {process.pid for process in of_nodes([node])}]
    usual = launcher.next_event

    def next_event(seconds: float) -> Any:
        event = usual(seconds)
        if isinstance(event, Note) and "it has said nothing for 3 s" in event.text:
            wake(hung)  # while its run is done again
        return event

    with hanging() as hung:
        hung += of_nodes([its_node])
        launcher.next_event = next_event
        texts = night(launcher, folder, ANSWERS, after=lambda: hang(hung))
    assert any("it has said nothing for 3 s" in text for text in texts)
    assert facts(folder) == undisturbed
    assert query(folder, "SELECT attempts FROM runs WHERE attempts > 1") == [(2,)]
    assert_git_and_database_agree(folder)


def test_a_night_whose_nodes_all_hang_can_be_ended_and_gone_on_with(
    pair: list[Any], start: Start, tmp_path: Path, undisturbed: list[object]
) -> None:
    launcher, folder = start(), make_study(tmp_path, **SHORT)
    stop = StopRule(folder, LimitSettings(min_free_disk_bytes=0))
    with hanging() as hung:
        hung += of_nodes(pair)

        def fault() -> None:
            hang(hung)
            stop.request("stopped by a person", by_a_person=True)

        night(launcher, folder, ANSWERS, after=fault, stop=stop)
        assert query(folder, "SELECT state FROM runs WHERE attempts > 0 AND state != 'complete'") == [("queued",)]
        assert_git_and_database_agree(folder)
    run_study(folder, ANSWERS, workers=1)
    assert facts(folder) == undisturbed


@pytest.mark.parametrize("where", ["offer", "receive"])
def test_a_slot_that_hangs_before_it_is_ready_is_given_up(
    pair: list[Any], start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Hanging(Slot):
        pass

    setattr(Hanging, where, lambda self, chunks=None: time.sleep(600.0))
    monkeypatch.setattr(ray_driver, "Slot", Hanging)
    launcher = start(wait=False, text=text(tmp_path, monkeypatch))
    assert "it has said nothing for 3 s" in told(launcher, "is lost")
    assert launcher.capacity == 0


# --- runs and slots that are lost at a bad moment ---


def test_all_nodes_may_go_before_one_answers_that_it_has_the_run(
    two_nodes: TwoNodes, pair: list[Any], start: Start, tmp_path: Path, undisturbed: list[object]
) -> None:
    def kill() -> None:
        while pair:
            two_nodes.kill(pair.pop())
        pair.append(two_nodes.add("pair"))

    launcher, folder = start(), make_study(tmp_path, **SHORT)
    night(launcher, folder, ANSWERS, before=lambda: hang(of_nodes(pair)), after=kill)
    assert facts(folder) == undisturbed
    assert query(folder, "SELECT attempts FROM runs WHERE attempts > 1") == [(2,)]
    assert_git_and_database_agree(folder)


def test_a_run_that_has_ended_but_was_not_told_of_is_lost(pair: list[Any], start: Start, tmp_path: Path) -> None:
    launcher = start()
    worker = pid(submit(launcher, tmp_path, **WAITS))
    progress(launcher)
    actor = actor_of(worker)
    actor.suspend()
    Path(f"/proc/{worker}/fd/0").write_text(f"{cancel_line('0001-0')}\n")  # as the slot would, but it knows nothing
    wait_until(lambda: list(Path(tempfile.gettempdir()).glob("autoresearch-slot-*/0001-0/result.json")))
    actor.kill()
    assert finished(launcher).result.failure == "worker_died"
    assert not (tmp_path / "0001-0" / "result.json").exists()


def test_a_run_whose_slot_goes_while_it_is_cancelled_is_no_failed_one(
    pair: list[Any], start: Start, tmp_path: Path
) -> None:
    launcher = start()
    actor = actor_of(pid(submit(launcher, tmp_path, **WAITS)))
    progress(launcher)
    actor.suspend()
    launcher.cancel("0001-0")
    actor.kill()
    assert finished(launcher).result.state == "cancelled"


def test_a_run_that_is_lost_twice_has_failed_and_is_not_tried_again(
    pair: list[Any], start: Start, tmp_path: Path
) -> None:
    launcher, folder = start(), make_study(tmp_path, **SHORT)
    usual, killed = launcher.submit, set[int]()

    def submit(asked: Any, seconds: float) -> None:
        usual(asked, seconds)
        if asked.recipe["grad_clip"] == HANGS["grad_clip"]:
            threading.Thread(target=kill, args=[Path(asked.result_path).parent]).start()

    def kill(run: Path) -> None:
        wait_until(lambda: pid(run) not in killed and is_running(pid(run)))  # not one of another test
        killed.add(pid(run))
        actor_of(pid(run)).kill()

    launcher.submit = submit
    clusters.night_on(launcher, folder, [change("grad_clip", HANGS["grad_clip"]), change("lr", GOOD)])
    assert query(folder, "SELECT state, failure, attempts FROM runs WHERE trial = 1") == [("failed", "worker_died", 2)]
    assert query(folder, "SELECT state FROM trials ORDER BY number") == [("complete",), ("failed",), ("complete",)]
    assert len(killed) == 2
    assert_git_and_database_agree(folder)


# --- a slow node ---


def test_a_slow_slot_changes_no_score_and_no_decision(
    pair: list[Any], start: Start, tmp_path: Path, undisturbed: list[object]
) -> None:
    launcher, folder = start(slots=2), make_study(tmp_path, **SHORT)
    workers = [pid(submit(launcher, tmp_path, f"warm-{number}")) for number in range(2)]
    assert len({*workers}) == 2 and {finished(launcher).result.state for _ in workers} == {"complete"}
    slow, is_over = [psutil.Process(workers[0])], threading.Event()

    def hinder() -> None:
        while not is_over.is_set():
            hang(slow)
            is_over.wait(0.05)
            wake(slow)
            is_over.wait(0.001)

    thread = threading.Thread(target=hinder)
    thread.start()
    try:
        night(launcher, folder, ANSWERS)
    finally:
        is_over.set()
        thread.join()
    trials: Any = undisturbed[0]  # of runs at once some begin before the incumbent is found: other recipes, so scores
    decided = [(number, state, decision, changes) for number, state, decision, changes, *_ in trials]
    assert query(folder, "SELECT number, state, decision, changes FROM trials ORDER BY number") == decided
    assert query(folder, "SELECT DISTINCT state, attempts FROM runs") == [("complete", 1)]
    used = Fleet(tmp_path).read()
    assert used is not None and all(slot.runs > 1 for slot in used.slots), "the slow one did its part"
