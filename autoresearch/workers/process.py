"""One warm worker process: started, fed, listened to, cancelled, killed, and its energy metered where it runs."""

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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from autoresearch.workers import nvml
from autoresearch.workers.energy import EnergyMeter
from autoresearch.workers.launcher import Event, Finished, Progress, read_result
from autoresearch.workers.oom import oom_kills, was_for_memory
from rails import clean
from trainer.protocol import RunRequest, RunResult, cancel_line

WORKER = (sys.executable, "-m", "trainer.worker")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
# Overrides what a person's shell may say: another thread count changes the order of sums, and so the result.
CPU_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
# Normally the end of its output tells that a worker has died; not where a child of it still holds the pipe.
DEATH_POLL_SECONDS = 0.25
MOST_LOG_BYTES = 2**24  # of one run
LAST_LINES, LAST_BYTES = 3, 2**12  # of a log, where they say why a run failed


class WorkerProcess:
    """A worker that does one run at a time; started at once, and again where it has died in a run.

    processes: of which it consists, on as many devices from its own on; more than one are started by torchrun. What it
    says comes by `heard`, which several may share as they do `meter`; `translate` makes an event of it. All methods are
    for one thread. environment: of a worker on a device, None: that of the trainer's own; folder: where it is started.
    """

    # A run that was asked to end and has not by then is killed.
    GRACE_SECONDS = 30.0

    def __init__(
        self,
        device: str,
        meter: EnergyMeter,
        log: Path,
        heard: queue.Queue[Heard],
        command: Sequence[str] = WORKER,
        processes: int = 1,
        environment: Callable[[str], Mapping[str, str]] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._environment, self._folder = environment or self._of_the_trainer, folder
        self.device, self.processes = device, processes
        self.request: RunRequest | None = None
        self._deadline, self._cancelled = 0.0, False
        self._command = [*TORCHRUN, str(processes), *command[1:]] if processes > 1 else list(command)
        self._heard = heard
        self._meter, self._oom_kills = meter, oom_kills()
        # Between runs: start-up trouble belongs to the study's log.
        self._idle_log = self._log = log
        self._start()

    def start_run(self, request: RunRequest, timeout_seconds: float) -> None:
        """Hands over a run, to be done on the worker's device; what an earlier attempt left as its result is gone."""
        assert self.request is None, "a worker does one run at a time"
        result = Path(request.result_path)
        result.unlink(missing_ok=True)
        self.request = replace(request, device=self.device)
        self.request.write(result.with_name("request.json"))
        if self._process.poll() is not None:
            self._start()
        self._log = result.with_name("worker.log")
        self._log.touch()
        self._deadline, self._cancelled = time.monotonic() + timeout_seconds, False
        self._oom_kills = oom_kills()
        self._write(str(result.with_name("request.json")))
        self._meter.start(request.run_id, self._process.pid, self._gpus)

    def cancel(self) -> None:
        """Asks the run to end between two steps."""
        assert self.request is not None
        self._cancelled = True
        self._deadline = min(self._deadline, time.monotonic() + self.GRACE_SECONDS)
        self._write(cancel_line(self.request.run_id))

    def overdue(self) -> Finished | None:
        """Kills a run that has had its time, or did not end when it was asked to; None where there is none."""
        if self.request is None or time.monotonic() <= self._deadline:
            return None
        self.kill()
        late = (
            "it did not end when it was cancelled" if self._cancelled else "the run took longer than limits.run_seconds"
        )
        return self._finish("timed_out", late + self._last_words())

    def translate(self, process: subprocess.Popen[bytes], message: dict[str, Any] | None) -> Event | None:
        """What was heard, as an event; None for what concerns no run, or comes from an earlier process."""
        if self.request is None or process is not self._process:
            return None
        if message is None:  # its output ended
            finished = self._finish(*self._cause_of_death(process.poll()))
            self._start()  # at once, so that the next run need not wait for it
            return finished
        run_id = str(message.get("run_id"))
        if run_id != self.request.run_id and message["event"] != "refused":
            return None
        if message["event"] == "progress":
            return Progress(run_id, message["phase"], message["step"], message["steps"], message.get("loss"))
        if message["event"] == "done":
            return self._finish("error", "the worker left no readable result file")
        if message["event"] == "refused":
            return self._finish("error", f"the worker refused the request: {message.get('message')}")
        return None

    def kill(self) -> None:
        """Kills the whole process group: a worker's own children must not outlive it."""
        if self._process.poll() is None:
            # Some give their own children groups of their own, as torchrun does.
            with suppress(psutil.Error):
                further = psutil.Process(self._process.pid).children(recursive=True)
            _kill_group(self._process)
            for child in further:
                with suppress(psutil.Error):
                    child.kill()
        self._listener.join()

    def _cause_of_death(self, exit_code: int | None) -> tuple[str, str]:
        """The failure and its message."""
        if was_for_memory(exit_code, self.processes, self._oom_kills, oom_kills()):
            return "out_of_memory", "the kernel killed the worker because memory ran out: a smaller recipe needs less"
        return "worker_died", f"the worker process ended with exit code {exit_code}{self._last_words()}"

    def _last_words(self) -> str:
        """Of another program, whose log a person should not have to look for; safe to show."""
        if not (self.request and self.request.program):
            return ""
        with suppress(OSError), self._log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_BYTES))
            lines = [line for line in map(clean, log.read().decode("utf-8", "replace").splitlines()) if line]
            return f"; the last it said: {' | '.join(lines[-LAST_LINES:])}" if lines else "; it said nothing"
        return ""

    def _finish(self, failure: str, message: str) -> Finished:
        request = self.request
        assert request is not None
        try:  # a result file beats what the process did after writing it
            result = read_result(request.result_path)
        except (OSError, ValueError):
            result = RunResult(request.run_id, request.seed, "failed", failure=failure, message=message)
            if self._cancelled:  # what became of a run that nobody wanted any more is no failure of it
                result = replace(result, state="cancelled", failure=None)
        cpu_seconds = None if result.cpu_seconds is None else result.cpu_seconds * result.processes
        energy = self._meter.stop(request.run_id, self._process.pid, self._gpus, cpu_seconds)
        self.request, self._log = None, self._idle_log
        return Finished(request.run_id, result, energy)

    @property
    def _gpus(self) -> range:
        first = int(self.device.partition(":")[2] or 0)
        return range(first, first + self.processes) if self.device.startswith("cuda") else range(0)

    def _of_the_trainer(self, device: str) -> Mapping[str, str]:
        return {**os.environ, "PYTHONUNBUFFERED": "1", **(nvml.ENVIRONMENT if self._gpus else CPU_ENVIRONMENT)}

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=self._environment(self.device),
            cwd=self._folder,
            start_new_session=True,  # Ctrl-C in the terminal is the runner's to handle
        )
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()

    def _write(self, line: str) -> None:
        with suppress(BrokenPipeError):  # it has just died: its output ends too, and that is the event
            assert self._process.stdin is not None
            self._process.stdin.write(f"{line}\n".encode())

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
        self._heard.put((self, process, None))

    def _pass_on(self, process: subprocess.Popen[bytes], line: bytes) -> None:
        with suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict) and "event" in message:
                self._heard.put((self, process, message))

    def _write_log(self, process: subprocess.Popen[bytes], text: bytes) -> None:
        with suppress(OSError), (self._log if process is self._process else self._idle_log).open("ab") as log:
            log.write(text[: max(0, MOST_LOG_BYTES - log.tell())])


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody of it is left
        os.killpg(process.pid, signal.SIGKILL)


# (worker, the process it had then, a JSON event or None when that process's output has ended)
Heard = tuple[WorkerProcess, subprocess.Popen[bytes], dict[str, Any] | None]
