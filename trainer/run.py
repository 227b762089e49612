"""One run: a request in, a result out, whatever happens in between."""

import gc
import importlib.metadata
import math
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch

from trainer.backends import Model, backend_named
from trainer.batches import on_device, random_batches
from trainer.data.dataset import Dataset
from trainer.flops import flops_per_token, peak_flops
from trainer.memory import MemoryPeak, keep_freed_memory, limit_memory, release_memory, return_freed_memory
from trainer.metric import bits_per_byte, nats_per_token
from trainer.parallel import Cost, Processes, of_first
from trainer.protocol import RunRequest, RunResult
from trainer.recipe import Recipe
from trainer.repeatable import repeatable, without_a_repeatable_form
from trainer.schedule import Schedule
from trainer.step_clock import StepClock
from trainer.training import Losses, Spent, train

# What memory running out looks like when it is not torch.OutOfMemoryError or MemoryError.
MEMORY_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "ALLOC_FAILED")

Report = Callable[[str, int, int, float], None]


class Cancelled(Exception):
    """Nobody wants the run any more."""


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
        return _train_and_score(request, recipe, processes, device, report, is_cancelled, facts, started)


def _train_and_score(
    request: RunRequest,
    recipe: Recipe,
    processes: Processes,
    device: torch.device,
    report: Report,
    is_cancelled: Callable[[], bool],
    facts: dict[str, Any],
    started: float,
) -> dict[str, Any]:
    dataset = Dataset.open(request.data_dir)
    batches = _batches(request, recipe, dataset, device, processes)

    losses, clock = Losses(), StepClock(device)
    val_curve: list[list[float]] = []
    peak = MemoryPeak(device)

    def watch(phase: str, step: int, steps: int, loss: float) -> None:
        peak.sample()
        report(phase, step, steps, loss)
        # Here all processes are at the same step, with every loss so far read.
        if of_first(is_cancelled()):
            raise Cancelled

    def begin() -> Model:
        """The model and the random numbers that every run of this request begins with, whatever ran before."""
        torch.manual_seed(request.seed + processes.data_rank)
        model = backend_named(request.backend).build(
            recipe, dataset.manifest.vocab_size, device, request.seed, processes
        )
        if request.compile:
            model.compile_blocks()
        return model

    try:
        if "seconds" in request.budget:
            # Only for these: a budget in steps or tokens buys the same training however long its first step takes.
            _rehearse(begin(), recipe, batches, device, processes)
            batches, ready = _batches(request, recipe, dataset, device, processes), time.perf_counter()
            peak.sample()
            if of_first(is_cancelled()):
                raise Cancelled
        model = begin()
        facts["params"] = processes.count(list(model.parameters()))
        facts["flops_per_token"] = flops_per_token(model, recipe)
        schedule = Schedule.of(request.budget, recipe, facts["flops_per_token"])
        nats_of = processes.scoring(model)

        def look(steps: int) -> None:
            nats = nats_per_token(nats_of, dataset.val, dataset.manifest.endoftext, recipe.seq_len, device)
            if math.isfinite(nats):
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
        splits = ("val", "test") if request.score_test else ("val",) if request.score else ()
        return_freed_memory()  # or what training has freed would count on top of what scoring takes
        model.train(False)
        score = partial(_score, nats_of, dataset, device, losses, watch)
        scores = {f"{split}_bpb": score(split, split, recipe.seq_len) for split in splits}
        window_bpb = _in_windows(
            request.score_window, recipe.seq_len, scores.get("val_bpb"), partial(score, "window", "val")
        )
        facts["eval_seconds"] = time.perf_counter() - eval_started
        if not all(map(math.isfinite, scores.values())):
            message = f"diverged by step {spent.steps}: the trained model's scores are not finite"
            return _diverged(spent.steps, message)
        return {"state": "complete", **scores, "window_bpb": window_bpb}
    except Cancelled:
        facts.setdefault("train_seconds", time.perf_counter() - ready)
        return {"state": "cancelled", "message": f"cancelled after step {len(losses.values)}"}
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


def _rehearse(
    model: Model, recipe: Recipe, batches: Iterator[torch.Tensor], device: torch.device, processes: Processes
) -> None:
    """One whole step of the run, thrown away with its model, optimizer and averaged weights.

    What it loads, compiles and allocates stays with the process. So a budget in seconds pays for training alone, and
    buys as much with a cold cache of compiled code as with a warm one. Nothing need be put back: the run begins anew.
    """
    one_step = Schedule.of({"steps": 1}, recipe)
    train(model, recipe, one_step, batches, device, Losses(), StepClock(device), lambda *_: None, processes)
    del model
    gc.collect()  # gradients' hooks make circles; freed memory stays torch's, for the run to take


def _batches(
    request: RunRequest, recipe: Recipe, dataset: Dataset, device: torch.device, processes: Processes
) -> Iterator[torch.Tensor]:
    if request.random_tokens:
        batches = random_batches(recipe, dataset.manifest.vocab_size, device, request.seed)
        return processes.rows(batches, recipe.batch_size)
    windows = dataset.windows(request.seed, recipe.batch_size, recipe.seq_len)
    return on_device(processes.rows(windows, recipe.batch_size), device)


def _score(
    nats_of: Cost,
    dataset: Dataset,
    device: torch.device,
    losses: Losses,
    report: Report,
    phase: str,
    split: str,
    window: int,
) -> float:
    return bits_per_byte(
        nats_of,
        getattr(dataset, split),
        dataset.manifest.splits[split].bytes,
        dataset.manifest.endoftext,
        window,
        device,
        report=lambda done, windows: report(phase, done, windows, losses.values[-1]),
    )


def _in_windows(window: int | None, seq_len: int, val_bpb: float | None, score: Callable[[int], float]) -> float | None:
    """The validation text's bits per byte in windows of so many tokens; `score` makes a pass, at most once.

    None beyond seq_len: learned positions end there, and with rope, which does not, such a score would say how the
    model extrapolates to distances that it never saw, not how good the recipe is. Nor is a score that is no number a
    failure: the run is judged by val_bpb.
    """
    if window is None or val_bpb is None or window > seq_len:
        return None
    if window == seq_len or not math.isfinite(val_bpb):
        return val_bpb
    found = score(window)
    return found if math.isfinite(found) else None


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
