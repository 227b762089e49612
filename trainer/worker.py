"""The warm worker: `python -m trainer.worker` reads request paths on stdin, answers in files, tells progress on stdout.

Each line on stdin is the path of a request file (trainer.protocol). Each line on stdout is one JSON event:
ready, start, progress, done, refused. The worker lives as long as its stdin is open.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
from typing import IO, Any

from trainer.protocol import RunRequest

SECONDS_BETWEEN_PROGRESS = 0.5

# Read by torch's thread pools and by CUDA when they load. Several spinning threads beside another busy process cost
# a trainer nearly all its speed, and a second thread changes the order of sums; as many workers as cores are faster.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_DYNAMIC": "FALSE",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MKL_DYNAMIC": "FALSE",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


def main() -> None:
    """Serves until stdin closes."""
    # Ctrl-C in a terminal reaches the whole group; whether a run ends for it is the launcher's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    requests, events = _take_pipes()

    paths: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_until_parent_is_gone, args=(requests, paths), daemon=True).start()

    import trainer.run  # noqa: F401  loads torch: after the environment is set, before the launcher hears "ready"

    tell = Teller(events)
    tell("ready", pid=os.getpid())
    while True:
        _serve(paths.get(), tell)


class Teller:
    """Writes events, one JSON object a line."""

    def __init__(self, events: IO[str]) -> None:
        self._events = events
        self._next_progress = 0.0

    def __call__(self, event: str, **facts: Any) -> None:
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


def _serve(path: str, tell: Teller) -> None:
    from trainer.run import execute, is_usable

    try:
        request = RunRequest.read(path)
    except (OSError, ValueError) as error:
        tell("refused", path=path, message=str(error))
        return
    tell("start", run_id=request.run_id)
    result = execute(request, lambda *facts: tell.progress(request.run_id, *facts))
    try:
        result.write(request.result_path)
    except OSError as error:
        tell("refused", path=path, message=f"{request.result_path}: the result cannot be written: {error}")
        return
    tell("done", run_id=request.run_id, state=result.state, val_bpb=result.val_bpb)
    if result.failure is not None and not is_usable(result.device):
        print("trainer.worker: the last run broke the GPU's context; start another worker", file=sys.stderr)
        os._exit(1)  # not sys.exit, which would wait for the thread that reads stdin


def _take_pipes() -> tuple[IO[str], IO[str]]:
    """stdin and stdout for the protocol alone: whatever a library reads or prints goes to /dev/null and stderr."""
    requests, events = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return requests, events


def _read_until_parent_is_gone(requests: IO[str], paths: "queue.SimpleQueue[str]") -> None:
    for line in requests:
        if line.strip():
            paths.put(line.strip())
    os._exit(0)  # at once, in the middle of a step too: a run that nobody waits for must not hold the machine


if __name__ == "__main__":
    main()
