"""Runs trainings in warm worker processes on this machine."""

from __future__ import annotations

import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from autoresearch.workers import nvml
from autoresearch.workers.energy import EnergyMeter
from autoresearch.workers.launcher import Event, Finished, Progress
from trainer.protocol import RunRequest, RunResult

WORKER = (sys.executable, "-m", "trainer.worker")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
# Overrides what a person's shell may say: another thread count changes the order of sums, and so the result.
CPU_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
# Normally the end of its output tells that a worker has died; not where a child of it still holds the pipe.
DEATH_POLL_SECONDS = 0.25


class LocalLauncher:
    """One worker per device on this machine, started at once, kept warm, replaced when it dies.

    processes: of which a worker consists, on as many devices from its own on; more than one are started by torchrun.
    """

    def __init__(
        self,
        devices: Sequence[str],
        meter: EnergyMeter,
        log: Path,
        command: Sequence[str] = WORKER,
        processes: int = 1,
    ) -> None:
        self.capacity = len(devices)
        self._events: queue.Queue[_Message] = queue.Queue()
        self._meter = meter
        if processes > 1:
            command = (*TORCHRUN, str(processes), *command[1:])
        self._workers = [_Worker(device, processes, list(command), log, self._events) for device in devices]

    def submit(self, request: RunRequest, timeout_seconds: float) -> None:
        """Hands the run to a free worker; asserts that there is one."""
        worker = next(worker for worker in self._workers if worker.request is None)
        path = Path(request.result_path)
        path.unlink(missing_ok=True)
        request = RunRequest(**{**vars(request), "device": worker.device})
        request.write(path.with_name("request.json"))
        worker.start_run(request, time.monotonic() + timeout_seconds)
        self._meter.start(request.run_id, worker.pid, worker.gpus)

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
        cpu_seconds = None if result.cpu_seconds is None else result.cpu_seconds * result.processes
        energy = self._meter.stop(request.run_id, worker.pid, worker.gpus, cpu_seconds)
        worker.end_run()
        return Finished(request.run_id, result, energy)


class _Worker:
    """One worker process and the thread that listens to it; started when needed."""

    def __init__(
        self, device: str, processes: int, command: list[str], log: Path, events: queue.Queue[_Message]
    ) -> None:
        self.device, self.processes = device, processes
        self.request: RunRequest | None = None
        self.deadline = 0.0
        self._command, self._events = command, events
        # Between runs: start-up trouble belongs to the study's log.
        self._idle_log = self._log = log
        self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def gpus(self) -> range:
        first = int(self.device.partition(":")[2] or 0)
        return range(first, first + self.processes) if self.device.startswith("cuda") else range(0)

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def is_current(self, process: subprocess.Popen[bytes]) -> bool:
        return process is self._process

    def start_run(self, request: RunRequest, deadline: float) -> None:
        if self.exit_code is not None:
            self._start()
        self._log = Path(request.result_path).with_name("worker.log")
        self._log.touch()
        self.request, self.deadline = request, deadline
        with suppress(BrokenPipeError):  # it has just died: its output ends too, and that is the event
            assert self._process.stdin is not None
            self._process.stdin.write(f"{Path(request.result_path).with_name('request.json')}\n".encode())

    def end_run(self) -> None:
        self.request, self._log = None, self._idle_log

    def kill(self) -> None:
        """Kills the whole process group: a worker's own children must not outlive it."""
        if self.exit_code is None:
            _kill_group(self._process)
        self._listener.join()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(nvml.ENVIRONMENT if self.gpus else CPU_ENVIRONMENT)},
            start_new_session=True,  # Ctrl-C in the terminal is the runner's to handle
        )
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Puts what the process says on stdout into the queue and on stderr into a log, until it has ended.

        stderr is read dry before an event is passed on, so that the last words of a run are in the run's own log.
        """
        assert process.stdout is not None and process.stderr is not None
        with selectors.DefaultSelector() as pipes, process.stdout, process.stderr:
            for pipe in (process.stdout, process.stderr):
                os.set_blocking(pipe.fileno(), False)
                pipes.register(pipe, selectors.EVENT_READ)
            line_begun, ended = b"", False
            while not ended:
                if pipes.get_map():
                    pipes.select(DEATH_POLL_SECONDS)
                else:
                    process.wait()
                ended = process.poll() is not None  # asked before reading: what it has said is then in the pipes
                said, complained = process.stdout.read(), process.stderr.read()
                if complained:
                    self._write_log(process, complained)
                *lines, line_begun = (line_begun + (said or b"")).split(b"\n")
                for line in lines:
                    self._pass_on(process, line)
                for pipe, text in ((process.stdout, said), (process.stderr, complained)):
                    if text == b"" and pipe in pipes.get_map():  # closed, not only silent
                        pipes.unregister(pipe)
        _kill_group(process)  # its children, at once: later the system may have given its id to something else
        self._events.put((self, process, None))

    def _pass_on(self, process: subprocess.Popen[bytes], line: bytes) -> None:
        with suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict) and "event" in message:
                self._events.put((self, process, message))

    def _write_log(self, process: subprocess.Popen[bytes], text: bytes) -> None:
        with suppress(OSError), (self._log if self.is_current(process) else self._idle_log).open("ab") as log:
            log.write(text)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody of it is left
        os.killpg(process.pid, signal.SIGKILL)


# (worker, the process it had then, a JSON event or None when that process's output has ended)
_Message = tuple[_Worker, subprocess.Popen[bytes], dict[str, Any] | None]
