"""The piece `tests`: those marked `gpu`, with one line for each that failed or was skipped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from light.pieces import Notes, Plan

ROOT = Path(__file__).resolve().parents[2]
FIRST = ROOT / "tests" / "trainer" / "test_trainer_gpu.py"  # what is most worth knowing


def measure(plan: Plan, notes: Notes) -> None:
    try:
        import pytest
    except ImportError:
        notes.nothing_to_do("pytest is not installed")
        return
    if not plan.on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # then each says that it needs one
    marked = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    files = [FIRST, *(path for path in marked if path != FIRST)]
    notes(files=[str(path.relative_to(ROOT)) for path in files[: 1 if plan.quick else None]])
    arguments = ["-m", "gpu", "-p", "no:cacheprovider", "--continue-on-collection-errors", "-v"]
    code = pytest.main([*arguments, *notes.found["files"]], plugins=[_Watcher(notes)])
    notes(running=None, exit_code=int(code))


class _Watcher:
    """Notes each test as it ends, so that a test that hangs takes only itself away."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._notes(running=nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or not report.passed:
            self._add(report, report.outcome)

    def pytest_collectreport(self, report: Any) -> None:
        if not report.passed:  # a file that cannot be read; for want of a package, that is no failure
            self._add(report, "skipped" if "No module named" in _line(report) else report.outcome)

    def _add(self, report: Any, outcome: str) -> None:
        seconds = round(getattr(report, "duration", 0.0), 2)
        row = {"name": report.nodeid, "outcome": outcome, "seconds": seconds, "message": _line(report)}
        self._notes.add("rows", row)


def _line(report: Any) -> str:
    """Why, in one line."""
    if report.passed:
        return ""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    lines = [line.removeprefix("E   ").strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if crash is not None else lines[-1])[:300] if lines else ""
