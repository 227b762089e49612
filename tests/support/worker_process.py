"""What the trainer's tests share: a tiny recipe, real text, and a worker process spoken to as a launcher does."""

import json
import os
import resource
import select
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.protocol import RunRequest, RunResult, cancel_line

RECIPE: dict[str, Any] = {
    "n_layer": 2,
    "n_head": 2,
    "d_model": 32,
    "d_ff": 64,
    "lr": 3e-3,
    "lr_warmup": 5,
    "grad_clip": 1.0,
    "weight_decay": 0.1,
    "beta1": 0.9,
    "beta2": 0.95,
    "batch_size": 4,
    "seq_len": 32,
    "precision": "fp32",
}
LIBRARY_FILES = ("argparse.py", "ast.py", "decimal.py", "difflib.py", "doctest.py", "inspect.py", "textwrap.py")
SECONDS_TO_ANSWER = 120  # a GPU's first step compiles, and says nothing meanwhile
WORKER = (sys.executable, "-m", "trainer.worker")


def write_texts(folder: Path) -> Path:
    """Real text, the same wherever the tests run with this Python: files of its standard library as .txt."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in LIBRARY_FILES:
        source = Path(sysconfig.get_paths()["stdlib"]) / name
        (folder / name).with_suffix(".txt").write_bytes(source.read_bytes())
    return folder


class Worker:
    """A worker process, spoken to as a launcher does."""

    def __init__(self, folder: Path, memory_limit_bytes: int | None = None, command: Sequence[str] = WORKER) -> None:
        self._unread = b""

        def limit_memory() -> None:
            if memory_limit_bytes is not None:
                resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))

        with (folder / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                preexec_fn=limit_memory,
            )

    def cancel(self, run_id: str) -> None:
        self.send(cancel_line(run_id))

    def send(self, line: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def event(self) -> dict[str, Any]:
        """The next line on stdout."""
        assert self.process.stdout is not None
        while b"\n" not in self._unread:
            readable, _, _ = select.select([self.process.stdout], [], [], SECONDS_TO_ANSWER)
            assert readable, "the worker is silent"
            chunk = os.read(self.process.stdout.fileno(), 65536)
            assert chunk, "the worker is gone"
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def events_until(self, *kinds: str) -> list[dict[str, Any]]:
        events = [self.event()]
        while events[-1]["event"] not in kinds:
            events.append(self.event())
        return events

    def submit(self, request: RunRequest) -> None:
        path = Path(request.result_path).with_suffix(".request.json")
        request.write(path)
        self.send(path)

    def run(self, request: RunRequest) -> RunResult:
        self.submit(request)
        self.events_until("done")
        return RunResult.read(request.result_path)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
