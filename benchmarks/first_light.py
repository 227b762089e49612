"""What this machine's card does with the trainer, in one command: tests, speed, memory, first steps, energy.

    python benchmarks/first_light.py [--minutes 9] [--out FOLDER] [--pieces speed,tests]

Runs from a checkout, without a network and without installing it; torch, numpy, tokenizers and, for the tests, pytest
are enough. What else is installed is measured too: Hugging Face's transformers, Megatron-Core, Transformer Engine; the
study in the tests needs all of autoresearch. On a GPU the shape is gpt-354m at 16 x 1024 tokens a step, elsewhere
cpu-nano, and the first line of the table says so.

Each piece is a process that is killed when its time is up. FOLDER/first_light.json and FOLDER/first_light.md are
written anew with every figure, so whatever ends the command, what was measured until then is there. What the pieces
print is in FOLDER/PIECE.log. Exit status: 0, or 1 where a piece failed or was cut off, or a test failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from light.page import failed_tests, markdown  # noqa: E402  they need the checkout on the path

from trainer.worker import CACHE, ENVIRONMENT  # noqa: E402  likewise

# In the order of what is most worth knowing, with the most seconds of nine minutes that each may take. They come to
# more than nine minutes, since few take all of theirs. The tests are last as the longest: each notes its own outcome.
PIECES = {"environment": 80, "first_step": 100, "speed": 120, "references": 100, "memory": 50, "tests": 200}
FULL_MINUTES = 9.0
SECONDS_BETWEEN_LOOKS = 0.25  # at what a piece has found so far
LEAST_SECONDS = 0.5  # with less than that left, nothing is started


@dataclass
class Book:
    """All that is known so far, and the two files that say it."""

    folder: Path
    content: dict[str, Any]

    def piece(self, name: str) -> dict[str, Any]:
        return self.content["pieces"][name]

    def write(self) -> None:
        """Each file is whole at any moment."""
        for name, text in (
            ("first_light.json", json.dumps(self.content, indent=1) + "\n"),
            ("first_light.md", markdown(self.content)),
        ):
            partial = self.folder / f".{name}.tmp"
            partial.write_text(text, "utf-8")
            partial.replace(self.folder / name)


def main() -> None:
    chosen = _options()
    deadline = time.monotonic() + 60 * chosen.minutes
    try:
        chosen.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"error: --out {chosen.out}: {error.strerror}; choose another folder")
    book = Book(
        chosen.out,
        {
            "started_at": _now(),
            "finished_at": None,
            "commit": _commit(),
            "minutes": chosen.minutes,
            "quick": chosen.quick,
            "pieces": {name: {"state": "waiting", "message": "", "found": {}} for name in chosen.pieces},
        },
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    with tempfile.TemporaryDirectory(prefix="first-light-", ignore_cleanup_errors=True) as work:
        plan = {"device": chosen.device, "quick": chosen.quick, "work": work}
        try:
            for name in chosen.pieces:
                _do(name, plan, book, min(PIECES[name] * chosen.minutes / FULL_MINUTES, deadline - time.monotonic()))
                if name == "environment":
                    plan |= book.piece(name)["found"].get("plan", {})
        except KeyboardInterrupt:
            for entry in book.content["pieces"].values():
                if entry["state"] == "running":  # heard while it was being started
                    entry |= {"state": "cut off", "message": "interrupted"}
            print("interrupted: what was measured until then is kept", flush=True)
        book.content["finished_at"] = _now()
        book.write()
    print(f"the table: {chosen.out / 'first_light.md'}")
    unwell = [name for name in chosen.pieces if book.piece(name)["state"] not in ("done", "skipped")]
    sys.exit(1 if unwell or failed_tests(book.content) else 0)


def _do(name: str, plan: dict[str, Any], book: Book, limit_seconds: float) -> None:
    """One piece, for so long at most; leaves its state and all that it noted in the book."""
    entry = book.piece(name)
    if name != "environment" and "data_dir" not in plan:
        entry |= {"state": "skipped", "message": "it needs the text that the piece `environment` prepares"}
    elif limit_seconds < LEAST_SECONDS:
        entry |= {"state": "not reached", "message": "no time was left"}
    else:
        entry |= {"state": "running", "limit_seconds": round(limit_seconds, 1)}
        book.write()
        print(f"{name}, {limit_seconds:.0f} s at most ...", flush=True)
        _watch(name, plan, book, limit_seconds)
    book.write()
    print(f"{name}: {': '.join(filter(None, (entry['state'], entry['message'])))}", flush=True)


def _watch(name: str, plan: dict[str, Any], book: Book, limit_seconds: float) -> None:
    entry = book.piece(name)
    asked, found = Path(plan["work"]) / f"{name}.plan.json", Path(plan["work"]) / f"{name}.found.json"
    asked.write_text(json.dumps(plan))
    started = time.monotonic()
    log_path = book.folder / f"{name}.log"
    with log_path.open("wb") as log:
        command = [sys.executable, "-m", "light.pieces", name, str(asked), str(found)]
        # A session of its own, so that it can be ended with all its processes.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env=_environment(name, plan["work"]),
            start_new_session=True,
        )
        state, message = "cut off", "interrupted"
        try:
            while (code := process.poll()) is None and time.monotonic() - started < limit_seconds:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                if _read(found, entry):
                    book.write()
            state, message = {None: ("late", "killed when its time was up"), 0: ("done", "")}.get(
                code, ("failed", f"{_last_line(log_path)}; see {log_path.name}")
            )
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            _read(found, entry)
            if state == "done":  # a piece may end well and say why there was nothing to do
                state, message = entry["found"].get("ended", [state, message])
            entry |= {"state": state, "message": message, "seconds": round(time.monotonic() - started, 1)}


def _read(path: Path, entry: dict[str, Any]) -> bool:
    """Takes over what a piece has noted; whether there was something new."""
    with suppress(FileNotFoundError):
        found = json.loads(path.read_text())
        is_new = found != entry["found"]
        entry["found"] = found
        return is_new
    return False


def _last_line(log: Path) -> str:
    return (log.read_text("utf-8", "replace").strip() or "it said nothing").splitlines()[-1][:300]


def _environment(name: str, work: str) -> dict[str, str]:
    """Of every process that is started: a worker's, this checkout on the path, and a compiler that knows nothing yet.

    The probe of the environment compiles too, and must not warm what `first_step` measures.
    """
    paths = [ROOT, ROOT / "benchmarks", ROOT / "tests", ROOT / "tests" / "support"]
    path = os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])])
    cache = str(Path(work) / ("probe-cache" if name == "environment" else "cache"))
    inherited = {key: value for key, value in os.environ.items() if key != "TRITON_CACHE_DIR"}
    return {**inherited, **ENVIRONMENT, "PYTHONPATH": path, CACHE: cache, "HF_HUB_OFFLINE": "1"}


def _commit() -> str:
    """The checkout's commit, with a word where files differ from it; where there is no git, that."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" and changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown: no git here"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=FULL_MINUTES, help="at most, of all pieces (default 9)")
    options.add_argument("--out", type=Path, metavar="FOLDER", help="default: first_light/ and the time, in UTC")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    options.add_argument("--pieces", default=",".join(PIECES), help=f"default: {','.join(PIECES)}")
    options.add_argument("--quick", action="store_true", help="a tiny shape and few steps: the path, not the figures")
    chosen = options.parse_args()
    named = chosen.pieces.split(",")
    if unknown := set(named) - set(PIECES):
        options.error(f"--pieces {', '.join(sorted(unknown))}: choose from {', '.join(PIECES)}")
    chosen.pieces = [name for name in PIECES if name in named or name == "environment"]
    if not 0 < chosen.minutes < float("inf"):
        options.error(f"--minutes {chosen.minutes:g}: must be above 0")
    chosen.out = chosen.out or Path("first_light") / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}"
    return chosen


if __name__ == "__main__":
    main()
