"""A training in a child process: shows how it stands, meters what it takes, and ends it with this process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from autoresearch import words
from autoresearch.config import EnergySettings
from autoresearch.distill.teach.messages import ENERGY, MADE, REQUEST, RESULT, STATE, write
from autoresearch.errors import UserError
from autoresearch.terminal.bars import bars
from autoresearch.workers import nvml
from autoresearch.workers.energy import Energy, EnergyMeter
from rails import clean

TRAINING = "training"  # the folder in that of what is made, while it is made
GRACE_SECONDS = 5.0
ENVIRONMENT = {
    **nvml.ENVIRONMENT,
    "PYTHONUNBUFFERED": "1",
    "PYTHONHASHSEED": "0",  # else names in adapter_config.json stand in another order each time
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin beside another busy process cost nearly all speed
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def begin(request: Any, out: Path, made: str) -> Path:
    """The folder in `out` for a training as the dataclass `request` says, which may have begun there. made: a file that
    a training leaves in `out`. Raises UserError where what was made, or a training on other terms, is there."""
    folder = out / TRAINING
    if folder.exists():
        if (folder / STATE).exists() and json.loads((folder / REQUEST).read_text("utf-8")) != asdict(request):
            raise UserError(
                f"{folder} holds a training on other terms: give the same command again to go on with it, or remove it"
            )
    elif (out / made).exists():
        raise UserError(f"{out} holds what a training made already: remove it, or name another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    write(request, folder / REQUEST)
    return folder


def is_made(request: Any, out: Path) -> bool:
    """Whether `out` holds what a training as this dataclass says has made, to its end."""
    if (out / TRAINING).exists() or not (out / REQUEST).is_file():
        return False
    with suppress(ValueError):
        return bool(json.loads((out / REQUEST).read_text("utf-8")) == asdict(request))
    return False


def finish(folder: Path, card: str) -> None:
    """Brings what was made, with its card, what was asked and its result, to where it belongs, and ends the training's
    folder."""
    (folder / MADE / "README.md").write_text(card, encoding="utf-8")
    shutil.copy(folder / REQUEST, folder / MADE / REQUEST)
    shutil.copy(folder / RESULT, folder / MADE / "training.json")
    for file in sorted((folder / MADE).iterdir()):
        file.replace(folder.parent / file.name)
    shutil.rmtree(folder)


def train_in_child(module: str, folder: Path, console: Console, environment: Mapping[str, str]) -> Energy:
    """Runs `python -m module FOLDER` until it has done what FOLDER/request.json asks for; the energy of all attempts.

    Raises UserError where it refuses or dies.
    """
    energy = _Metered(folder / ENERGY)
    with _child(module, folder, environment) as process:
        _follow(process, energy, console, folder)
    return energy.total


class _Metered:
    """The energy of all attempts, as far as each had told what it did when it ended."""

    def __init__(self, path: Path) -> None:
        self._path, self._meter = path, EnergyMeter(EnergySettings())
        self.total, self._gpus, self._cpu_seconds = Energy(0.0, "estimate"), range(0), 0.0
        with suppress(OSError, ValueError):
            self.total = Energy(**json.loads(path.read_text("utf-8")))

    def begin(self, pid: int, uuid: str | None, cpu_seconds: float) -> None:
        if uuid is not None:
            self._meter, self._gpus = EnergyMeter(EnergySettings(), [uuid]), range(1)
        self._cpu_seconds = cpu_seconds
        self._meter.start(TRAINING, pid, self._gpus)

    def settle(self, pid: int, cpu_seconds: float) -> None:
        found = self._meter.stop(TRAINING, pid, self._gpus, cpu_seconds - self._cpu_seconds)
        self.total = Energy(self.total.joules + found.joules, found.source)
        write({"joules": self.total.joules, "source": self.total.source}, self._path)
        self._cpu_seconds = cpu_seconds
        self._meter.start(TRAINING, pid, self._gpus)


@contextmanager
def _child(module: str, folder: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The child, which does not outlive this: nor does it where this process is killed, since its stdin ends then."""
    with (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **ENVIRONMENT, **environment},
            start_new_session=True,  # Ctrl-C is this process's to handle
        )
    try:
        yield process
        with suppress(subprocess.TimeoutExpired):  # its result is there already
            process.wait(GRACE_SECONDS)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with process:
            pass


def _follow(child: subprocess.Popen[str], energy: _Metered, console: Console, folder: Path) -> None:
    """Shows what the child tells until it is done. Raises UserError where it refuses or dies."""
    assert child.stdout is not None
    with bars(console) as progress:
        task = progress.add_task("teach", total=None, note="loading")
        for line in child.stdout:
            told: dict[str, Any] = json.loads(line)
            match told["event"]:
                case "device":
                    energy.begin(child.pid, told["uuid"], told["cpu_seconds"])
                case "progress":
                    note = f"{told['phase']}" + ("" if told["loss"] is None else f" loss {told['loss']:.3f}")
                    progress.update(task, completed=told["step"], total=told["steps"], note=note)
                case "evaluation":
                    energy.settle(child.pid, told["cpu_seconds"])
                    base = f" (base {words.nats(told['base_loss'])})" if told["base_loss"] is not None else ""
                    console.print(
                        f"step {told['step']} of {told['steps']}: held-out loss {words.nats(told['loss'])}{base}"
                    )
                case "refused":
                    raise UserError(told["message"])
                case "done":
                    energy.settle(child.pid, told["cpu_seconds"])
                    return
    code = child.wait()
    lines = (folder / "worker.log").read_text("utf-8", "replace").strip().splitlines()
    said = clean(lines[-1], 300) if lines else "it said nothing; memory may have run out"
    raise UserError(
        f"the training ended with exit code {code} ({said}): give the same command again to go on where it was; all "
        f"that it said is in {folder / 'worker.log'}"
    )
