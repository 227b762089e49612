"""Gate latency by outcome, in microseconds: `python benchmarks/gate_latency.py [--repeats 2000]` (git not included)."""

import argparse
import json
import random
import statistics
import time
from dataclasses import replace

from autoresearch.study.preset import load_preset
from rails import RAILS, Limits, Measurement, Menu, Value, gate, recipe_key, violations

TRIED = 2_000
MEASUREMENTS = 200
BUDGET = {"tokens": 200_000}


def sample(menu: Menu, rng: random.Random) -> dict[str, Value]:
    """A recipe drawn from the menu that meets its constraints."""
    while True:
        recipe: dict[str, Value] = {}
        for knob in menu.knobs.values():
            if knob.choices:
                recipe[knob.name] = rng.choice(knob.choices)
            elif knob.type == "int":
                recipe[knob.name] = rng.randint(int(knob.low or 0), int(knob.high or 0))
            else:
                recipe[knob.name] = rng.uniform(float(knob.low or 0), float(knob.high or 0))
        if not violations(recipe, menu, Limits(budget=BUDGET)):
            return recipe


def propose(knob: str, value: object) -> str:
    """A proposal as a model would send it."""
    return json.dumps({"knob": knob, "new_value": value, "reason": "A longer reason, as a model gives it. " * 6})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2_000, help="calls per class")
    parser.add_argument("--preset", default="cpu-nano", help="whose menu and recipe; cpu-nano-wide has 29 knobs")
    arguments = parser.parse_args()
    repeats, preset = arguments.repeats, load_preset(arguments.preset)
    menu, recipe = replace(preset.menu, max_compute_ratio=1.5), preset.recipe
    rng = random.Random(0)
    tried = {recipe_key(sample(menu, rng)): f"trial {n} (discard, val_bpb 2.81)" for n in range(TRIED - 1)}
    tried[recipe_key({**recipe, "lr": 0.002})] = "trial 7 (discard, val_bpb 2.81)"
    runs = [Measurement(sample(menu, rng), rng.randint(6, 9) * 10**8, 12.0, 200_000) for _ in range(MEASUREMENTS)]
    limits = Limits(BUDGET, 8 * 2**30, 600.0, 2048, ("bf16",), runs)
    proposals = {
        "passed": propose("lr", 0.0015),
        "schema": propose("lr", 0.0015) + " and so on",
        "menu": propose("learning_rate", 0.0015),
        "range": propose("lr", 3.0),
        "cross": propose("lr_warmup", 80),
        "diff": propose("lr", 0.0015),
        "novelty": propose("lr", 0.002),
        "compute": propose("n_layer", menu.knobs["n_layer"].high),
        "fit": propose("precision", "fp32"),
    }
    # A smaller budget leaves too few steps after a long warmup; a foreign diff is what the diff rail is there for.
    short = Limits({"tokens": 165_000}, 8 * 2**30, 600.0, 2048, ("bf16",), runs)
    print(f"{preset.name}, {len(tried)} tried recipes, {len(runs)} measurements, {repeats} calls each, no git")
    print(f"{'outcome':<10}{'median µs':>12}{'p95 µs':>12}")
    for outcome in ("passed", *RAILS):
        raw, given = proposals[outcome], short if outcome == "cross" else limits
        diff = (lambda _: "diff --git a/menu.toml b/menu.toml\n") if outcome == "diff" else None
        times = []
        for _ in range(repeats):
            start = time.perf_counter_ns()
            verdict = gate(raw, recipe, menu, tried, given, diff=diff)
            times.append((time.perf_counter_ns() - start) / 1_000)
            assert verdict.passed == (outcome == "passed") and verdict.rail in (None, outcome), verdict
        print(f"{outcome:<10}{statistics.median(times):>12.1f}{statistics.quantiles(times, n=20)[-1]:>12.1f}")


if __name__ == "__main__":
    main()
