"""Runs of the trainer as a study makes them: a request to a warm worker process, its result, its joules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from light.pieces import Plan
from rails import Limits, Value, load_menu, predict
from trainer.data import manifest_of
from trainer.protocol import RunRequest, RunResult

PRESETS = Path(__file__).resolve().parents[2] / "autoresearch" / "presets"
TINY: dict[str, Value] = {"n_layer": 2, "n_head": 2, "d_model": 32, "d_ff": 64, "batch_size": 4, "seq_len": 32}

_numbers = count()


def preset_text(preset: str, file: str) -> str:
    """Read here, since autoresearch's own reading of presets needs packages that may be missing."""
    return (PRESETS / preset / file).read_text("utf-8")


def recipe_of(plan: Plan, **changes: Value) -> dict[str, Value]:
    """The preset's recipe in bf16, shrunk for a quick look."""
    recipe = dict(load_menu(preset_text(plan.preset, "menu.toml"), plan.preset).defaults())
    return recipe | {"precision": "bf16"} | (TINY if plan.quick else {}) | changes


def request_of(plan: Plan, recipe: dict[str, Value], **changes: Any) -> RunRequest:
    """A run on the plan's device, compiled on a GPU as studies are; changes are fields of the request."""
    run_id = f"run-{os.getpid()}-{next(_numbers)}"
    request: dict[str, Any] = {
        "run_id": run_id,
        "recipe": recipe,
        "seed": 0,
        "budget": {"steps": plan.steps},
        "data_dir": plan.data_dir,
        "result_path": str(Path(plan.work) / f"{run_id}.json"),
        "device": plan.device,
        "score": False,
        "compile": plan.on_gpu,
    }
    return RunRequest(**(request | changes))


class WarmWorker:
    """`python -m trainer.worker`, one run after another; a new process for the next run where one has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, plan: Plan, request: RunRequest) -> dict[str, Any]:
        """What is known of the run afterwards: the result's figures, the predicted memory, the joules."""
        process = self._running()
        energy = Energy(plan)
        path = Path(request.result_path).with_suffix(".request.json")
        request.write(path)
        energy.start(process.pid)
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):  # the end of its output says the same
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
        while (event := json.loads(process.stdout.readline() or '{"event": "died"}'))["event"] != "done":
            if event["event"] in ("died", "refused"):
                self.close()
                return {"state": "failed", "failure": "worker_died", "message": event.get("message", "see the log")}
        result = RunResult.read(request.result_path)
        facts = figures(result) | energy.stop(process.pid, result.cpu_seconds)
        if (prediction := predicted_bytes(plan, request)) is not None:
            facts["predicted_memory_bytes"] = prediction
        return facts

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainer.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        return self._process


def figures(result: RunResult) -> dict[str, Any]:
    """The result without what no table shows."""
    names = (
        "state failure message val_bpb steps tokens tokens_per_second first_step_seconds total_seconds train_seconds"
    )
    found = {name: getattr(result, name) for name in f"{names} peak_memory_bytes step_seconds curve".split()}
    return found | {"mfu": result.mfu}


def predicted_bytes(plan: Plan, request: RunRequest) -> int | None:
    """By the rail `fit` as on a study's first night, when nothing has been measured."""
    vocab_size = manifest_of(Path(request.data_dir)).vocab_size
    limits = Limits(vocab_size=vocab_size, device="cuda" if plan.on_gpu else "cpu")
    found = predict(request.recipe, limits)
    return None if found is None else found.memory_bytes


class Energy:
    """Joules of a run by the meter that a study has; without autoresearch's packages, by the card's counter alone."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._meter: Any = None
        self._before: float | None = None
        with suppress(ImportError):
            from autoresearch.config import EnergySettings
            from autoresearch.workers.energy import EnergyMeter

            self._meter = EnergyMeter(EnergySettings(), plan.uuids)

    def start(self, pid: int) -> None:
        if self._meter is not None:
            self._meter.start("run", pid, _gpus(self._plan))
        else:
            self._before = _counted_joules(self._plan)

    def stop(self, pid: int, cpu_seconds: float | None) -> dict[str, Any]:
        if self._meter is not None:
            energy = self._meter.stop("run", pid, _gpus(self._plan), cpu_seconds)
            return {"joules": energy.joules, "energy_source": energy.source}
        after = _counted_joules(self._plan)
        if self._before is None or after is None:
            return {}
        return {"joules": after - self._before, "energy_source": "nvml"}


def _gpus(plan: Plan) -> list[int]:
    return [int(plan.device.partition(":")[2] or 0)] if plan.on_gpu else []


def _counted_joules(plan: Plan) -> float | None:
    """The card's total counter. None without a GPU, without nvidia-ml-py, or where the card has none."""
    if not plan.on_gpu:
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{plan.uuids[_gpus(plan)[0]]}")
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(card) / 1e3
    except pynvml.NVMLError:
        return None
