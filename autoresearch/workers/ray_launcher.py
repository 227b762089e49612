"""Launches runs on a Ray cluster. Ray has a process of its own: it ends one whose cluster is lost, not the night."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from autoresearch.config import Settings
from autoresearch.errors import UserError
from autoresearch.workers.admission import Admission, Ask, Repeat, Repeated
from autoresearch.workers.fleet import Fleet
from autoresearch.workers.launcher import Event, Finished, Note, Progress
from autoresearch.workers.machine import Machine, look
from autoresearch.workers.ray_cluster import device_there, lost, machine_there, what
from autoresearch.workers.ray_driver import RayDriver
from rails import clean
from trainer.protocol import RunRequest

# The process says at least so often how many runs it can have.
TELL_SECONDS = 0.25
# One that says nothing for so long is given up. Ray needs a minute to see that a cluster is lost.
SILENCE_SECONDS = 120.0
# Between two tries to reach a lost cluster.
RETRY_SECONDS = 5.0
CLOSE_SECONDS = 15.0
# Between two words to a person who waits for a node before the night begins.
WORD_SECONDS = 30.0

Told = tuple[Event | Ask | Repeated | None, int]  # an event, and the runs at once


class RayLauncher:
    """See Launcher; the arguments are RayDriver's. When the process is gone, so are its runs, and another is begun
    until one reaches a cluster again. Raises UserError where the first one does not.

    admission: of unlike devices; None: any may do any run."""

    def __init__(
        self,
        settings: Settings,
        log: Path,
        text: Path | None = None,
        admission: Admission | None = None,
        fleet: Fleet | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        self._settings, self._log, self._fleet, self._admission = settings, log, fleet, admission
        self._make = partial(RayDriver, settings, log, text, admission is not None, fleet, command)
        self._in_flight: dict[str, tuple[RunRequest, float]] = {}  # with the time at which it was begun
        self._cancelled: set[str] = set()
        self._events: deque[Event] = deque()
        self._compared: set[str] = set()  # classes of device
        self._is_lost, self._begin_at = False, 0.0
        self.capacity = 0
        atexit.register(self.close)  # the runner's own end waits for its processes
        self._begin()
        try:
            self._hear(self._pipe.recv())
        except EOFError:
            raise UserError(f"the process that Ray runs in has died: see {log}") from None

    def submit(self, request: RunRequest, timeout_seconds: float) -> None:
        """Hands the run to a free slot; where there is none any more, to the next that is."""
        result = Path(request.result_path)
        result.unlink(missing_ok=True)
        request.write(result.with_name("request.json"))
        self._in_flight[request.run_id] = (request, time.monotonic())
        self._say("submit", request, timeout_seconds)

    def cancel(self, run_id: str) -> None:
        if run_id in self._in_flight:
            self._cancelled.add(run_id)
        self._say("cancel", run_id)

    def next_event(self, timeout_seconds: float) -> Event | None:
        """The next event, or None after `timeout_seconds` without one."""
        deadline = time.monotonic() + timeout_seconds
        while not self._events:
            seconds = max(0.0, min(RETRY_SECONDS, deadline - time.monotonic()))
            if self._process is None:
                time.sleep(min(seconds, max(0.0, self._begin_at - time.monotonic())))
                if time.monotonic() >= self._begin_at:
                    self._begin()
            else:
                self._listen(seconds)
            if time.monotonic() >= deadline and not self._events:
                return None
        return self._events.popleft()

    def close(self) -> None:
        """Ends all workers at once; what they were at is lost and can be run again."""
        atexit.unregister(self.close)
        if (process := self._process) is None:
            return
        self._say("close")
        deadline = time.monotonic() + CLOSE_SECONDS
        with suppress(EOFError, OSError):
            while self._pipe.poll(max(0.0, deadline - time.monotonic())):  # else it waits for us to listen
                self._pipe.recv()
        process.join(max(0.0, deadline - time.monotonic()))
        self._end(process)

    # --- the process ---

    def _begin(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: BaseProcess | None = context.Process(target=_drive, args=(theirs, self._make, self._log))
        self._process.start()
        theirs.close()
        self._heard = time.monotonic()

    def _end(self, process: BaseProcess) -> None:
        self._process, self.capacity = None, 0
        process.kill()
        process.join()
        self._pipe.close()

    def _listen(self, seconds: float) -> None:
        try:
            if self._pipe.poll(seconds):
                self._hear(self._pipe.recv())
            elif time.monotonic() - self._heard > SILENCE_SECONDS:
                self._lose(f"nothing was heard for {SILENCE_SECONDS:g} s")
        except UserError as error:
            self._lose(str(error))
        except (EOFError, OSError):
            self._lose("Ray has ended the process that it ran in")

    def _hear(self, told: Told | UserError) -> None:
        if isinstance(told, UserError):
            raise told
        self._heard = time.monotonic()
        event, self.capacity = told
        if self._is_lost:
            self._is_lost = False
            self._events.append(Note("the cluster is there again"))
        if isinstance(event, Finished | Progress) and event.run_id not in self._in_flight:
            return
        if isinstance(event, Finished):
            del self._in_flight[event.run_id]
            self._cancelled.discard(event.run_id)
        match event:
            case Ask(device) if self._admission is not None:
                answer = self._admission.answer(device)
                self._say("answer", device, answer)
                if isinstance(answer, Repeat) and device not in self._compared:
                    self._compared.add(device)
                    text = "is another class of device than this study's: it repeats some of its runs, to be compared"
                    self._events.append(Note(f"{clean(device, 80)} {text}"))
            case Repeated() if self._admission is not None:
                note = self._admission.repeated(event)
                self._events.extend([Note(note)] if note else [])
            case Progress() | Finished() | Note():
                self._events.append(event)

    def _lose(self, why: str) -> None:
        """The cluster is out of reach, and the runs that were there are lost."""
        assert self._process is not None
        self._end(self._process)
        self._begin_at = time.monotonic() + RETRY_SECONDS
        if not self._is_lost:
            self._is_lost = True
            self._events.append(Note(f"the cluster is lost ({why}; see {self._log.name}): the night waits for it"))
        if self._fleet is not None:
            self._fleet.write([])
        for run, begun in self._in_flight.values():
            cancelled, seconds = run.run_id in self._cancelled, time.monotonic() - begun
            self._events.append(lost(self._settings, run, seconds, "the cluster was lost", cancelled))
        self._in_flight.clear()
        self._cancelled.clear()
        if self._admission is not None:
            self._admission.forget()

    def _say(self, *words: Any) -> None:
        with suppress(OSError):  # it is gone: `next_event` will say so
            if self._process is not None:
                self._pipe.send(words)


def machine_of_cluster(settings: Settings, note: Callable[[str], None]) -> Machine:
    """The machine of the first node that has what a run asks for; waits until there is one, and says so.

    Raises UserError where there is no cluster, or the node cannot do what study.toml asks."""
    if settings.workers.address == "local":  # that cluster is this machine
        return look(device_there(settings), settings.backend, settings.compile)
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_ignore_signals) as outside:
        try:
            while (machine := outside.submit(machine_there, settings, WORD_SECONDS).result()) is None:
                note(
                    f"no node of the cluster is free for a run ({what(settings.workers)}) yet: the night waits for one"
                )
        except BrokenProcessPool:
            raise UserError(f"the cluster at {settings.workers.address!r} was lost: start it again") from None
    return machine


def _drive(pipe: Connection, make: Callable[[], RayDriver], log: Path) -> None:
    """What the process does. It ends when it is asked to, or with the runner."""
    _ignore_signals()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        driver = make()
    except UserError as error:
        pipe.send(error)
        return
    _ignore_signals()  # Ray has taken them for itself
    is_over = threading.Event()
    threading.Thread(target=_obey, args=(pipe, driver, is_over), daemon=True).start()
    with suppress(OSError):
        while not is_over.is_set():
            pipe.send((driver.next_event(TELL_SECONDS), driver.capacity))
    driver.close()


def _obey(pipe: Connection, driver: RayDriver, is_over: threading.Event) -> None:
    with suppress(EOFError, OSError):
        while (words := pipe.recv())[0] != "close":
            getattr(driver, words[0])(*words[1:])
    is_over.set()


def _ignore_signals() -> None:
    """A whole group of processes hears them; the runner knows what to do."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
