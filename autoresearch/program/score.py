"""Reads what a program says and leaves: its score, its progress, and its last lines where it failed."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoresearch.adapter import MEASURED, Failed, is_count

LAST_LINES, LONGEST_LINE = 3, 300
PROGRESS = re.compile(r"\s*progress:\s*(\{.*\})\s*")
MOST_OF_A_FILE = 2**20


class Reader:
    """Of one run's output, line by line. program: what the worker is told (see told.py)."""

    def __init__(self, program: Mapping[str, Any]) -> None:
        self.name: str = program["score"]
        self._file = Path(program["place"], program["score_file"]) if program.get("score_file") else None
        self._pattern = re.compile(
            program.get("score_pattern") or rf"^\s*{re.escape(self.name)}\s*[:=]\s*(.*?)\s*$", re.MULTILINE
        )
        self._said: str | None = None
        self.peak_memory_bytes = 0
        self._last: dict[str, deque[str]] = {name: deque(maxlen=LAST_LINES) for name in ("stdout", "stderr")}

    def read(self, stream: str, line: str) -> Mapping[str, Any] | None:
        """Takes in a line; returns what it tells of progress: step, and perhaps steps and loss."""
        if line.strip():
            self._last[stream].append(line.strip()[-LONGEST_LINE:])
        if stream != "stdout":
            return None
        if self._file is None:
            for found in self._pattern.finditer(line):
                self._said = found[1]
        return self._progress(line)

    def result(self) -> dict[str, Any]:
        """The score under its name, and what else was measured. Raises Failed where there is no score."""
        found = self._of_file() if self._file else {self.name: self._of_output()}
        if self.peak_memory_bytes:
            found = {"peak_memory_bytes": self.peak_memory_bytes, **found}
        return found

    def last_lines(self) -> str:
        """Of its standard error, else of its output, the very last first: there a program says why it failed."""
        *before, last = self._last["stderr"] or self._last["stdout"] or ["it said nothing"]
        return f"{last} (before that: {' | '.join(before)})" if before else last

    def _of_output(self) -> float:
        if self._said is None:
            raise Failed(f"it ended well but told no {self.name}; its last lines: {self.last_lines()}")
        try:
            return float(self._said)
        except (TypeError, ValueError):
            raise Failed(f"{self.name} is {self._said[:60]!r}, which is no number") from None

    def _of_file(self) -> dict[str, Any]:
        assert self._file is not None
        try:
            with self._file.open("rb") as file:
                content = json.loads(file.read(MOST_OF_A_FILE))
        except OSError as error:
            raise Failed(f"it ended well but left no {self._file.name} in its folder ({error.strerror})") from None
        except (ValueError, RecursionError):
            raise Failed(f"{self._file.name} is no JSON: {self.last_lines()}") from None
        if not isinstance(content, dict):
            raise Failed(f"{self._file.name} holds no JSON object")
        if self.name not in content:
            raise Failed(f"{self._file.name} has no {self.name}; it has: {', '.join(content) or 'nothing'}")
        return {key: content[key] for key in (self.name, *MEASURED) if key in content}

    def _progress(self, line: str) -> Mapping[str, Any] | None:
        if not (found := PROGRESS.fullmatch(line)):
            return None
        try:
            told = json.loads(found[1])
        except (ValueError, RecursionError):
            return None  # a line of its own that only looks like one
        if not is_count(told.get("step")):
            return None
        if is_count(memory := told.get("peak_memory_bytes")):
            self.peak_memory_bytes = max(self.peak_memory_bytes, memory)
        return {
            "step": told["step"],
            "steps": steps if is_count(steps := told.get("steps")) else None,
            "loss": float(loss) if isinstance(loss := told.get("loss"), int | float) else None,
        }
