"""The worker of a plain command: `python -P -m autoresearch.program.command` does one run and ends.

A worker a run, so that the command and all that it starts are in the worker's own process group: whoever ends the
worker, a launcher or the run's own end, ends them too.
"""

from __future__ import annotations

import os
import queue
import resource
import signal
import subprocess
import sys
import threading
from typing import IO, Any

from autoresearch.adapter import Failed, Report, serve
from autoresearch.program.score import Reader
from autoresearch.workers.oom import oom_kills, was_for_memory

LOOK_SECONDS = 0.25  # at whether the run is cancelled, or has ended while a child of it holds its output open
CHUNK = 2**16
LONGEST_LINE = 2**16  # longer ones are taken apart
# Of a run's output, in bytes: so much of its beginning and of its end are kept in its log.
HEAD, TAIL = 2**20, 2**16


class Log:
    """What the program says, both ways in one, passed on to stderr, which the launcher keeps in the run's log."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._bytes, self._tail = file, 0, b""

    def write(self, text: bytes) -> None:
        if self._bytes < HEAD:
            self._file.write(text)
            self._file.flush()
        else:
            self._tail = (self._tail + text)[-TAIL:]
        self._bytes += len(text)

    def close(self) -> None:
        if self._tail:
            self._file.write(b"\n[... what it said in between is not kept ...]\n" + self._tail + b"\n")
            self._file.flush()


def run_command(recipe: dict[str, Any], seed: int, budget: dict[str, float], report: Report) -> dict[str, Any]:
    """One run of the command that the request holds, recipe and all; returns its score and what else is known."""
    program, reader, log = report.request["program"], Reader(report.request["program"]), Log(sys.stderr.buffer)
    command, kills = program["command"], oom_kills()
    try:
        process = subprocess.Popen(
            command,
            cwd=program["folder"],
            env={**os.environ, **program["environment"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise Failed(f"{command[0]} cannot be started in {program['folder']}: {error.strerror}") from None
    said: queue.Queue[tuple[str, bytes]] = queue.Queue(maxsize=64)
    assert process.stdout is not None and process.stderr is not None
    for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
        threading.Thread(target=_pump, args=(name, pipe, said), daemon=True).start()
    begun = {"stdout": b"", "stderr": b""}  # of lines; those whose end has come are not there any more
    try:
        while begun:
            report.stop_if_cancelled()
            try:
                name, text = said.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                if process.poll() is not None:  # a child of it holds its output open
                    break
                continue
            log.write(text)
            *lines, rest = (begun[name] + text).replace(b"\r", b"\n").split(b"\n")
            if not text or len(rest) > LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            begun[name] = rest
            for line in lines:
                if progress := reader.read(name, line.decode("utf-8", "replace")):
                    report(**progress)
            if not text:
                del begun[name]
        for name, rest in begun.items():
            reader.read(name, rest.decode("utf-8", "replace"))
    finally:
        log.close()
    code = process.wait()
    if code:
        raise _failed(code, reader, was_for_memory(code, 1, kills, oom_kills()))
    return {"peak_memory_bytes": _largest_child_bytes(), **reader.result()}


def _pump(name: str, pipe: IO[bytes], said: queue.Queue[tuple[str, bytes]]) -> None:
    """An empty text is the end."""
    while True:
        text = os.read(pipe.fileno(), CHUNK)
        said.put((name, text))
        if not text:
            return


def _failed(code: int, reader: Reader, killed_for_memory: bool) -> Failed:
    how = f"was ended by {signal.strsignal(-code) or f'signal {-code}'}" if code < 0 else f"ended with exit code {code}"
    lines = reader.last_lines()
    memory = killed_for_memory or "out of memory" in lines.lower() or "MemoryError" in lines
    return Failed(f"it {how}: {lines}", "out_of_memory" if memory else "error")


def _largest_child_bytes() -> int:
    """Resident memory, at its peak, of the largest process that the command was."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit


if __name__ == "__main__":
    serve(run_command, runs=1)
