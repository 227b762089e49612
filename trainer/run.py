"""One run: a request in, a result out, whatever happens in between."""

import importlib.metadata
import math
import platform
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch

from trainer.data.dataset import Dataset
from trainer.flops import flops_per_token, peak_flops
from trainer.memory import MemoryPeak, keep_freed_memory, limit_memory, release_memory, return_freed_memory
from trainer.parallel import Processes, of_first
from trainer.protocol import RunRequest, RunResult
from trainer.recipe import Recipe
from trainer.repeatable import repeatable, without_a_repeatable_form
from trainer.schedule import Schedule
from trainer.scoring import Scoring
from trainer.start import Start
from trainer.step_clock import StepClock
from trainer.training import Losses, Spent, train

# What memory running out looks like when it is not torch.OutOfMemoryError or MemoryError.
MEMORY_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "ALLOC_FAILED")

Report = Callable[[str, int, int, float], None]


class Cancelled(Exception):
    """Nobody wants the run any more."""


class Hopeless(Exception):
    """The run is so far behind on the way that it is not worth its end."""


def execute(request: RunRequest, report: Report, is_cancelled: Callable[[], bool] = lambda: False) -> RunResult:
    """Trains and scores one request; a failure of any kind is a result too.

    report: called with phase (train, val, test, window), steps done, steps in all, latest training loss.
    is_cancelled: asked after each report; of several processes the first one's answer counts.
    """
    keep_freed_memory()
    started_at, started, cpu_started = _now(), time.perf_counter(), time.process_time()
    facts: dict[str, Any] = {}
    try:
        outcome = _do(request, report, is_cancelled, facts, started)
    except Exception as error:
        # The user's slip needs its one line; anything else needs the place as well.
        traceback.print_exc(file=sys.stderr)
        outcome = _failure(error)
    # The failed run's tensors hang on its traceback, which is gone only here.
    release_memory()
    if outcome["state"] == "complete":
        with suppress(RuntimeError):  # where it has to be measured there may be no room for it, or no GPU any more
            of_one, source = peak_flops(torch.device(facts["device"]), request.recipe["precision"])
            facts |= {"peak_flops": of_one * facts["processes"], "peak_flops_source": source}
    return RunResult(
        run_id=request.run_id,
        seed=request.seed,
        **outcome,
        **facts,
        total_seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu_started,
        started_at=started_at,
        finished_at=_now(),
        versions=_versions(request.backend),
    )


def _do(
    request: RunRequest, report: Report, is_cancelled: Callable[[], bool], facts: dict[str, Any], started: float
) -> dict[str, Any]:
    """The outcome; what is known of the run by the way goes into `facts`, so that it outlives a failure."""
    recipe = Recipe.from_mapping(request.recipe)
    processes = Processes.of_run(request.tensor_parallel, request.data_parallel)
    facts["processes"] = processes.size
    device = processes.device(device_named(request.device))
    facts["device"] = str(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    limit_memory(device, request.memory_bytes)
    with repeatable(request.repeatable, device, request.compile):
        start = Start(request, recipe, Dataset.open(request.data_dir), device, processes)
        return _train_and_score(start, report, is_cancelled, facts, started)


def _train_and_score(
    start: Start, report: Report, is_cancelled: Callable[[], bool], facts: dict[str, Any], started: float
) -> dict[str, Any]:
    request, recipe, device, processes = start.request, start.recipe, start.device, start.processes
    losses, clock = Losses(), StepClock(device)
    val_curve: list[list[float]] = []
    peak = MemoryPeak(device)
    limits = sorted(request.stop_above)

    def watch(phase: str, step: int, steps: int, loss: float) -> None:
        peak.sample()
        report(phase, step, steps, loss)
        if phase == "train":
            _stop_if_hopeless(limits, losses, step, steps)
        # Here all processes are at the same step, with every loss so far read.
        if of_first(is_cancelled()):
            raise Cancelled

    ready = time.perf_counter()
    try:
        batches = start.batches()  # before the model: what is wrong with them shows at once
        if "seconds" in request.budget:
            # Only for these: a budget in steps, tokens or FLOPs buys the same training however long a step takes.
            start.rehearse()
            peak.sample()
            if of_first(is_cancelled()):
                raise Cancelled
        model = start.model()
        facts["params"] = processes.count(list(model.parameters()))
        facts["flops_per_token"] = flops_per_token(model, recipe)
        schedule = Schedule.of(request.budget, recipe, facts["flops_per_token"])
        scoring = Scoring(
            processes.scoring(model),
            start.dataset,
            recipe.seq_len,
            device,
            lambda phase, done, batches: watch(phase, done, batches, losses.values[-1]),
        )

        def look(steps: int) -> None:
            if math.isfinite(nats := scoring.look()):
                val_curve.append([steps, round(nats, 6)])

        ready = time.perf_counter()
        spent = train(
            model,
            recipe,
            schedule,
            batches,
            device,
            losses,
            clock,
            partial(watch, "train"),
            processes,
            request.val_points,
            look,
        )
        facts |= {
            "first_step_seconds": ready - started + spent.first_step_seconds,
            "train_seconds": spent.seconds,
            "tokens_per_second": spent.steps_per_second * recipe.tokens_per_step,
        }
        if (step := losses.diverged_at) is not None:
            change = f"{losses.values[0]:.4g} nats at first, {losses.values[step - 1]:.4g} then"
            return _diverged(step, f"diverged at step {step}: training loss {change}")
        if schedule.total_seconds is not None and spent.steps == 1:
            return _too_short(schedule.total_seconds, spent)

        eval_started = time.perf_counter()
        return_freed_memory()  # or what training has freed would count on top of what scoring takes
        model.train(False)
        scores = scoring.scores(request)
        facts["eval_seconds"] = time.perf_counter() - eval_started
        if not all(math.isfinite(score) for score in scores.values() if score is not None):
            message = f"diverged by step {spent.steps}: the trained model's scores are not finite"
            return _diverged(spent.steps, message)
        return {"state": "complete", **scores}
    except Cancelled:
        facts.setdefault("train_seconds", time.perf_counter() - ready)
        return {"state": "cancelled", "message": f"cancelled after step {len(losses.values)}"}
    except Hopeless as error:
        facts.setdefault("train_seconds", time.perf_counter() - ready)
        return {"state": "stopped", "message": str(error)}
    finally:
        facts |= {
            "steps": len(losses.values),
            "tokens": (tokens := len(losses.values) * recipe.tokens_per_step),
            "flops": float(facts["flops_per_token"] * tokens) if "flops_per_token" in facts else None,
            "step_seconds": clock.step_seconds,
            "curve": losses.curve(),
            "val_curve": val_curve,
            "peak_memory_bytes": peak.bytes_if_told(),
        }


def _stop_if_hopeless(limits: list[list[float]], losses: Losses, step: int, steps: int) -> None:
    """limits: [share of the run, nats per token], those that the run has not come to yet. Raises Hopeless above one."""
    while limits and step >= math.ceil(limits[0][0] * steps):
        share, nats = limits.pop(0)
        if (loss := losses.before(share, steps)) > nats:
            raise Hopeless(f"stopped after {share:.0%} of its run: training loss {loss:.4f} nats, above {nats:.4f}")


def device_named(name: str) -> torch.device:
    """auto is the first GPU, or the CPU where there is none. Raises ValueError for a device that is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if name == "cpu":
        return torch.device("cpu")
    if kind == "cuda" and (index.isdecimal() or name == "cuda"):
        if int(index or 0) < torch.cuda.device_count():
            return torch.device("cuda", int(index or 0))
        raise ValueError(f"device {name!r}: torch sees {torch.cuda.device_count()} GPUs here; choose another")
    raise ValueError(f"device {name!r} is unknown; choose auto, cpu, cuda or cuda:N")


def is_usable(device: str) -> bool:
    """False once a GPU has raised an error that stays with the process: every later run would fail too."""
    if not device.startswith("cuda"):
        return True
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


def _diverged(step: int, message: str) -> dict[str, Any]:
    return {"state": "failed", "failure": "diverged", "message": message, "failed_step": step}


def _too_short(seconds: float, spent: Spent) -> dict[str, Any]:
    message = (
        f"the budget of {seconds:g} s was spent after 1 step, which took {spent.seconds:.3g} s: too little to compare "
        "recipes by; raise the budget, or lower batch_size, seq_len or grad_accumulation"
    )
    return {"state": "failed", "failure": "error", "message": message}


def _failure(error: Exception) -> dict[str, Any]:
    if (refused := without_a_repeatable_form(error)) is not None:
        return {"state": "failed", "failure": "error", "message": refused}
    message = traceback.format_exception_only(error)[-1].strip().splitlines()[-1]
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in MEMORY_MESSAGES)
    )
    return {"state": "failed", "failure": "out_of_memory" if out_of_memory else "error", "message": message}


def _versions(backend: str) -> dict[str, str]:
    found = {"torch": torch.__version__, "python": platform.python_version()}
    for package in ("megatron-core", "transformer-engine") if backend == "megatron" else ():
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
