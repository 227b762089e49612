"""A budget in seconds: one step is rehearsed and thrown away without a trace, then the clock starts."""

import gc
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from trainer.backends.torch_gpt import GPT
from trainer.protocol import RunRequest, RunResult
from trainer.run import execute

RequestFor = Callable[..., RunRequest]

# Its rate is the peak from the end of the warm-up to four fifths of the budget, so that it does not follow the clock.
LEVEL = {"schedule": "wsd", "lr_warmup": 3}


def losses_of(request: RunRequest) -> tuple[RunResult, list[float]]:
    """The result, and every step's training loss to the last bit."""
    losses: list[float] = []
    result = execute(request, lambda phase, step, steps, loss: losses.append(loss) if phase == "train" else None)
    return result, losses


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"dropout": 0.2, "optimizer": "muon", "ema_decay": 0.9, "grad_accumulation": 2},
        {"dropout": 0.2, "precision": "bf16", "qk_norm": True, "tied_embeddings": False, "random_tokens": True},
        {"dropout": 0.2, "backend": "megatron", "optimizer": "muon"},
    ],
)
def test_the_step_that_is_thrown_away_leaves_no_trace(request_for: RequestFor, knobs: dict[str, Any]) -> None:
    timed, of_seconds = losses_of(request_for(budget={"seconds": 0.6}, **LEVEL | knobs))
    whole, of_steps = losses_of(request_for(budget={"steps": 2 * len(of_seconds)}, **LEVEL | knobs))
    assert (timed.state, whole.state, timed.steps) == ("complete", "complete", len(of_seconds))
    level = len(of_seconds) // 2
    assert level > 3 and of_seconds[:level] == of_steps[:level]
    assert timed.first_step_seconds and timed.total_seconds and timed.first_step_seconds < timed.total_seconds


def test_what_is_rehearsed_is_no_part_of_training(request_for: RequestFor) -> None:
    counted: list[int] = []
    result = execute(request_for(budget={"seconds": 0.5}), lambda phase, step, *_: counted.append(step))
    assert result.steps and counted[: result.steps] == list(range(1, result.steps + 1))
    assert result.tokens == result.steps * 4 * 32


def test_the_rehearsed_model_is_gone_when_the_clock_starts(request_for: RequestFor) -> None:
    def models() -> int:
        return sum(type(thing) is GPT for thing in gc.get_objects())

    alive: list[int] = []
    gc.collect()
    before = models()

    def ended() -> bool:
        """Asked when the rehearsal is over."""
        alive.append(models())
        return True

    execute(request_for(budget={"seconds": 60.0}), lambda *_: None, ended)
    assert alive == [before]


def test_a_cancel_during_the_rehearsal_is_heard_after_it(request_for: RequestFor) -> None:
    result, losses = losses_of(request_for(budget={"steps": 3}))
    cut = execute(request_for(budget={"seconds": 60.0}), lambda *_: None, lambda: True)
    assert len(losses) == 3 and result.state == "complete"
    assert (cut.state, cut.message, cut.steps, cut.curve) == ("cancelled", "cancelled after step 0", 0, [])
    assert cut.train_seconds is not None and cut.total_seconds is not None
    assert cut.train_seconds < cut.total_seconds < 60


@pytest.mark.parametrize("seconds", [1e-9, 1e-4])
def test_a_budget_that_the_first_step_eats_is_a_failure_and_no_score(request_for: RequestFor, seconds: float) -> None:
    result = execute(request_for(budget={"seconds": seconds}), lambda *_: None)
    assert (result.state, result.failure, result.steps) == ("failed", "error", 1)
    assert (result.val_bpb, result.test_bpb) == (None, None)
    assert re.fullmatch(
        rf"the budget of {seconds:g} s was spent after 1 step, which took \S+ s: too little to compare recipes by; "
        "raise the budget, or lower batch_size, seq_len or grad_accumulation",
        result.message,
    )


def test_a_first_step_that_diverges_is_still_called_so(request_for: RequestFor) -> None:
    result = execute(request_for(budget={"seconds": 1e-9}, init_std=1e30), lambda *_: None)
    assert (result.failure, result.failed_step) == ("diverged", 1)


PROGRAM = """
import json, sys
from torch._dynamo.utils import counters
from trainer.protocol import RunRequest
from trainer.run import execute

losses, graphs = [], []

def note(phase, step, steps, loss):
    if phase == "train":
        losses.append(loss)

def is_cancelled():
    if len(graphs) <= 3:  # at first after the rehearsal, then after steps
        graphs.append(counters["stats"]["unique_graphs"])
    return False

requests = [RunRequest(**fields) for fields in json.loads(sys.argv[1])]
states = [execute(requests[0], note, is_cancelled).state]
seconds, losses = losses, []
states.append(execute(requests[1], note).state)
print(json.dumps({"states": states, "graphs": graphs, "seconds": seconds, "steps": losses}))
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_the_rehearsal_compiles_all_that_training_needs(request_for: RequestFor, tmp_path: Path) -> None:
    knobs = {"compile": True, "score": False, "dropout": 0.1, **LEVEL}
    requests = [request_for(budget=budget, **knobs) for budget in ({"seconds": 1.0}, {"steps": 40})]
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, json.dumps([asdict(request) for request in requests])]
    found = json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert found["states"] == ["complete", "complete"]
    after_rehearsal, *after_steps = found["graphs"]
    assert after_rehearsal > 0 and set(after_steps) == {after_rehearsal}
    level = min(len(found["seconds"]) // 2, 20)
    assert level > 3 and found["seconds"][:level] == found["steps"][:level]
