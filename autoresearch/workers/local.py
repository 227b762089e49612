"""Runs trainings in warm worker processes on this machine."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from autoresearch.config import EnergySettings
from autoresearch.workers.energy import EnergyMeter
from autoresearch.workers.launcher import Event
from autoresearch.workers.process import WORKER, Heard, WorkerProcess
from trainer.protocol import RunRequest

# How late a run that takes too long may be noticed.
LOOK_SECONDS = 0.25


class LocalLauncher:
    """One worker per device on this machine, started at once, kept warm, replaced when it dies.

    processes: of which a worker consists, on as many devices from its own on. uuids: of the machine's GPUs, by which
    their energy is metered. environment, folder: of workers that are no trainer of ours; see WorkerProcess.
    Another thread may submit and cancel while one waits for events.
    """

    def __init__(
        self,
        devices: Sequence[str],
        energy: EnergySettings,
        log: Path,
        command: Sequence[str] = WORKER,
        processes: int = 1,
        uuids: Sequence[str] = (),
        environment: Callable[[str], Mapping[str, str]] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.capacity = len(devices)
        self._heard: queue.Queue[Heard] = queue.Queue()
        self._lock = threading.Lock()
        self.meter = EnergyMeter(energy, uuids)  # one for all: workers may share a GPU
        self._workers = [
            WorkerProcess(device, self.meter, log, self._heard, command, processes, environment, folder)
            for device in devices
        ]

    def submit(self, request: RunRequest, timeout_seconds: float) -> None:
        """Hands the run to a free worker; asserts that there is one."""
        with self._lock:
            worker = next(worker for worker in self._workers if worker.request is None)
            worker.start_run(request, timeout_seconds)

    def cancel(self, run_id: str) -> None:
        with self._lock:
            for worker in self._workers:
                if worker.request is not None and worker.request.run_id == run_id:
                    worker.cancel()

    def next_event(self, timeout_seconds: float) -> Event | None:
        """The next event, or None after `timeout_seconds` without one."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            with self._lock:
                for worker in self._workers:
                    if late := worker.overdue():
                        return late
            try:
                timeout = max(0.0, min(LOOK_SECONDS, deadline - time.monotonic()))
                worker, process, message = self._heard.get(timeout=timeout)
            except queue.Empty:
                if time.monotonic() >= deadline:
                    return None
                continue
            with self._lock:
                if event := worker.translate(process, message):
                    return event

    def close(self) -> None:
        """Ends all workers at once; what they were at is lost and can be run again."""
        for worker in self._workers:
            worker.kill()
