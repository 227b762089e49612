"""What runs on a node of a cluster: an actor that feeds one warm worker, hears it, meters it and cleans up after it."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoresearch.config import EnergySettings
from autoresearch.workers.launcher import Finished, Progress
from autoresearch.workers.local import LocalLauncher
from autoresearch.workers.machine import Machine, look
from autoresearch.workers.ray_data import Text
from trainer.protocol import RunRequest

SCRATCH = "autoresearch-slot-"
# Of a run's log, as many of its last bytes come back.
LOG_BYTES = 2**20
# With less left a failed run is the disk's fault and not the recipe's.
FULL_DISK_BYTES = 2**24
# So is a failure that says one of these: also another of its disks may be full, or what one user may have of it.
FULL_DISK_WORDS = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


@dataclass(frozen=True)
class Terms:
    """What a slot is told when it is made."""

    device: str
    backend: str
    processes: int
    energy: EnergySettings
    command: Sequence[str] | None  # of a worker; None: the trainer's, with the node's own Python
    text: Text | None


@dataclass(frozen=True)
class Offer:
    """What a slot says of itself. device: the class that its runs are compared within."""

    device: str
    has_text: bool


@dataclass(frozen=True)
class Done:
    """A run has ended, with the last of its log. whole: the worker itself told how, in its result. disk_full: the
    node's disk is to blame if it failed."""

    end: Finished
    log: bytes
    whole: bool
    disk_full: bool


def look_there(device: str, backend: str, compile: bool | str) -> Machine:
    """The machine of the node that this runs on."""
    return look(device, backend, compile)  # type: ignore[arg-type]  # as study.toml has it


def versions_there() -> dict[str, str]:
    """What a run would be done with on the node that this runs on; what is not installed is left out."""
    found = {"Python": platform.python_version()}
    for package in ("autoresearch", "torch"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


class Slot:
    """One run at a time, on what Ray has set aside for this actor. It has two threads: one waits in `events`.

    It is made at once and says where it is; only then `offer` does what may fail or hang, so that it is known where."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms

    def where(self) -> tuple[str, str]:
        """Ray's id of the node, and its host."""
        import ray

        return ray.get_runtime_context().get_node_id(), socket.gethostname()

    def offer(self) -> Offer:
        """Makes the slot ready, but for the text. Raises OSError or UserError where that fails."""
        from autoresearch.workers.process import WORKER

        terms = self._terms
        # Ray sets it to the number of cores; a worker's own choice is one thread, and the order of sums hangs on it.
        os.environ["OMP_NUM_THREADS"] = "1"
        self._machine = look(terms.device, terms.backend)
        self._scratch, self._lock = _scratch()
        self._text_folder = None if terms.text is None else terms.text.here()
        self._launcher = LocalLauncher(
            self._machine.worker_devices(terms.device, 1, terms.processes),
            terms.energy,
            self._scratch / "workers.log",
            terms.command or WORKER,
            terms.processes,
            self._machine.uuids,
        )
        return self._offer()

    def receive(self, chunks: Mapping[str, Sequence[Any]]) -> Offer:
        """Takes the text. Raises OSError or UserError where that fails."""
        assert self._terms.text is not None
        self._text_folder = self._terms.text.receive(chunks)
        return self._offer()

    def begin(self, request: RunRequest, timeout_seconds: float) -> None:
        """Hands a run to the worker. Its files are the slot's own: one that is done again elsewhere shares none."""
        folder = self._scratch / request.run_id
        folder.mkdir(exist_ok=True)
        text = self._terms.text
        if text is not None and self._text_folder is not None and request.data_dir == text.path:
            request = replace(request, data_dir=self._text_folder)
        self._launcher.submit(replace(request, result_path=str(folder / "result.json")), timeout_seconds)

    def cancel(self, run_id: str) -> None:
        self._launcher.cancel(run_id)

    def events(self, seconds: float) -> Progress | Done | None:
        """The next event; None after so many seconds without one."""
        match self._launcher.next_event(seconds):
            case Progress() as sign:
                return sign
            case Finished() as end:
                return self._done(end)
        return None

    def _done(self, end: Finished) -> Done:
        folder, idle = self._scratch / end.run_id, self._scratch / "workers.log"
        texts = [log.read_bytes() for log in (idle, folder / "worker.log") if log.exists()]
        is_full = end.result.failure is not None and (
            shutil.disk_usage(self._scratch).free < FULL_DISK_BYTES
            or any(words in end.result.message for words in FULL_DISK_WORDS)
        )
        is_whole = (folder / "result.json").exists()
        shutil.rmtree(folder, ignore_errors=True)
        idle.unlink(missing_ok=True)
        return Done(end, b"".join(texts)[-LOG_BYTES:], is_whole, is_full)

    def _offer(self) -> Offer:
        return Offer(self._machine.name, self._terms.text is None or self._text_folder is not None)

    def close(self) -> None:
        """Ends the worker and leaves nothing behind."""
        self._launcher.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def _scratch() -> tuple[Path, int]:
    """A folder of this process alone, and the lock that says so; those of killed slots are removed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with suppress(OSError):
            held = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(held)
    while True:
        found = Path(tempfile.mkdtemp(prefix=SCRATCH))
        with suppress(OSError):
            lock = os.open(found, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if found.exists():  # else another slot, begun just now, has taken it for a killed one's
                return found, lock
