"""How far one recipe's val_bpb moves from seed to seed, how fast a run is, and how much sharing seeds helps.

    python benchmarks/noise.py [--seeds 8] [--precision bf16] [--workers 1] [--variant d_ff=1024]

Trains the cpu-nano preset's recipe and one variant of it on the same seeds, on the preset's text and budget.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from autoresearch.study.preset import load_preset
from trainer.data import prepare
from trainer.protocol import RunRequest, RunResult
from trainer.recipe import Recipe


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=8, help="at least 3 (default 8)")
    options.add_argument("--precision", help="bf16 or fp32 (default: the preset's)")
    options.add_argument("--workers", type=int, default=1, help="runs at once, one thread each")
    options.add_argument("--variant", default="d_ff=1024", metavar="KNOB=VALUE")
    chosen = options.parse_args()
    if chosen.seeds < 3:
        options.error("--seeds: a deviation needs at least 3")
    knob, _, value = chosen.variant.partition("=")
    preset = load_preset("cpu-nano")
    base = preset.recipe
    if chosen.precision:
        base["precision"] = chosen.precision
    try:
        variant = base | {knob: json.loads(value)}
        Recipe.from_mapping(variant)
    except ValueError as error:
        options.error(f"--variant {chosen.variant}: {error}")

    with tempfile.TemporaryDirectory() as folder:
        text = preset.settings.data.model_dump()
        data_dir = prepare(text.pop("source"), Path(folder), **text)
        requests = [
            RunRequest(
                f"{name}-{seed}",
                recipe,
                seed,
                preset.settings.whole_budget,
                str(data_dir),
                f"{folder}/{name}-{seed}.json",
                device="cpu",
            )
            for name, recipe in (("base", base), ("variant", variant))
            for seed in range(chosen.seeds)
        ]
        results = _run_all(requests, Path(folder), chosen.workers)

    base_bpb = [_score(result) for result in results[: chosen.seeds]]
    variant_bpb = [_score(result) for result in results[chosen.seeds :]]
    print(f"cpu-nano, {base['precision']}, {chosen.seeds} seeds, {chosen.workers} at once")
    _print_spread("val_bpb", base_bpb, "bits per byte")
    _print_spread("run", [float(result.total_seconds or 0) for result in results[: chosen.seeds]], "s")
    _print_spread("speed", [float(result.tokens_per_second or 0) for result in results[: chosen.seeds]], "tokens/s")
    print(f"with {chosen.variant}:")
    _print_spread("val_bpb", variant_bpb, "bits per byte")
    _print_spread("same-seed difference", [b - a for a, b in zip(base_bpb, variant_bpb, strict=True)], "bits per byte")
    print(f"  same-seed correlation {statistics.correlation(base_bpb, variant_bpb):.2f}")


def _run_all(requests: list[RunRequest], folder: Path, workers: int) -> list[RunResult]:
    """Every request's result, in order; the requests are dealt out among warm workers."""
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda first: serve(requests[first::workers], folder), range(workers)))
    return [RunResult.read(request.result_path) for request in requests]


def serve(requests: list[RunRequest], folder: Path) -> None:
    """One warm worker that does one request after the other; the results are where the requests say."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "trainer.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdin is not None and worker.stdout is not None
    for request in requests:
        path = folder / f"{request.run_id}.request.json"
        request.write(path)
        worker.stdin.write(f"{path}\n")
    worker.stdin.flush()
    left = len(requests)
    for line in worker.stdout:
        left -= json.loads(line)["event"] in ("done", "refused")
        if left == 0:
            break
    worker.stdin.close()
    worker.wait()


def _score(result: RunResult) -> float:
    if result.val_bpb is None:
        sys.exit(f"{result.run_id}: {result.failure}: {result.message}")
    return result.val_bpb


def _print_spread(name: str, values: list[float], unit: str) -> None:
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    share = f" ({deviation / mean:.2%})" if min(values) > 0 else ""  # of a difference, it would mean nothing
    print(
        f"  {name}: mean {mean:,.4f} {unit}, deviation {deviation:,.4f}{share}, "
        f"median {statistics.median(values):,.4f}, from {min(values):,.4f} to {max(values):,.4f}"
    )


if __name__ == "__main__":
    main()
