"""A worker that speaks the trainer's protocol and sleeps; for benchmarks/fleet.py: sleeper.py SECONDS.

A run takes the seconds within a tenth, by its recipe and seed; its score follows the learning rate, with some luck.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time

from trainer.protocol import RunRequest, RunResult, cancelled_run

SCATTER = 0.1  # of a run's length, either way


def tell(**message: object) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    seconds = float(sys.argv[1])
    tell(event="ready", pid=os.getpid())
    for line in sys.stdin:
        if cancelled_run(line) is not None:
            continue
        request = RunRequest.read(line.strip())
        tell(event="start", run_id=request.run_id)
        tell(event="progress", run_id=request.run_id, phase="train", step=1, steps=25, loss=7.0)
        own = random.Random(f"{request.seed}/{json.dumps(request.recipe, sort_keys=True)}")
        took = seconds * own.uniform(1 - SCATTER, 1 + SCATTER)
        time.sleep(took)
        val_bpb = 2.8 + 0.08 * abs(math.log2(request.recipe["lr"] / 0.004)) + 0.01 * own.gauss()
        result = RunResult(
            request.run_id, request.seed, "complete", val_bpb=val_bpb, tokens=200_000, steps=25, params=1_000_000,
            train_seconds=took, eval_seconds=0.0, total_seconds=took, cpu_seconds=0.0, peak_memory_bytes=2**28,
            test_bpb=val_bpb if request.score_test else None, curve=[[1, 7.6], [25, 5.0]], device="sleeper",
        )  # fmt: skip
        result.write(request.result_path)
        tell(event="done", run_id=request.run_id, state=result.state, val_bpb=result.val_bpb)


if __name__ == "__main__":
    main()
