"""Speed and memory of our trainer beside Hugging Face's GPT-2 and a plain eager loop, all training the same model.

    python benchmarks/trainer_speed.py [--preset cpu-nano] [--precision bf16] [--steps 40] [--rounds 5] [--json FILE]
    python benchmarks/trainer_speed.py --preset gpt-354m --source stdlib --compile      # on a GPU, without a network

`torch` and `megatron` are our backends, run as a study runs them. `huggingface` is transformers' GPT2LMHeadModel (extra
`distill`; left out where that is not installed) and `plain` a GPT-2 written by hand (reference_models.py), both in the
usual eager loop with autocast and fused AdamW; `huggingface-padded` and `plain-padded` have their head's width padded
to a round number. With `--repeatable yes` all must repeat to the last bit (torch's deterministic algorithms, strict),
with `no` none: by default a GPU measures all of these, a CPU, where both cost next to nothing, neither. Beyond torch,
numpy and tokenizers nothing is needed. A step is forward, backward, clipping and optimizer; the first ones are not
timed. Every run has a fresh process, with one CPU thread. A round runs each contestant once, every other round in
reverse, and ratios are taken within a round. On a CPU they are taken of processor time too, which a busy neighbour
stretches less. Peak memory is what torch allocated on a GPU, and the whole resident process on a CPU, libraries
included.

All start from the same weights and read the same batches, so their losses may differ by rounding only. How much that
is, the same invocation measures: `plain` against itself with every initial weight moved at random by up to one rounding
error of the precision. A contestant whose curve is farther from `plain`'s than TOLERANCE times the farthest of those
trains something else: the comparison is then void, and the exit status 1. Over 40 steps of cpu-nano this finds, in
fp32, a GELU by its tanh approximation; in bf16 a learning rate that is off by 1 %. Curves of other seeds are 0.1 nats
away and would hide both.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch
from reference_models import REFERENCES, train_reference

from rails import load_menu
from trainer.backends.torch_gpt import TorchBackend
from trainer.batches import on_device
from trainer.data import prepare
from trainer.data.dataset import Dataset
from trainer.flops import flops_per_token, peak_flops
from trainer.memory import MemoryPeak
from trainer.protocol import RunRequest
from trainer.recipe import Recipe
from trainer.repeatable import repeatable
from trainer.run import device_named, execute
from trainer.schedule import Schedule
from trainer.training import STEPS_BETWEEN_READINGS, Losses
from trainer.worker import ENVIRONMENT

PRESETS = Path(__file__).resolve().parents[1] / "autoresearch" / "presets"

OURS = ("torch", "megatron")
CONTESTANTS = (*OURS, *REFERENCES)

UNTIMED_STEPS = 8
PERTURBED_RUNS = 3
TOLERANCE = 4
RESOLUTION_NATS = 1e-6  # of a loss near 8 in float32, and of the curve that a run reports
WISHES = {"no": (False,), "yes": (True,), "both": (False, True)}
ROUNDING = {"bf16": torch.finfo(torch.bfloat16).eps / 2, "fp32": torch.finfo(torch.float32).eps / 2}


@dataclass(frozen=True)
class Measurement:
    """One run of one contestant."""

    contestant: str
    repeatable: bool
    tokens_per_second: float
    tokens_per_processor_second: float  # of this process, all threads
    peak_memory_bytes: int
    curve: list[list[float]]  # [step, training loss in nats per token]
    flops_per_token: int
    peak_flops: float
    peak_flops_source: str
    device: str  # the GPU's name, or cpu

    def distance(self, other: "Measurement") -> float:
        """The most that two loss curves are apart, in nats; infinite where a point of one is no number."""
        if [step for step, _ in self.curve] != [step for step, _ in other.curve]:
            return float("inf")
        return max(abs(a - b) for (_, a), (_, b) in zip(self.curve, other.curve, strict=True))

    @property
    def row(self) -> str:
        return self.contestant + ", repeatable" * self.repeatable


@dataclass(frozen=True)
class Comparison:
    """Every run of some rounds, each a run of every row; and how far from equal two curves may be."""

    yardstick: Measurement
    noise_nats: list[float]
    rounds: list[dict[str, Measurement]]  # by row

    @property
    def tolerance_nats(self) -> float:
        return TOLERANCE * max(RESOLUTION_NATS, *self.noise_nats)

    @property
    def peak_flops(self) -> Measurement:
        """The run that saw the highest. Where it is measured, a neighbour on the machine can only make it too low."""
        return max((run for r in self.rounds for run in r.values()), key=lambda run: run.peak_flops)

    def rows(self) -> list[dict[str, Any]]:
        """For each contestant, repeatable or not, its figures in every round, ready for JSON; speeds and the like as
        lists."""
        return [
            {
                "contestant": runs[0].contestant,
                "repeatable": runs[0].repeatable,
                "tokens_per_second": [run.tokens_per_second for run in runs],
                "peak_memory_bytes": [run.peak_memory_bytes for run in runs],
                "mfu": [run.flops_per_token * run.tokens_per_second / self.peak_flops.peak_flops for run in runs],
                "loss": statistics.median(run.curve[-1][1] for run in runs),
                "nats_apart": max(run.distance(self.yardstick) for run in runs),
                "is_equal": all(run.distance(self.yardstick) <= self.tolerance_nats < math.inf for run in runs),
            }
            for runs in ([r[row] for r in self.rounds] for row in self.rounds[0])
        ]

    def ratios(self) -> dict[str, list[float]]:
        """Of ours to each reference that repeats as it does, speed over speed, one for each round."""
        ratios = {}
        for ours, theirs in product(self.rounds[0].values(), repeat=2):
            is_wanted = ours.contestant in OURS and theirs.contestant in REFERENCES
            if is_wanted and ours.repeatable == theirs.repeatable:
                pairs = [(r[ours.row], r[theirs.row]) for r in self.rounds]
                name = f"{ours.row} / {theirs.row}"
                ratios[name] = [a.tokens_per_second / b.tokens_per_second for a, b in pairs]
                if ours.device == "cpu":
                    ratios[f"{name}, processor time"] = [
                        a.tokens_per_processor_second / b.tokens_per_processor_second for a, b in pairs
                    ]
        return ratios


def main() -> None:
    chosen = _options()
    recipe = load_menu((PRESETS / chosen.preset / "menu.toml").read_text("utf-8"), chosen.preset).defaults()
    recipe["precision"] = chosen.precision or recipe["precision"]
    with tempfile.TemporaryDirectory() as folder:
        text = tomllib.loads((PRESETS / chosen.preset / "study.toml").read_text("utf-8"))["data"]
        source = text.pop("source")
        request = RunRequest(
            "benchmark",
            recipe,
            seed=0,
            budget={"steps": chosen.steps},
            data_dir=str(prepare(chosen.source or source, Path(folder), **text)),
            result_path="",
            device=chosen.device,
            score=False,
            compile=chosen.compile,
        )
        found = compare(request, chosen.contestants, chosen.repeatable, chosen.rounds)

    tokens = Recipe.from_mapping(recipe).tokens_per_step
    print(
        f"{chosen.preset}, {recipe['precision']}{', torch compiled' * chosen.compile}, {found.yardstick.device}, "
        f"torch {torch.__version__}: {chosen.steps} steps of {tokens:,} tokens, the first {UNTIMED_STEPS} not timed, "
        f"rounds: {chosen.rounds}; median (min to max)"
    )
    _print_table(found)
    peak = found.peak_flops
    print(
        f"MFU: {peak.flops_per_token / 1e6:,.2f} MFLOP a token (6 per weight that multiplies, and attention's products "
        f"unmasked), peak {peak.peak_flops / 1e12:,.3g} TFLOP/s ({peak.peak_flops_source})"
    )
    for pair, values in found.ratios().items():
        print(f"{pair}: {_spread(values, '.2f')}")
    apart = [_row_name(row) for row in found.rows() if not row["is_equal"]]
    print(
        f"loss curves: {'not equal' if apart else 'equal'} within {found.tolerance_nats:.1e} nats, {TOLERANCE} times "
        f"what rounding the initial weights does in {PERTURBED_RUNS} runs of plain"
    )
    if chosen.json:
        page = {
            "options": vars(chosen) | {"json": str(chosen.json)},
            "torch": torch.__version__,
            "noise_nats": found.noise_nats,
            "tolerance_nats": found.tolerance_nats,
            "void": apart,
            "rows": found.rows(),
            "ratios": found.ratios(),
            "rounds": [{row: asdict(measurement) for row, measurement in r.items()} for r in found.rounds],
        }
        chosen.json.write_text(json.dumps(page, indent=1) + "\n")
    if apart:
        sys.exit(f"the comparison is void: the losses of {', '.join(apart)} are not those of plain")


def compare(
    request: RunRequest,
    contestants: Sequence[str] = CONTESTANTS,
    repeatable: Sequence[bool] = (False,),
    rounds: int = 1,
    say: Callable[[str], None] = print,
) -> Comparison:
    """Runs every contestant once a round, for each wish for repeatability, and `plain` four times more at first.

    request: whose backend, seed and `repeatable` do not count. Ends the script if a run fails.
    """
    # Each run's process takes these over from this one, before torch loads there. Text may have come from a hub,
    # the models do not.
    os.environ.update(ENVIRONMENT, HF_HUB_OFFLINE="1")
    entries = [replace(request, backend=name, repeatable=wish) for wish, name in product(repeatable, contestants)]
    first = replace(request, repeatable=repeatable[0])
    yardstick = measure("plain", first)
    noise = [measure("plain", first, run).distance(yardstick) for run in range(1, PERTURBED_RUNS + 1)]
    found: list[dict[str, Measurement]] = []
    for number in range(rounds):
        runs = [measure(entry.backend, entry) for entry in entries[:: 1 if number % 2 == 0 else -1]]
        of_round = {run.row: run for run in runs}
        found.append({row: of_round[row] for row in (found[0] if found else of_round)})
        say(f"round {number + 1}, tokens/s: " + ", ".join(f"{run.row} {run.tokens_per_second:,.0f}" for run in runs))
    return Comparison(yardstick, noise, found)


def measure(contestant: str, request: RunRequest, perturbation: int = 0) -> Measurement:
    """One run in a process of its own, so that neither memory nor caches of another count. Ends the script if it fails.

    request: whose `repeatable` counts for references too.
    perturbation: other than 0, which of the random directions a reference's initial weights are moved in.
    """
    arguments = (request, perturbation) if contestant in REFERENCES else (request,)
    run = _run_reference if contestant in REFERENCES else _run_ours
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(run, contestant, *arguments).result()
        except Exception as error:
            sys.exit(f"error: {contestant}: {error}")


class Pace:
    """Notes when how many steps were done."""

    def __init__(self) -> None:
        self._marks: list[tuple[int, float, float]] = []

    def mark(self, steps: int) -> None:
        self._marks.append((steps, time.perf_counter(), time.process_time()))

    def per_second(self, tokens_per_step: int) -> tuple[float, float]:
        """Tokens per second, and per second of processor time, from the first mark after UNTIMED_STEPS to the last."""
        first, started, processor_started = next(mark for mark in self._marks if mark[0] >= UNTIMED_STEPS)
        last, ended, processor_ended = self._marks[-1]
        tokens = (last - first) * tokens_per_step
        return tokens / (ended - started), tokens / (processor_ended - processor_started)


def _run_ours(contestant: str, request: RunRequest) -> Measurement:
    """The only place that calls the trainer."""
    pace = Pace()
    request = replace(request, backend=contestant, compile=request.compile and contestant == "torch")
    result = execute(request, lambda phase, step, steps, loss: pace.mark(step))
    if result.state != "complete":
        raise RuntimeError(f"{result.failure}: {result.message}")
    return Measurement(
        contestant,
        request.repeatable,
        *pace.per_second(Recipe.from_mapping(request.recipe).tokens_per_step),
        result.peak_memory_bytes or 0,
        result.curve,
        result.flops_per_token or 0,
        result.peak_flops or 0.0,
        result.peak_flops_source or "",
        _hardware(torch.device(result.device)),
    )


def _run_reference(contestant: str, request: RunRequest, perturbation: int) -> Measurement:
    recipe, device = Recipe.from_mapping(request.recipe), device_named(request.device)
    dataset, schedule = Dataset.open(request.data_dir), Schedule.of(request.budget, recipe)
    vocab_size, steps = dataset.manifest.vocab_size, schedule.total_steps
    assert steps is not None
    start = TorchBackend().build(recipe, vocab_size, device, request.seed)
    flops = flops_per_token(start, recipe)
    weights = {name: weight.detach() for name, weight in start.named_parameters()}
    if perturbation:
        generator = torch.Generator(device).manual_seed(perturbation)
        for weight in weights.values():
            moved = torch.rand(weight.shape, generator=generator, device=device) * 2 - 1
            weight.mul_(1 + ROUNDING[recipe.precision] * moved)
    model = REFERENCES[contestant](recipe, vocab_size, weights).to(device)
    del start, weights

    losses, pace, peak = Losses(), Pace(), MemoryPeak(device)

    def report(values: list[float]) -> None:
        for value in values:
            losses.add(value)
        peak.sample()
        pace.mark(len(losses.values))

    learning_rates = [schedule.lr(step, step / steps) for step in range(steps)]
    batches = on_device(dataset.windows(request.seed, recipe.batch_size, recipe.seq_len), device)
    with repeatable(request.repeatable, device):
        train_reference(model, recipe, learning_rates, batches, STEPS_BETWEEN_READINGS[device.type], report)
    peak_bytes = peak.bytes()
    return Measurement(
        contestant,
        request.repeatable,
        *pace.per_second(recipe.tokens_per_step),
        peak_bytes,
        losses.curve(),
        flops,
        *peak_flops(device, recipe.precision),
        _hardware(device),
    )


def _hardware(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _print_table(found: Comparison) -> None:
    titles = ("contestant", "tokens/s", "peak MiB", "MFU %", f"loss at {found.yardstick.curve[-1][0]}", "nats apart")
    width = max(len(row) for row in found.rounds[0])
    print(f"{titles[0]:{width}} " + "{:>26} {:>21} {:>21} {:>12} {:>11}".format(*titles[1:]))
    for row in found.rows():
        memory = [value / 2**20 for value in row["peak_memory_bytes"]]
        mfu = [100 * value for value in row["mfu"]]
        print(
            f"{_row_name(row):{width}} {_spread(row['tokens_per_second'], ',.0f'):>26} {_spread(memory, ',.0f'):>21} "
            f"{_spread(mfu, '.1f'):>21} {row['loss']:12.5f} {row['nats_apart']:11.1e}"
        )


def _row_name(row: dict[str, Any]) -> str:
    return row["contestant"] + ", repeatable" * row["repeatable"]


def _spread(values: list[float], kind: str) -> str:
    return f"{statistics.median(values):{kind}} ({min(values):{kind}} to {max(values):{kind}})"


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--preset", choices=("cpu-nano", "gpt-354m"), default="cpu-nano", help="whose recipe and data")
    options.add_argument("--source", help="text to train on (default: the preset's; stdlib needs no network)")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    options.add_argument("--precision", choices=tuple(ROUNDING), help="default: the preset's")
    options.add_argument("--steps", type=int, default=40, help="of each run (default 40)")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument(
        "--contestants", help=f"of {','.join(CONTESTANTS)}; default: all, on a CPU without the padded ones"
    )
    options.add_argument(
        "--repeatable", choices=tuple(WISHES), help="yes, no or both; default: both on a GPU, no on a CPU"
    )
    options.add_argument("--compile", action="store_true", help="torch.compile for our torch backend")
    options.add_argument("--json", type=Path, metavar="FILE", help="every run with its loss curve")
    chosen = options.parse_args()
    try:
        on_gpu = device_named(chosen.device).type == "cuda"
    except ValueError as error:
        options.error(str(error))
    usual = [name for name in CONTESTANTS if on_gpu or not name.endswith("-padded")]
    chosen.contestants = chosen.contestants.split(",") if chosen.contestants else usual
    chosen.repeatable = WISHES[chosen.repeatable or ("both" if on_gpu else "no")]
    if unknown := set(chosen.contestants) - set(CONTESTANTS):
        options.error(f"--contestants {', '.join(sorted(unknown))}: choose from {', '.join(CONTESTANTS)}")
    for package, prefix in (("transformers", "huggingface"), ("megatron", "megatron")):
        left = [name for name in chosen.contestants if not name.startswith(prefix)]
        if find_spec(package) is None and left != chosen.contestants:
            print(f"left out: {prefix}, since {package} is not installed (see the extras in pyproject.toml)")
            chosen.contestants = left
    if not chosen.contestants:
        options.error("--contestants: none is left to be measured")
    if chosen.rounds < 1:
        options.error("--rounds: at least 1")
    if chosen.steps < 3 * UNTIMED_STEPS:
        options.error(f"--steps: at least {3 * UNTIMED_STEPS}, of which {UNTIMED_STEPS} are not timed")
    return chosen


if __name__ == "__main__":
    main()
