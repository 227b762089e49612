"""The warm worker: `python -m trainer.worker` reads request paths on stdin, answers in files, tells progress on stdout.

Each line on stdin is the path of a request file, or {"cancel": run_id}, which ends that run between two steps
(trainer.protocol). Each line on stdout is one JSON event: ready, start, progress, done, refused. The worker lives as
long as its stdin is open.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import IO, Any

from trainer.cache import cache_folder
from trainer.protocol import RunRequest, cancelled_run

SECONDS_BETWEEN_PROGRESS = 0.5
SECONDS_BETWEEN_LOOKS = 0.5  # at whether torchrun is still there
SECONDS_FOR_THE_FIRST = 2.0  # to write its result, when another process has failed

# Read by torch's thread pools and by CUDA when they load. Several spinning threads beside another busy process cost
# a trainer nearly all its speed, and a second thread changes the order of sums; as many workers as cores are faster.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_DYNAMIC": "FALSE",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MKL_DYNAMIC": "FALSE",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    # Of products prepared for shapes that may never come again: without a bound a worker grows by some MiB a run.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "1",
}
# Compiled code outlives the worker and the night: torch keys it by content, so that only a new shape is compiled.
CACHE = "TORCHINDUCTOR_CACHE_DIR"


def main() -> None:
    """Serves until stdin closes. Of the processes that torchrun starts, the first speaks for all."""
    # Ctrl-C in a terminal reaches the whole group; whether a run ends for it is the launcher's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ[CACHE] = str(cache_folder(os.environ.get(CACHE)))
    lines, events = _take_pipes()

    from trainer import parallel

    tell = Teller(events if parallel.world_rank() == 0 else None)
    orders = Orders()
    if parallel.world_rank() == 0:
        threading.Thread(target=orders.read_until_parent_is_gone, args=(lines,), daemon=True).start()
    if parallel.world_size() > 1:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()

    import trainer.run  # noqa: F401  loads torch: after the environment is set, before the launcher hears "ready"

    parallel.join()
    tell("ready", pid=os.getpid())
    while True:
        try:
            number, path = parallel.of_first(orders.next() if parallel.world_rank() == 0 else (0, ""))
        except RuntimeError:  # the first has ended, and with it the pipe that requests come by
            os._exit(0)
        _serve(path, tell, partial(orders.is_cancelled, since=number))


class Orders:
    """What the lines on stdin ask for: runs, one after another, and the end of one before its time."""

    def __init__(self) -> None:
        self._paths: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._cancelled: dict[str, int] = {}  # run id -> number of the line that said so

    def read_until_parent_is_gone(self, lines: IO[str]) -> None:
        for number, line in enumerate(lines):
            if (run_id := cancelled_run(line)) is not None:
                self._cancelled[run_id] = number
            elif line.strip():
                self._paths.put((number, line.strip()))
        os._exit(0)  # at once, in the middle of a step too: a run that nobody waits for must not hold the machine

    def next(self) -> tuple[int, str]:
        """Line number and path of the next request; waits for it."""
        return self._paths.get()

    def is_cancelled(self, run_id: str, since: int) -> bool:
        """Whether a line after the run's own asks for its end; one before it meant an earlier attempt."""
        return self._cancelled.get(run_id, -1) > since


class Teller:
    """Writes events, one JSON object a line; None: to nobody."""

    def __init__(self, events: IO[str] | None) -> None:
        self._events = events
        self._next_progress = 0.0

    def __call__(self, event: str, **facts: Any) -> None:
        if self._events is None:
            return
        try:
            self._events.write(json.dumps({"event": event, **facts}, allow_nan=False) + "\n")
            self._events.flush()
        except BrokenPipeError:
            os._exit(0)  # nobody is listening any more

    def progress(self, run_id: str, phase: str, step: int, steps: int, loss: float) -> None:
        """At most one event per SECONDS_BETWEEN_PROGRESS."""
        now = time.monotonic()
        if now < self._next_progress:
            return
        self._next_progress = now + SECONDS_BETWEEN_PROGRESS
        finite = loss if abs(loss) < float("inf") else None
        self("progress", run_id=run_id, phase=phase, step=step, steps=steps, loss=finite)


def _serve(path: str, tell: Teller, is_cancelled: Callable[[str], bool]) -> None:
    from trainer import parallel
    from trainer.run import execute, is_usable

    try:
        request = RunRequest.read(path)
    except (OSError, ValueError) as error:
        tell("refused", path=path, message=str(error))
        return
    tell("start", run_id=request.run_id)
    result = execute(
        request, lambda *facts: tell.progress(request.run_id, *facts), lambda: is_cancelled(request.run_id)
    )
    if parallel.world_rank() == 0:
        try:
            result.write(request.result_path)
        except OSError as error:
            tell("refused", path=path, message=f"{request.result_path}: the result cannot be written: {error}")
            return
    tell("done", run_id=request.run_id, state=result.state, val_bpb=result.val_bpb)
    if not is_usable(result.device):
        print("trainer.worker: the last run broke the GPU's context; start another worker", file=sys.stderr)
        os._exit(1)  # not sys.exit, which would wait for the thread that reads stdin
    if result.failure in ("error", "out_of_memory") and parallel.world_size() > 1:
        # The others may have got further and wait for this one for ever. The first one's own result comes first.
        time.sleep(0 if parallel.world_rank() == 0 else SECONDS_FOR_THE_FIRST)
        os._exit(1)


def _take_pipes() -> tuple[IO[str], IO[str]]:
    """stdin and stdout for the protocol alone: whatever a library reads or prints goes to /dev/null and stderr."""
    lines, events = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return lines, events


def _end_with(parent: int) -> None:
    """torchrun gives each process a session of its own, so that killing torchrun's does not reach it."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(0)


if __name__ == "__main__":
    main()
