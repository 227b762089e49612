"""Runs trainings on a Ray cluster: a warm actor per slot, as many slots as the nodes carry, also none for a while."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import RLock
from typing import Any

from autoresearch.config import Settings
from autoresearch.workers.admission import Admitted, Answer, Ask, Refused, Repeat, Repeated
from autoresearch.workers.energy import Energy
from autoresearch.workers.fleet import Fleet
from autoresearch.workers.launcher import Event, Finished, Note, Progress
from autoresearch.workers.ray_cluster import device_there, join, lost, nodes, options, unwanted, what
from autoresearch.workers.ray_data import Text
from autoresearch.workers.ray_known_slot import KnownSlot
from autoresearch.workers.ray_slot import Done, Offer, Slot, Terms
from rails import clean
from trainer.protocol import RunRequest, RunResult

# How often the list of nodes is read anew, and what a person asked to drain.
LOOK_SECONDS = 2.0
# A slot answers at least so often, and is given up when it has not for the second of them: its node hangs, and is left
# alone for the third, in which Ray will have noticed too. A slot that is made ready or sent the text has longer.
ANSWER_SECONDS, SILENCE_SECONDS, SHUN_SECONDS = 10.0, 60.0, 120.0
READY_SECONDS = 900.0
# After a slot that could not be made, until the next is tried.
REST_SECONDS = 15.0
CLOSE_SECONDS = 5.0
# Without a slot, until a person is told that the night waits.
PATIENCE_SECONDS = 5.0


class RayDriver:
    """See Launcher. Ray chooses the node of each slot; one that is lost takes its run along, and another is made.

    asks: whether a slot waits until its class of device is admitted; then there are also events that ask for that, and
    `answer` is to be called. fleet: where what each slot does is written down, and which nodes to drain is read.
    Another thread may submit, cancel and answer while one waits for events.
    """

    def __init__(
        self,
        settings: Settings,
        log: Path,
        text: Path | None = None,
        asks: bool = False,
        fleet: Fleet | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        self._settings, self._asked, self._log = settings, settings.workers, log
        self._ray = join(self._asked)
        self._text = Text.of(text) if text is not None else None
        self._chunks: Mapping[str, list[Any]] | None = None
        processes = settings.tensor_parallel * settings.data_parallel
        self._terms = Terms(device_there(settings), settings.backend, processes, settings.energy, command, self._text)
        self._asks, self._fleet = asks, fleet
        self._admitted: set[str] = set()  # classes of device
        self._make = self._ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=2)(Slot)
        self._slots: list[KnownSlot] = []
        self._events: deque[Event | Ask | Repeated] = deque()
        self._waiting: deque[tuple[RunRequest, float]] = deque()  # handed out just as the slot for it was lost
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()  # what slots have answered
        self._lock = RLock()
        self._turned_away: set[str] = set()  # ids of nodes
        self._shunned: dict[str, float] = {}  # id of a node that hangs -> until when
        self._drained: frozenset[str] = frozenset()
        self._hosts: dict[str, str] = {}  # node id -> host, of the living
        self._made, self._rest_until, self._looked = 0, 0.0, float("-inf")
        self._said: str | None = None
        self._empty_since = float("inf")
        self._look()

    @property
    def capacity(self) -> int:
        """Runs that slots have or can take now."""
        busy = sum(slot.run is not None and not slot.repeats for slot in self._slots)
        return busy + max(sum(map(self._is_free, self._slots)), len(self._waiting))

    def submit(self, request: RunRequest, timeout_seconds: float) -> None:
        """Hands the run to a free slot; where there is none any more, to the next that is."""
        with self._lock:
            self._waiting.append((request, timeout_seconds))
            self._hand_on()

    def cancel(self, run_id: str) -> None:
        with self._lock:
            self._cancel(run_id)

    def answer(self, device: str, answer: Answer) -> None:
        """What becomes of the slots that wait with such a device."""
        with self._lock:
            waiting = [slot for slot in self._slots if self._waits(slot) and slot.device == device]
            match answer:
                case Admitted():
                    self._admitted.add(device)
                    self._hand_on()
                case Refused(why):
                    for slot in waiting:
                        self._turn_away(slot, why)
                case Repeat(run, timeout_seconds) if waiting:
                    self._begin(waiting[0], run, timeout_seconds, repeats=True)
                case Repeat(run):
                    result = RunResult(run.run_id, run.seed, "cancelled", message="its slot was lost")
                    self._events.append(Repeated(device, run.run_id, result, Energy(0.0, "estimate")))

    def next_event(self, timeout_seconds: float) -> Event | Ask | Repeated | None:
        """The next event, or None after `timeout_seconds` without one."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            with self._lock:
                self._look()
                if self._events:
                    return self._events.popleft()
            try:
                heard = self._inbox.get(timeout=max(0.0, min(LOOK_SECONDS, deadline - time.monotonic())))
            except Empty:
                if time.monotonic() >= deadline:
                    return None
                continue
            with self._lock:
                heard()

    def close(self) -> None:
        """Ends all workers at once; what they were at is lost and can be run again."""
        self._write_down()
        slots, self._slots = self._slots, []
        if not self._ray.is_initialized():
            return
        leaving = [slot.actor.close.remote() for slot in slots if slot.offer is not None]
        if leaving:
            self._ray.wait(leaving, num_returns=len(leaving), timeout=CLOSE_SECONDS)
        for slot in slots:
            self._kill(slot)

    # --- runs to slots ---

    def _hand_on(self) -> None:
        for slot in self._slots:
            if self._waiting and self._is_free(slot):
                self._begin(slot, *self._waiting.popleft())

    def _begin(self, slot: KnownSlot, run: RunRequest, timeout_seconds: float, repeats: bool = False) -> None:
        slot.run, slot.repeats, slot.begun = run, repeats, time.monotonic()
        slot.cancelled, slot.is_told = False, False
        self._hear(slot, slot.actor.begin.remote(run, timeout_seconds), partial(self._begun, run))

    def _begun(self, run: RunRequest, slot: KnownSlot, told: None) -> None:
        if slot.run is run:
            slot.is_told = True
            if slot.cancelled:
                slot.actor.cancel.remote(run.run_id)

    def _cancel(self, run_id: str) -> None:
        for request, _ in self._waiting:
            if request.run_id == run_id:
                self._waiting = deque(waiting for waiting in self._waiting if waiting[0] is not request)
                result = RunResult(run_id, request.seed, "cancelled", message="cancelled before it began")
                self._events.append(Finished(run_id, result, Energy(0.0, "estimate")))
                return
        for slot in self._slots:
            if slot.run is not None and slot.run.run_id == run_id:
                slot.cancelled = True
                if slot.is_told:  # else it might overtake the run that it is meant for
                    slot.actor.cancel.remote(run_id)

    # --- what slots say ---

    def _hear(self, slot: KnownSlot, answer: Any, then: Callable[[KnownSlot, Any], None]) -> None:
        """Has `then` told what the slot answers, once it does."""
        answer.future().add_done_callback(lambda future: self._inbox.put(partial(self._take, slot, future, then)))

    def _take(self, slot: KnownSlot, future: Future[Any], then: Callable[[KnownSlot, Any], None]) -> None:
        if slot not in self._slots:  # it was lost meanwhile
            return
        try:
            told = future.result()
        except self._ray.exceptions.RayError as error:
            self._break(slot, error)
            return
        slot.heard = time.monotonic()
        then(slot, told)
        self._hand_on()

    def _listen(self, slot: KnownSlot) -> None:
        self._hear(slot, slot.actor.events.remote(ANSWER_SECONDS), self._event)

    def _event(self, slot: KnownSlot, told: Progress | Done | None) -> None:
        match told:
            case Progress() if slot.run is not None:
                self._events.append(told)
            case Done() if slot.run is not None:
                self._finish(slot, slot.run, told)
        if slot in self._slots:
            self._listen(slot)

    def _placed(self, slot: KnownSlot, where: tuple[str, str]) -> None:
        slot.node, slot.host = where
        slot.born = time.monotonic()
        self._hosts.setdefault(slot.node, slot.host)
        self._hear(slot, slot.actor.offer.remote(), self._welcome)

    def _welcome(self, slot: KnownSlot, offer: Offer) -> None:
        slot.offer = offer
        if slot.node in self._drained | self._turned_away:
            self._drop(slot)
        elif not offer.has_text:
            assert self._text is not None
            self._chunks = self._chunks or self._text.send()
            self._hear(slot, slot.actor.receive.remote(self._chunks), self._welcome)
        else:
            slot.ready, slot.heard = True, time.monotonic()
            self._listen(slot)
            self._ask(slot)

    def _finish(self, slot: KnownSlot, run: RunRequest, done: Done) -> None:
        assert slot.offer is not None
        if done.disk_full:
            self._turn_away(slot, "its disk is full")
            return
        folder, result = Path(run.result_path).parent, done.end.result
        versions = {**result.versions, "device": slot.offer.device, "host": slot.host}
        result = replace(result, versions=versions)
        if slot.repeats:
            self._events.append(Repeated(slot.offer.device, run.run_id, result, done.end.energy))
        else:
            with suppress(OSError), (folder / "worker.log").open("ab") as log:
                log.write(done.log)
            if done.whole:
                with suppress(OSError):  # else only the next runner, if this one is killed, misses it
                    result.write(run.result_path)
            elif slot.cancelled:
                result = unwanted(result)
            self._events.append(Finished(run.run_id, result, done.end.energy))
        slot.run, slot.runs = None, slot.runs + 1
        slot.busy_seconds += time.monotonic() - slot.begun
        if slot.node in self._drained | self._turned_away:
            self._drop(slot)
        else:
            self._ask(slot)

    # --- slots come and go ---

    def _is_free(self, slot: KnownSlot) -> bool:
        return (
            slot.ready
            and slot.run is None
            and slot.node not in self._drained | self._turned_away
            and (not self._asks or slot.device in self._admitted)
        )

    def _waits(self, slot: KnownSlot) -> bool:
        """Whether it could have a run if only its class of device were admitted."""
        return self._asks and slot.ready and slot.run is None and slot.device not in self._admitted

    def _ask(self, slot: KnownSlot) -> None:
        if self._waits(slot):
            self._events.append(Ask(slot.device))

    def _look(self) -> None:
        """Every few seconds: which nodes there are, which slots are silent, and as many slots as the nodes carry."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        found = nodes(self._ray)
        self._hosts = {node.id: node.host for node in found}
        if self._fleet is not None:
            self._drain(self._fleet.drained())
        if self._inbox.empty():  # else it was the runner who did not listen
            self._give_up_silent(now)
        closed = self._drained | self._turned_away | {node for node, until in self._shunned.items() if now < until}
        wanted = self._asked.most or sum(node.fits(self._asked) for node in found if node.id not in closed)
        for slot in [slot for slot in self._slots if not slot.node][: max(0, len(self._slots) - wanted)]:
            self._drop(slot)
        while len(self._slots) < wanted and now >= self._rest_until:
            actor = self._make.options(**options(self._asked, closed & self._hosts.keys())).remote(self._terms)
            self._made += 1
            self._slots.append(KnownSlot(self._made, actor))
            self._hear(self._slots[-1], actor.where.remote(), self._placed)
        for slot in self._slots:
            self._ask(slot)
        self._tell_of_waiting()
        self._write_down()

    def _give_up_silent(self, now: float) -> None:
        for slot in [slot for slot in self._slots if slot.node]:
            patience = SILENCE_SECONDS if slot.ready else READY_SECONDS
            if now - slot.heard > patience:
                self._shunned[slot.node] = now + SHUN_SECONDS
                self._lose(slot, f"it has said nothing for {patience:g} s")

    def _drain(self, asked: frozenset[str]) -> None:
        for node in asked - self._drained:
            self._events.append(Note(f"node {self._name(node)} is drained: its runs are finished, none is begun there"))
        self._drained = asked
        for slot in [slot for slot in self._slots if slot.node in asked and slot.run is None]:
            self._drop(slot)

    def _break(self, slot: KnownSlot, error: Exception) -> None:
        """An answer was an error: of Ray, whose actor or node is gone, or of the slot, which could not do its part."""
        cause = getattr(error, "cause", None) or error
        text = clean((str(cause).strip() or type(cause).__name__).splitlines()[-1], 200)  # of a traceback what it is
        if slot.node and isinstance(cause, OSError):
            self._turn_away(slot, text)
        elif slot.ready:
            gone = isinstance(error, self._ray.exceptions.RayActorError)
            self._lose(slot, "its process or its node is gone" if gone else text)
        else:
            self._chunks, self._rest_until = None, time.monotonic() + REST_SECONDS
            self._lose(slot, f"it could not be made: {text}")

    def _turn_away(self, slot: KnownSlot, why: str) -> None:
        """Of the slot's node nothing is wanted any more in this night."""
        if slot.node not in self._turned_away:
            self._turned_away.add(slot.node)
            self._events.append(Note(f"node {self._name(slot.node)} is turned away: {why}"))
        self._lose(slot, why, tell=False)

    def _lose(self, slot: KnownSlot, why: str, tell: bool = True) -> None:
        """The slot is no more; its run, if it had one, is lost, and Ray is told to end it, wherever it may still be."""
        where = f" on {slot.host}" if slot.node else ""
        if tell:
            self._events.append(Note(f"slot {slot.number}{where} is lost: {why}"))
        self._drop(slot)
        if slot.run is not None:
            seconds, message = time.monotonic() - slot.begun, f"its slot{where} was lost: {why}"
            end = lost(self._settings, slot.run, seconds, message, slot.cancelled)
            if slot.repeats:
                self._events.append(Repeated(slot.device, end.run_id, end.result, end.energy))
            else:
                self._events.append(end)

    def _drop(self, slot: KnownSlot) -> None:
        self._slots.remove(slot)
        self._kill(slot)

    def _kill(self, slot: KnownSlot) -> None:
        with suppress(Exception):  # it is gone already, or nobody is left to be told
            self._ray.kill(slot.actor)

    # --- what a person is told ---

    def _tell_of_waiting(self) -> None:
        if self.capacity:
            if self._said is not None:
                self._events.append(Note(f"the cluster has room again: {self.capacity} at once"))
            self._said, self._empty_since = None, float("inf")
            return
        self._empty_since = min(self._empty_since, time.monotonic())
        if self._said is None and time.monotonic() - self._empty_since > PATIENCE_SECONDS:
            lack = f"no node of the cluster has room for a run ({what(self._asked)})"
            if any(slot.ready for slot in self._slots):
                lack = "the nodes that are there are of another class of device, which is compared first"
            self._said = f"{lack}: the night waits for one"
            self._events.append(Note(self._said))

    def _name(self, node: str) -> str:
        return f"{self._hosts.get(node, 'unknown')} ({node[:8]})"

    def _write_down(self) -> None:
        if self._fleet is not None:
            self._fleet.write(
                [slot.place(self._does(slot), slot.node in self._drained) for slot in self._slots if slot.node]
            )

    def _does(self, slot: KnownSlot) -> str:
        if slot.run is not None:
            return slot.run.run_id
        return "is made ready" if not slot.ready else "waits to be admitted" if self._waits(slot) else "idle"
