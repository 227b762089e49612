"""How well the fit rail predicts peak memory and training time, on real runs that it has not seen.

    python benchmarks/fit.py [--runs 60] [--json FILE]      # or --from FILE, to look at the same runs again

Recipes are drawn from the menu of cpu-nano-wide, every second one wider and deeper than that menu goes, and trained for
a few steps and scored, in turns, by one warm worker on one core. Then the runs are divided at random again and again:
half are held out, of the other half 0, 1, 4, 16, ... are known. A limit is laid at each held-out run's own size: what
the rail passes must fit.
"""

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from noise import serve

from autoresearch.study.preset import load_preset
from rails import Limits, Measurement, Menu, Value, predict, violations
from rails.fit import fit_fault
from trainer.data import prepare
from trainer.protocol import RunRequest, RunResult

STEPS = 3
BUDGET: dict[str, float] = {"steps": STEPS}
LARGER: dict[str, tuple[Value, ...]] = {
    "n_layer": (2, 3, 4, 6, 8, 10),
    "n_head": (4, 8),
    "d_model": (256, 384, 512),
    "d_ff": (512, 1024, 1536, 2048),
    "batch_size": (1, 2, 4, 8),
    "seq_len": (128, 256, 512, 1024),
}
MOST_TOKENS = 4096  # in one pass of a larger recipe, so that the whole takes minutes
KNOWN = (0, 1, 4, 16, 30)
DIVISIONS = 12


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
    options.add_argument("--runs", type=int, default=60, help="at least 20")
    options.add_argument("--json", type=Path, metavar="FILE", help="where to write every run")
    options.add_argument("--from", type=Path, metavar="FILE", dest="source", help="read the runs instead")
    chosen = options.parse_args()
    if chosen.source:
        runs = [Measurement(**run) for run in json.loads(chosen.source.read_text())]
    else:
        generator, menu = random.Random(0), load_preset("cpu-nano-wide").menu
        recipes = [draw(menu, generator, larger=bool(i % 2)) for i in range(max(20, chosen.runs))]
        with tempfile.TemporaryDirectory() as folder:
            runs = measure(recipes, Path(folder))
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")
    sizes = [run.peak_memory_bytes / 2**20 for run in runs]
    print(f"{len(runs)} runs of {min(sizes):,.0f} to {max(sizes):,.0f} MiB; errors: median, 90th percentile, worst")
    for name, part in (("of the menu", runs[::2]), ("larger", runs[1::2]), ("both", runs)):
        for count in KNOWN:
            if count <= len(part) // 2 + 1:
                print(f"{name:11} {count:2} known: {evaluate(part, count)}")


def evaluate(runs: list[Measurement], count: int) -> str:
    """Errors over all divisions, and what the rail passes."""
    memory: list[float] = []
    seconds: list[float] = []
    passed = over = 0
    for division in range(DIVISIONS):
        shuffled = random.Random(division).sample(runs, len(runs))
        known, held_out = shuffled[:count], shuffled[max(count, len(runs) // 2) :]
        limits = Limits(BUDGET, vocab_size=2048, measurements=known)
        for run in held_out:
            prediction = predict(run.recipe, limits)
            assert prediction is not None
            memory.append(abs(prediction.memory_bytes / run.peak_memory_bytes - 1))
            if prediction.seconds is not None:
                seconds.append(abs(prediction.seconds / run.train_seconds - 1))
            for other in held_out:
                if fit_fault(run.recipe, replace(limits, memory_bytes=other.peak_memory_bytes)) is None:
                    passed += 1
                    over += run.peak_memory_bytes > other.peak_memory_bytes
    time = f"time {_percentiles(seconds)}" if seconds else "time unknown"
    return f"memory {_percentiles(memory)}; {time}; {over} of {passed} passed at a limit were over it"


def _percentiles(errors: list[float]) -> str:
    cuts = statistics.quantiles(errors, n=10, method="inclusive")
    return f"{statistics.median(errors):.1%} {cuts[-1]:.1%} {max(errors):.1%}"


if __name__ == "__main__":
    main()
