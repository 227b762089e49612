"""Runs trainings in warm worker processes: submit a request, get an event; the seam where a cluster would plug in."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from autoresearch.energy import Energy, EnergyMeter
from trainer.protocol import RunRequest, RunResult

WORKER = (sys.executable, "-m", "trainer.worker")
# Overrides what a person's shell may say: another thread count changes the order of sums, and so the result.
CPU_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Progress:
    """A sign of life from a run."""

    run_id: str
    phase: str
    step: int
    steps: int
    loss: float | None


@dataclass(frozen=True)
class Finished:
    """A run that has ended, one way or another."""

    run_id: str
    result: RunResult
    energy: Energy


Event = Progress | Finished


class Launcher(Protocol):
    """Takes up to `capacity` runs at once. Never raises for a run that fails: that is a result."""

    capacity: int

    def submit(self, request: RunRequest, timeout_seconds: float) -> None: ...

    def next_event(self, timeout_seconds: float) -> Event | None: ...

    def close(self) -> None: ...


class LocalLauncher:
    """One worker process per device on this machine, started at once, kept warm, replaced when it dies."""

    def __init__(self, devices: Sequence[str], meter: EnergyMeter, log: Path, command: Sequence[str] = WORKER) -> None:
        self.capacity = len(devices)
        self._events: queue.Queue[_Message] = queue.Queue()
        self._meter = meter
        self._workers = [_Worker(device, list(command), log, self._events) for device in devices]

    def submit(self, request: RunRequest, timeout_seconds: float) -> None:
        """Hands the run to a free worker; asserts that there is one."""
        worker = next(worker for worker in self._workers if worker.request is None)
        path = Path(request.result_path)
        path.unlink(missing_ok=True)
        request = RunRequest(**{**vars(request), "device": worker.device})
        request.write(path.with_name("request.json"))
        worker.start_run(request, time.monotonic() + timeout_seconds)
        self._meter.start(request.run_id, worker.pid, worker.gpu)

    def next_event(self, timeout_seconds: float) -> Event | None:
        """The next event, or None after `timeout_seconds` without one."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            for worker in self._workers:
                if worker.request is not None and time.monotonic() > worker.deadline:
                    worker.kill()
                    return self._finish(worker, "timed_out", "the run took longer than limits.run_seconds")
            try:
                worker, process, message = self._events.get(timeout=max(0.0, min(0.25, deadline - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= deadline:
                    return None
                continue
            event = self._translate(worker, message) if worker.is_current(process) else None
            if event is not None:
                return event

    def close(self) -> None:
        """Ends all workers at once; what they were at is lost and can be run again."""
        for worker in self._workers:
            worker.kill()

    def _translate(self, worker: _Worker, message: dict[str, Any] | None) -> Event | None:
        if message is None:  # its output ended
            if worker.request is None:
                return None
            return self._finish(worker, "worker_died", f"the worker process ended with exit code {worker.exit_code}")
        run_id = str(message.get("run_id"))
        if worker.request is None or (run_id != worker.request.run_id and message["event"] != "refused"):
            return None
        if message["event"] == "progress":
            return Progress(run_id, message["phase"], message["step"], message["steps"], message.get("loss"))
        if message["event"] == "done":
            return self._finish(worker, "error", "the worker left no readable result file")
        if message["event"] == "refused":
            return self._finish(worker, "error", f"the worker refused the request: {message.get('message')}")
        return None

    def _finish(self, worker: _Worker, failure: str, message: str) -> Finished:
        request = worker.request
        assert request is not None
        try:  # a result file beats what the process did after writing it
            result = RunResult.read(request.result_path)
        except (OSError, ValueError):
            result = RunResult(request.run_id, request.seed, "failed", failure=failure, message=message)
        energy = self._meter.stop(request.run_id, worker.pid, worker.gpu, result.cpu_seconds)
        worker.end_run()
        return Finished(request.run_id, result, energy)


class _Worker:
    """One worker process with its two reader threads; started when needed."""

    def __init__(self, device: str, command: list[str], log: Path, events: queue.Queue[_Message]) -> None:
        self.device = device
        self.request: RunRequest | None = None
        self.deadline = 0.0
        self._command, self._events = command, events
        self._log_path = log
        self._log: IO[bytes] | None = None
        self._process = self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def gpu(self) -> int | None:
        return int(self.device.partition(":")[2] or 0) if self.device.startswith("cuda") else None

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def is_current(self, process: subprocess.Popen[bytes]) -> bool:
        return process is self._process

    def start_run(self, request: RunRequest, deadline: float) -> None:
        if self.exit_code is not None:
            self._process = self._start()
        self._log = Path(request.result_path).with_name("worker.log").open("ab")
        self.request, self.deadline = request, deadline
        with suppress(BrokenPipeError):  # it has just died: its output ends too, and that is the event
            assert self._process.stdin is not None
            self._process.stdin.write(f"{Path(request.result_path).with_name('request.json')}\n".encode())
            self._process.stdin.flush()

    def end_run(self) -> None:
        self.request = None
        if self._log:
            self._log.close()
            self._log = None

    def kill(self) -> None:
        """Kills the whole process group: a worker's own children must not outlive it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(CPU_ENVIRONMENT if self.device == "cpu" else {})},
            start_new_session=True,  # Ctrl-C in the terminal is the runner's to handle
        )
        threading.Thread(target=self._read_events, args=(process,), daemon=True).start()
        threading.Thread(target=self._read_log, args=(process,), daemon=True).start()
        return process

    def _read_events(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict) and "event" in message:
                    self._events.put((self, process, message))
        process.wait()
        self._events.put((self, process, None))

    def _read_log(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with suppress(OSError, ValueError):
                if self._log is not None:
                    self._log.write(line)
                    self._log.flush()
                    continue
                with self._log_path.open("ab") as log:  # between runs: start-up trouble belongs to the study's log
                    log.write(line)


# (worker, the process it had then, a JSON event or None when that process's output has ended)
_Message = tuple[_Worker, subprocess.Popen[bytes], dict[str, Any] | None]
