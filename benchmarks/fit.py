"""How well the fit rail predicts peak memory and training time, on real runs that it has not seen.

    python benchmarks/fit.py [--runs 60] [--held-out 30] [--seed 0] [--json FILE]

Recipes are drawn from the menu of cpu-nano-wide, every second one wider and deeper than that menu goes, and trained for
a few steps and scored, in turns, by one warm worker on one core. With the first 0, 1, 4, 16, ... of them known, the
held-out rest is predicted. A limit is then laid at each held-out run's own size: what the rail passes must fit.
"""

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from noise import serve

from autoresearch.preset import load_preset
from rails import Limits, Measurement, Menu, Value, predict, violations
from rails.fit import fit_fault
from trainer.data import prepare
from trainer.protocol import RunRequest, RunResult

STEPS = 3
BUDGET = {"steps": STEPS}
LARGER: dict[str, tuple[Value, ...]] = {
    "n_layer": (2, 3, 4, 6, 8, 10),
    "n_head": (4, 8),
    "d_model": (256, 384, 512),
    "d_ff": (512, 1024, 1536, 2048),
    "batch_size": (1, 2, 4, 8),
    "seq_len": (128, 256, 512, 1024),
}
MOST_TOKENS = 4096  # in one pass of a larger recipe, so that the whole takes minutes
KNOWN = (0, 1, 4, 16)


def draw(menu: Menu, generator: random.Random, larger: bool) -> dict[str, Value]:
    """A recipe with every knob at random."""
    while True:
        recipe: dict[str, Value] = {}
        for knob in menu.knobs.values():
            if larger and knob.name in LARGER:
                recipe[knob.name] = generator.choice(LARGER[knob.name])
            elif knob.choices:
                recipe[knob.name] = generator.choice(knob.choices)
            else:
                recipe[knob.name] = knob.default
        recipe |= {"dropout": generator.choice((0.0, 0.1)), "logit_softcap": generator.choice((0.0, 30.0))}
        recipe |= {"lr_warmup": 0, "grad_accumulation": generator.choice((1, 1, 2))}
        if larger and int(recipe["batch_size"]) * int(recipe["seq_len"]) > MOST_TOKENS:
            continue
        if not violations(recipe, menu, Limits({"steps": 100})):
            return recipe


def measure(recipes: Sequence[dict[str, Value]], folder: Path) -> list[Measurement]:
    """Every recipe trained once, in order; one that fails is said and left out."""
    data_dir = prepare("stdlib", folder, vocab_size=2048, val_bytes=32_768, test_bytes=32_768)
    requests = [
        RunRequest(f"run-{i}", recipe, 0, BUDGET, str(data_dir), str(folder / f"run-{i}.json"), device="cpu")
        for i, recipe in enumerate(recipes)
    ]
    serve(requests, folder)
    found = []
    for request in requests:
        result = RunResult.read(request.result_path)
        if result.state != "complete":
            print(f"{request.run_id}: {result.failure}: {result.message}")
            continue
        assert result.peak_memory_bytes and result.train_seconds and result.tokens
        found.append(Measurement(request.recipe, result.peak_memory_bytes, result.train_seconds, result.tokens))
    return found


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=60)
    options.add_argument("--held-out", type=int, default=30, help="of the runs, the last ones")
    options.add_argument("--seed", type=int, default=0, help="of the draw")
    options.add_argument("--json", type=Path, metavar="FILE", help="every run")
    chosen = options.parse_args()
    if not 0 < chosen.held_out < chosen.runs:
        options.error("--held-out: above 0 and below --runs")
    generator, menu = random.Random(chosen.seed), load_preset("cpu-nano-wide").menu
    recipes = [draw(menu, generator, larger=bool(i % 2)) for i in range(chosen.runs)]
    with tempfile.TemporaryDirectory() as folder:
        runs = measure(recipes, Path(folder))
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")
    known, held_out = runs[: -chosen.held_out], runs[-chosen.held_out :]
    sizes = [run.peak_memory_bytes / 2**20 for run in held_out]
    print(f"{len(held_out)} held-out runs of {min(sizes):,.0f} to {max(sizes):,.0f} MiB; errors: median, 90th, worst")
    for count in sorted({*KNOWN, len(known)}):
        if count > len(known):
            continue
        limits = Limits(BUDGET, vocab_size=2048, measurements=known[:count])
        memory, seconds, passed, died = [], [], 0, 0
        for run in held_out:
            prediction = predict(run.recipe, limits)
            assert prediction is not None
            memory.append(abs(prediction.memory_bytes / run.peak_memory_bytes - 1))
            if prediction.seconds is not None:
                seconds.append(abs(prediction.seconds / run.train_seconds - 1))
            for limit in (other.peak_memory_bytes for other in held_out):
                tight = Limits(BUDGET, limit, vocab_size=2048, measurements=known[:count])
                if fit_fault(run.recipe, tight) is None:
                    passed += 1
                    died += run.peak_memory_bytes > limit
        time = f"time {_percentiles(seconds)}" if seconds else "time unknown"
        print(
            f"{count:3} known: memory {_percentiles(memory)}; {time}; {died} of {passed} passed at a limit were over it"
        )


def _percentiles(errors: list[float]) -> str:
    cuts = statistics.quantiles(errors, n=10, method="inclusive")
    return f"{statistics.median(errors):5.1%} {cuts[-1]:5.1%} {max(errors):5.1%}"


if __name__ == "__main__":
    main()
