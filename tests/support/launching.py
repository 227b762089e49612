"""What the tests of launchers share: runs to hand over, and what is heard of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from studies import wait_until

from autoresearch.study.preset import load_preset
from autoresearch.workers.launcher import Event, Finished, Launcher, Note, Progress
from trainer.protocol import RunRequest

RECIPE = load_preset("cpu-nano").recipe
# What the stub worker does for a recipe with one of these.
DIES: dict[str, Any] = {"n_layer": 1}
DIES_ONCE: dict[str, Any] = {"n_layer": 2}
DIVERGES: dict[str, Any] = {"beta1": 0.5}
HANGS: dict[str, Any] = {"grad_clip": 0.6875}
WAITS: dict[str, Any] = {"grad_clip": 0.625}  # until it is cancelled


def request(folder: Path, run_id: str = "0001-0", **knobs: Any) -> RunRequest:
    """A run in a folder of its own, which is made."""
    (folder / run_id).mkdir(exist_ok=True)
    _elsewhere(run_id).unlink(missing_ok=True)
    return RunRequest(run_id, {**RECIPE, **knobs}, 0, {"tokens": 1000}, "data", str(folder / run_id / "result.json"))


def submit(launcher: Launcher, folder: Path, run_id: str = "0001-0", seconds: float = 600.0, **knobs: Any) -> Path:
    """Hands over one run. Returns its folder."""
    launcher.submit(request(folder, run_id, **knobs), seconds)
    return folder / run_id


def event(launcher: Launcher) -> Event:
    """The next of a run; what a person is told of the workers is left out."""
    while isinstance(heard := launcher.next_event(60.0), Note):
        pass
    assert heard is not None, "the worker is silent"
    return heard


def finished(launcher: Launcher) -> Finished:
    """The end of a run, its progress left out."""
    while not isinstance(heard := event(launcher), Finished):
        pass
    return heard


def progress(launcher: Launcher) -> Progress:
    heard = event(launcher)
    assert isinstance(heard, Progress), heard
    return heard


def pid(folder: Path) -> int:
    """Of the stub worker that does, or did last, the run in that folder."""
    notes = [folder / "pid", _elsewhere(folder.name)]

    def found() -> str:
        return next((text for note in notes if note.exists() and (text := note.read_text())), "")

    wait_until(found)
    return int(found())


def _elsewhere(run_id: str) -> Path:
    """Where a stub worker on a node of a cluster leaves its process id; see stub_worker.py."""
    return Path(os.environ.get("STUB_PIDS", "nowhere"), run_id)
