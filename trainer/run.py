"""One run: a request in, a result out, whatever happens in between."""

import gc
import math
import platform
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch

from trainer.backends import Model, backend_named
from trainer.data.dataset import Dataset
from trainer.memory import MemoryPeak
from trainer.metric import bits_per_byte
from trainer.protocol import RunRequest, RunResult
from trainer.recipe import Recipe
from trainer.schedule import Schedule
from trainer.training import Losses, train

# What memory running out looks like when it is not torch.OutOfMemoryError or MemoryError.
MEMORY_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "ALLOC_FAILED")

Report = Callable[[str, int, int, float], None]


def execute(request: RunRequest, report: Report) -> RunResult:
    """Trains and scores one request; a failure of any kind is a result too.

    report: called with phase (train, val, test), steps done, steps in all, latest training loss.
    """
    started_at, started, cpu_started = _now(), time.perf_counter(), time.process_time()
    facts: dict[str, Any] = {}
    try:
        outcome = _train_and_score(request, report, facts)
    except Exception as error:
        # The user's slip needs its one line; anything else needs the place as well.
        traceback.print_exc(file=sys.stderr)
        outcome = _failure(error)
    # The failed run's tensors hang on its traceback, which is gone only here.
    _release_memory()
    return RunResult(
        run_id=request.run_id,
        seed=request.seed,
        **outcome,
        **facts,
        total_seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu_started,
        started_at=started_at,
        finished_at=_now(),
        versions={"torch": torch.__version__, "python": platform.python_version()},
    )


def _train_and_score(request: RunRequest, report: Report, facts: dict[str, Any]) -> dict[str, Any]:
    """The outcome; what is known of the run by the way goes into `facts`, so that it outlives a failure."""
    recipe = Recipe.from_mapping(request.recipe)
    device = device_named(request.device)
    facts["device"] = str(device)
    _make_repeatable(device, request.seed)
    dataset = Dataset.open(request.data_dir)
    tokens_per_step = recipe.batch_size * recipe.seq_len
    batches = dataset.windows(request.seed, recipe.batch_size, recipe.seq_len)
    schedule = Schedule.of(request.budget, recipe.lr, recipe.lr_warmup, tokens_per_step)

    losses = Losses()
    peak = MemoryPeak(device)

    def watch(phase: str, step: int, steps: int, loss: float) -> None:
        peak.sample()
        report(phase, step, steps, loss)

    try:
        model = backend_named(request.backend).build(recipe, dataset.manifest.vocab_size, device, request.seed)
        facts["params"] = sum(parameter.numel() for parameter in model.parameters())
        seconds = train(model, recipe, schedule, batches, device, losses, partial(watch, "train"))
        steps = len(losses.values)
        facts |= {"train_seconds": seconds, "tokens_per_second": steps * tokens_per_step / seconds}
        if (step := losses.diverged_at) is not None:
            change = f"{losses.values[0]:.4g} nats at first, {losses.values[step - 1]:.4g} then"
            return _diverged(step, f"diverged at step {step}: training loss {change}")

        eval_started = time.perf_counter()
        splits = ("val", "test") if request.score_test else ("val",)
        scores = {f"{split}_bpb": _score(model, dataset, split, recipe, device, losses, watch) for split in splits}
        facts["eval_seconds"] = time.perf_counter() - eval_started
        if not all(map(math.isfinite, scores.values())):
            return _diverged(steps, f"diverged by step {steps}: the trained model's scores are not finite")
        return {"state": "complete", **scores}
    finally:
        facts |= {
            "steps": len(losses.values),
            "tokens": len(losses.values) * tokens_per_step,
            "curve": losses.curve(),
            "peak_memory_bytes": peak.bytes(),
        }


def _score(
    model: Model, dataset: Dataset, split: str, recipe: Recipe, device: torch.device, losses: Losses, report: Report
) -> float:
    model.train(False)
    return bits_per_byte(
        model,
        getattr(dataset, split),
        dataset.manifest.splits[split].bytes,
        dataset.manifest.endoftext,
        recipe.seq_len,
        device,
        report=lambda done, windows: report(split, done, windows, losses.values[-1]),
    )


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


def _make_repeatable(device: torch.device, seed: int) -> None:
    torch.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # Costs a few percent (attention's backward pass, embedding gradients); without it one seed gives
        # another number each time. Operations that have no repeatable form only warn.
        torch.use_deterministic_algorithms(True, warn_only=True)
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  not in its type stubs


def _release_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _diverged(step: int, message: str) -> dict[str, Any]:
    return {"state": "failed", "failure": "diverged", "message": message, "failed_step": step}


def _failure(error: Exception) -> dict[str, Any]:
    message = traceback.format_exception_only(error)[-1].strip().splitlines()[-1]
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in MEMORY_MESSAGES)
    )
    return {"state": "failed", "failure": "out_of_memory" if out_of_memory else "error", "message": message}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
