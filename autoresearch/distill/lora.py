"""Teaches a base a corpus in a child process: shows how it stands, meters what it takes, makes an adapter's folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from autoresearch import words
from autoresearch.config import EnergySettings
from autoresearch.distill.card import card
from autoresearch.distill.lora_terms import (
    ENERGY,
    MADE,
    MERGED,
    REQUEST,
    RESULT,
    STATE,
    LoraRequest,
    LoraResult,
    read_request,
    read_result,
    write,
)
from autoresearch.errors import UserError
from autoresearch.terminal.bars import bars
from autoresearch.workers import nvml
from autoresearch.workers.energy import Energy, EnergyMeter
from rails import clean

CHILD = (sys.executable, "-m", "autoresearch.distill.lora_worker")
TRAINING = "training"  # the folder in the adapter's, while it is made
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


@dataclass(frozen=True)
class Taught:
    result: LoraResult
    energy: Energy


def sha256(corpus: Path) -> str:
    """Of both files of a corpus, as its report has it. Raises UserError where one cannot be read."""
    try:
        return hashlib.sha256(
            b"".join((corpus / f"{name}.jsonl").read_bytes() for name in ("train", "held_out"))
        ).hexdigest()
    except OSError:
        raise UserError(
            f"{corpus} holds no train.jsonl and held_out.jsonl: make a corpus with `autoresearch distill corpus`"
        ) from None


def teach(request: LoraRequest, out: Path, console: Console) -> Taught:
    """Writes an adapter as PEFT, vLLM and NIM load it into `out`, with `request.merge` a whole model beside it.

    A training that was killed goes on where it last wrote down. Raises UserError where the extra is missing, another
    adapter or training is there, or the child refuses or dies.
    """
    if missing := [package for package in ("transformers", "peft") if find_spec(package) is None]:
        raise UserError(f"{' and '.join(missing)} not installed: run `pip install -e '.[distill]'`")
    folder, merged = out / TRAINING, out.with_name(f"{out.name}-merged")
    if request.merge and merged.exists():
        raise UserError(f"{merged} is there already: remove it, or name another folder with --out")
    if folder.exists():
        if (folder / STATE).exists() and read_request(folder / REQUEST) != request:
            raise UserError(
                f"{folder} holds a training on other terms: give the same command again to go on with it, or remove it"
            )
    elif (out / "adapter_config.json").exists():
        raise UserError(f"{out} holds an adapter already: remove it, or name another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    write(request, folder / REQUEST)
    energy = _Metered(folder / ENERGY)
    with _child(request, folder) as child:
        _follow(child, energy, console, folder)
    taught = Taught(read_result(folder / RESULT), energy.total)
    (folder / MADE / "README.md").write_text(card(request, taught.result, taught.energy), encoding="utf-8")
    shutil.copy(folder / RESULT, folder / MADE / "training.json")
    if request.merge:
        (folder / MERGED).replace(merged)
    for file in sorted((folder / MADE).iterdir()):
        file.replace(out / file.name)
    shutil.rmtree(folder)
    return taught


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
def _child(request: LoraRequest, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The child, which does not outlive this: nor does it where this process is killed, since its stdin ends then."""
    # Without a hub each file that is no part of the folder would be asked for, for most of a minute.
    offline = {"HF_HUB_OFFLINE": "1"} if Path(request.base).is_dir() else {}
    with (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [*CHILD, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **ENVIRONMENT, **offline},
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
                    base = f" (base {words.nats(told['base_loss'])})" if told["step"] else ", of the base"
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
