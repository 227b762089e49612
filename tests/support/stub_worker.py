"""A worker process that speaks the trainer's protocol but computes val_bpb from a formula, at once.

val_bpb = 2.8 + 0.08 * |log2(lr / 0.004)| + noise(seed, recipe) * STUB_NOISE. A recipe with beta1 below 0.6 diverges,
weight_decay 0.125 looks better by 0.16 but diverges in the runs that score the test text, 0.0625 is worse in them,
with n_layer 1 the process dies, with n_layer 2 it dies the first time only, with grad_clip 0.6875 it never
ends, with 0.625 it waits until it is cancelled.
Asked to stop above a loss, a run tells one that is twice as far from the default recipe's as its score.
A seq_len above the window that is scored besides gains 0.3, and loses 0.05 in that window.
Steps and tokens follow a budget in tokens; a token takes a million FLOPs a layer. beta2 0.8125 gains 0.3, 0.90625
gains 0.12 and 0.96875 gains 0.25; at a budget longer by n the first gains 0.3 / sqrt(n), the second 0.12 / n, and the
third diverges one step past the usual.
"""

import hashlib
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from trainer.protocol import RunRequest, RunResult, cancelled_run

USUAL_TOKENS, USUAL_STEPS = 200_000, 25
NOISE = float(os.environ.get("STUB_NOISE", "0.002"))
PIDS = os.environ.get("STUB_PIDS")
FULL = bool(os.environ.get("STUB_DISK_IS_FULL"))
OFFSET = float(os.environ.get("STUB_OFFSET", "0"))  # of all its scores, as on another class of device


def tell(**message: object) -> None:
    print(json.dumps(message), flush=True)


def unit(text: str) -> float:
    """A repeatable number, near normal with deviation 1."""
    digest = hashlib.sha256(text.encode()).digest()
    return (sum(digest) / len(digest) - 127.5) / 73.9 * math.sqrt(len(digest))


def wait_until_cancelled(run_id: str) -> None:
    if not any(cancelled_run(line) == run_id for line in sys.stdin):
        sys.exit()


def main() -> None:
    tell(event="ready", pid=os.getpid())
    for line in sys.stdin:
        if cancelled_run(line) is not None:
            continue  # it came too late
        request = RunRequest.read(line.strip())
        Path(request.result_path).with_name("pid").write_text(str(os.getpid()))
        if PIDS:  # where a run's folder is a node's own
            Path(PIDS, request.run_id).write_text(str(os.getpid()))
        tell(event="start", run_id=request.run_id)
        recipe = request.recipe
        if FULL:
            try:
                Path("/dev/full").write_text("its result")
            except OSError as error:
                tell(event="refused", message=f"the result cannot be written: {error}")
                continue
        marker = Path(request.result_path).with_name("died")
        if recipe["n_layer"] == 1 or (recipe["n_layer"] == 2 and not marker.exists()):
            marker.touch()
            print("stub: about to die", file=sys.stderr, flush=True)
            os._exit(7)
        if recipe["grad_clip"] == 0.6875:
            time.sleep(600)
        tell(event="progress", run_id=request.run_id, phase="train", step=1, steps=2, loss=3.0)
        noise = NOISE * unit(f"{request.seed} {json.dumps(recipe, sort_keys=True)}")
        val_bpb = 2.8 + 0.08 * abs(math.log2(recipe["lr"] / 0.004)) + noise + OFFSET
        lucky = recipe["weight_decay"] == 0.125
        val_bpb -= 0.16 * lucky
        if recipe["weight_decay"] == 0.0625:
            val_bpb += 0.02 if request.score_test else -0.16
        window = request.score_window or recipe["seq_len"]
        val_bpb -= 0.3 * (recipe["seq_len"] > window)
        longer = request.budget.get("tokens", USUAL_TOKENS) / USUAL_TOKENS
        late = recipe["beta2"] == 0.96875
        val_bpb -= {0.8125: 0.3 / math.sqrt(longer), 0.90625: 0.12 / longer, 0.96875: 0.25}.get(recipe["beta2"], 0.0)
        common: dict[str, Any] = {
            "run_id": request.run_id,
            "seed": request.seed,
            "tokens": round(USUAL_TOKENS * longer),
            "flops": 1e6 * recipe["n_layer"] * round(USUAL_TOKENS * longer),
            "steps": round(USUAL_STEPS * longer),
            "params": 1_000_000,
            "train_seconds": 1.0,
            "eval_seconds": 0.1,
            "total_seconds": 1.1,
            "cpu_seconds": 1.0,
            "tokens_per_second": 200_000.0,
            "peak_memory_bytes": 2**28,
            "curve": [[1, 7.6], [25, 5.0]],
            "device": "stub",
        }
        if recipe["grad_clip"] == 0.625:
            wait_until_cancelled(request.run_id)
            so_far = {"steps": 1, "curve": [[1, 7.6]], "message": "cancelled after step 1"}
            result = RunResult(**{**common, **so_far, "state": "cancelled"})
        elif any(7.6 + 2 * (val_bpb - 2.96) > nats for _, nats in request.stop_above[:1]):
            so_far = {"steps": 13, "curve": [[1, 7.6]], "message": "stopped after 50% of its run"}
            result = RunResult(**{**common, **so_far, "state": "stopped"})
        elif recipe["beta1"] < 0.6 or (lucky and request.score_test):
            result = RunResult(**common, state="failed", failure="diverged", message="loss is NaN", failed_step=9)
        elif late and longer > 1:
            step = USUAL_STEPS + 1
            result = RunResult(**common, state="failed", failure="diverged", message="loss is NaN", failed_step=step)
        else:
            # The test text says the opposite of the validation text: a decision that reads it goes wrong.
            test_bpb = 9.0 - val_bpb if request.score_test else None
            window_bpb = None if recipe["seq_len"] < window else val_bpb + 0.35 * (recipe["seq_len"] > window)
            scores = {"val_bpb": val_bpb, "test_bpb": test_bpb, "window_bpb": window_bpb}
            result = RunResult(**common, state="complete", **scores)
        result.write(request.result_path)
        tell(event="done", run_id=request.run_id, state=result.state, val_bpb=result.val_bpb)


if __name__ == "__main__":
    main()
