"""Makes a warm worker of a function of your own: `serve(train)`. It needs Python's standard library and nothing else.

train(recipe, seed, budget, report) trains once and returns the score, or a dict with the score under its name and, if
known, steps, tokens and peak_memory_bytes. recipe: knob -> value. budget: such as {"seconds": 300}. report(step, loss)
shows progress, and raises Stopped where the study wants no more of the run: let that through.
"""

# Nothing of autoresearch is imported: beside the script that imports this there may lie a trainer.py.
from __future__ import annotations

import json
import math
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

SECONDS_BETWEEN_PROGRESS = 0.5
CURVE_POINTS = 100  # at most; then neighbours are taken together
WINDOW = 0.1  # of a run, whose losses before a point are taken together; as trainer.training has it
MEASURED = ("steps", "tokens", "peak_memory_bytes")  # whole numbers that a result may hold besides the score
MOST_COUNTED, MOST_SCORED = 2**53, 1e100  # beyond that a count is a slip, and a score has exploded


class Stopped(Exception):
    """The study wants no more of this run."""


class Failed(Exception):
    """A run that came to nothing, and why in a line. failure: error, diverged or out_of_memory."""

    def __init__(self, message: str, failure: str = "error") -> None:
        super().__init__(message)
        self.failure = failure


class Report:
    """Called as report(step, loss, steps) during a run; steps: in all, where the budget does not say so itself."""

    def __init__(self, request: dict[str, Any], tell: Callable[..., None], is_cancelled: Callable[[], bool]) -> None:
        self.request, self.is_cancelled = request, is_cancelled
        self.step: int | None = None
        self._tell, self._next = tell, 0.0
        self._bins: list[list[float]] = []  # last step, sum of losses, how many
        self._bin_size = 1
        self._limits = sorted(request.get("stop_above") or [])

    def __call__(self, step: int, loss: float | None = None, steps: int | None = None) -> None:
        """Raises Stopped where the run is cancelled, or hopeless beside that of the recipe which it changed."""
        self.step = int(step)
        total = int(steps or self.request["budget"].get("steps") or 0)
        finite = float(loss) if loss is not None and math.isfinite(loss) else None
        if finite is not None:
            self._add(finite)
        if (now := time.monotonic()) >= self._next:
            self._next = now + SECONDS_BETWEEN_PROGRESS
            self._tell(
                "progress", run_id=self.request["run_id"], phase="train", step=self.step, steps=total, loss=finite
            )
        self.stop_if_cancelled()
        while total and self._limits and self.step >= self._limits[0][0] * total:
            share, most = self._limits.pop(0)
            if (before := self._before(share, total)) is not None and before > most:
                raise Stopped(f"stopped after {share:.0%} of its run: training loss {before:.4g}, above {most:.4g}")

    def stop_if_cancelled(self) -> None:
        if self.is_cancelled():
            raise Stopped("cancelled" if self.step is None else f"cancelled after step {self.step}")

    @property
    def curve(self) -> list[list[float]]:
        """[last step of a bin, mean loss over it]."""
        return [[step, total / n] for step, total, n in self._bins]

    def _add(self, loss: float) -> None:
        assert self.step is not None
        if self._bins and self._bins[-1][2] < self._bin_size:
            last = self._bins[-1]
            self._bins[-1] = [self.step, last[1] + loss, last[2] + 1]
            return
        if len(self._bins) == CURVE_POINTS:
            pairs = zip(self._bins[::2], self._bins[1::2], strict=True)
            self._bins = [[after[0], before[1] + after[1], before[2] + after[2]] for before, after in pairs]
            self._bin_size *= 2
        self._bins.append([self.step, loss, 1])

    def _before(self, share: float, total: int) -> float | None:
        """The mean loss of the last tenth of the run before a share of it."""
        end = math.ceil(share * total)
        part = [loss for step, loss in self.curve if end - WINDOW * total < step <= end]
        return math.fsum(part) / len(part) if part else None


Train = Callable[[dict[str, Any], int, dict[str, float], Report], "float | dict[str, Any]"]


def serve(train: Train, runs: int | None = None) -> None:
    """Does runs as a study asks for them, until it closes stdin; or so many, the last of which it then is silent on:
    its result file is there when the process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whether a run ends for Ctrl-C is the study's decision
    if sys.stdin.isatty():
        print("this program waits for runs: `autoresearch run` starts it (docs/your-own-trainer.md)", file=sys.stderr)
    lines, events = _take_pipes()
    orders = _Orders(lines)

    def tell(event: str, **facts: Any) -> None:
        try:
            events.write(json.dumps({"event": event, **facts}) + "\n")
            events.flush()
        except BrokenPipeError:
            _end()

    tell("ready", pid=os.getpid())
    while runs is None or runs > 0:
        number, path = orders.next()
        try:
            request = json.loads(Path(path).read_text("utf-8"))
            run_id, place = request["run_id"], Path(request["result_path"])
        except (OSError, ValueError, KeyError) as error:
            tell("refused", path=path, message=f"{type(error).__name__}: {error}")
            continue
        tell("start", run_id=run_id)

        def is_cancelled(run_id: str = run_id, number: int = number) -> bool:
            return orders.is_cancelled(run_id, since=number)

        result = _run(train, Report(request, tell, is_cancelled))
        partial = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        partial.write_text(json.dumps(result, allow_nan=False), encoding="utf-8")
        partial.replace(place)
        if runs is not None:
            runs -= 1
        if runs != 0:
            tell("done", run_id=run_id, state=result["state"])


def _run(train: Train, report: Report) -> dict[str, Any]:
    """The result file of one run, as trainer.protocol has it."""
    request, program = report.request, report.request["program"]
    began, used, clock = datetime.now(UTC), _cpu_seconds(), time.monotonic()
    os.environ["AUTORESEARCH_FOLDER"] = program["place"]
    ended: dict[str, Any]
    try:
        given = train(dict(request["recipe"]), request["seed"], dict(request["budget"]), report)
        found = given if isinstance(given, dict) else {program["score"]: given}
        score = _number(found, program["score"])
        ended = {name: found[name] for name in MEASURED if is_count(found.get(name))}
        ended |= {"state": "complete", "val_bpb": score if program["lower_is_better"] else 0.0 - score}
    except Stopped as stop:
        ended = {"state": "cancelled" if report.is_cancelled() else "stopped", "message": str(stop)}
    except Failed as failed:
        ended = {"state": "failed", "failure": failed.failure, "message": str(failed)}
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        told = f"{type(error).__name__}: {error}"
        memory = isinstance(error, MemoryError) or "out of memory" in told.lower()
        ended = {"state": "failed", "failure": "out_of_memory" if memory else "error", "message": told}
    seconds = time.monotonic() - clock
    common = {
        "run_id": request["run_id"],
        "seed": request["seed"],
        "steps": report.step,
        "curve": report.curve,
        "train_seconds": seconds,
        "total_seconds": seconds,
        "cpu_seconds": max(0.0, _cpu_seconds() - used),
        "device": request["device"],
        "started_at": began.isoformat(),
        "finished_at": datetime.now(UTC).isoformat(),
    }
    return {**common, **ended}


def _number(found: dict[str, Any], name: str) -> float:
    """The score; Failed where there is none, and for one that is no finite number."""
    if name not in found:
        there = ", ".join(map(str, found)) or "nothing"
        raise Failed(f"the result has no {name}; it has: {there}")
    value = found[name]
    try:
        number = float("text" if isinstance(value, str | bool) else value)
    except (TypeError, ValueError):
        raise Failed(f"{name} is {str(value)[:60]!r}, which is no number") from None
    if not abs(number) < MOST_SCORED:  # NaN neither
        raise Failed(f"{name} is {number}", "diverged")
    return number


def is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < MOST_COUNTED


def _cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class _Orders:
    """What the lines on stdin ask for: runs, one after another, and the end of one before its time."""

    def __init__(self, lines: IO[str]) -> None:
        self._paths: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._cancelled: dict[str, int] = {}  # run id -> number of the line that said so
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()

    def _read(self, lines: IO[str]) -> None:
        for number, line in enumerate(lines):
            if line.startswith("{"):
                self._cancelled[json.loads(line)["cancel"]] = number
            elif line.strip():
                self._paths.put((number, line.strip()))
        _end()

    def next(self) -> tuple[int, str]:
        return self._paths.get()

    def is_cancelled(self, run_id: str, since: int) -> bool:
        return self._cancelled.get(run_id, -1) > since


def _take_pipes() -> tuple[IO[str], IO[str]]:
    """stdin and stdout for the protocol alone: the program reads nothing, and what it prints goes to the log."""
    lines, events = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return lines, events


def _end() -> None:
    """At once, with all that was started from here: a run that nobody waits for must not hold the machine."""
    if os.getpgrp() == os.getpid():  # as the study starts it
        os.killpg(0, signal.SIGKILL)
    os._exit(0)
