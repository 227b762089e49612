"""Speed and memory of our trainer beside Hugging Face's GPT-2 and a plain eager loop, all training the same model.

    python benchmarks/trainer_speed.py [--preset cpu-nano] [--precision bf16] [--steps 40] [--rounds 5] [--json FILE]
    python benchmarks/trainer_speed.py --preset gpt-354m --source stdlib --compile      # on a GPU, without a network

`torch` and `megatron` are our backends, run as a study runs them. `huggingface` is transformers' GPT2LMHeadModel (extra
`distill`) and `plain` a GPT-2 written by hand (reference_models.py), both in the usual eager loop with autocast and
fused AdamW. A step is forward, backward, clipping and optimizer; the first ones are not timed. Every run has a fresh
process, with one CPU thread. A round runs each contestant once, every other round in reverse, and ratios are taken
within a round. On a CPU they are taken of processor time too, which a busy neighbour stretches less. Peak memory is
what torch allocated on a GPU, and the whole resident process on a CPU, libraries included.

All start from the same weights and read the same batches, so their losses may differ by rounding only. How much that
is, the same invocation measures: `plain` against itself with every initial weight moved at random by up to one rounding
error of the precision. A contestant whose curve is farther from `plain`'s than TOLERANCE times the farthest of those
trains something else: the comparison is then void, and the exit status 1. Over 40 steps of cpu-nano this finds, in
fp32, a GELU by its tanh approximation; in bf16 a learning rate that is off by 1 %. Curves of other seeds are 0.1 nats
away and would hide both.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import torch
from reference_models import REFERENCES, train_reference

from trainer.backends.torch_gpt import TorchBackend
from trainer.batches import on_device
from trainer.data import prepare
from trainer.data.dataset import Dataset
from trainer.flops import flops_per_token, peak_flops
from trainer.memory import MemoryPeak
from trainer.protocol import RunRequest
from trainer.recipe import Recipe
from trainer.run import device_named, execute
from trainer.schedule import Schedule
from trainer.training import STEPS_BETWEEN_READINGS, Losses
from trainer.worker import ENVIRONMENT

OURS = ("torch", "megatron")
CONTESTANTS = (*OURS, *REFERENCES)

UNTIMED_STEPS = 8
PERTURBED_RUNS = 3
TOLERANCE = 4
RESOLUTION_NATS = 1e-6  # of a loss near 8 in float32, and of the curve that a run reports
ROUNDING = {"bf16": torch.finfo(torch.bfloat16).eps / 2, "fp32": torch.finfo(torch.float32).eps / 2}


@dataclass(frozen=True)
class Measurement:
    """One run of one contestant."""

    contestant: str
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


def main() -> None:
    # Here, since whoever imports `measure` may lack what reads a preset.
    from autoresearch.study.preset import load_preset

    chosen = _options()
    preset = load_preset(chosen.preset)
    recipe = preset.recipe
    recipe["precision"] = chosen.precision or recipe["precision"]
    with tempfile.TemporaryDirectory() as folder:
        text = preset.settings.data.model_dump()
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
        # Each run's process takes these over from this one, before torch loads there. Text may have come from a hub,
        # the models do not.
        os.environ.update(ENVIRONMENT, HF_HUB_OFFLINE="1")
        yardstick = measure("plain", request)
        noise = [measure("plain", request, run).distance(yardstick) for run in range(1, PERTURBED_RUNS + 1)]
        tolerance = TOLERANCE * max(RESOLUTION_NATS, *noise)
        rounds = []
        for number in range(chosen.rounds):
            order = chosen.contestants[:: 1 if number % 2 == 0 else -1]
            rounds.append({name: measure(name, request) for name in order})
            speeds = ", ".join(f"{name} {rounds[-1][name].tokens_per_second:,.0f}" for name in order)
            print(f"round {number + 1}, tokens/s: {speeds}", flush=True)

    tokens = Recipe.from_mapping(recipe).tokens_per_step
    print(
        f"{chosen.preset}, {recipe['precision']}{', torch compiled' * chosen.compile}, {yardstick.device}, "
        f"torch {torch.__version__}: {chosen.steps} steps of {tokens:,} tokens, the first {UNTIMED_STEPS} not timed, "
        f"rounds: {chosen.rounds}; median (min to max)"
    )
    # Where the peak is measured, a neighbour on the same machine can only make it too low.
    peak = max((run for r in rounds for run in r.values()), key=lambda run: run.peak_flops)
    _print_table(chosen.contestants, rounds, yardstick, peak.peak_flops)
    print(
        f"MFU: {peak.flops_per_token / 1e6:,.2f} MFLOP a token (6 per weight that multiplies, and attention's products "
        f"unmasked), peak {peak.peak_flops / 1e12:,.3g} TFLOP/s ({peak.peak_flops_source})"
    )
    ratios = _ratios(chosen.contestants, rounds)
    for pair, values in ratios.items():
        print(f"{pair}: {_spread(values, '.2f')}")
    farthest = {name: max(r[name].distance(yardstick) for r in rounds) for name in chosen.contestants}
    apart = [name for name, distance in farthest.items() if not distance <= tolerance < float("inf")]
    print(
        f"loss curves: {'not equal' if apart else 'equal'} within {tolerance:.1e} nats, {TOLERANCE} times what "
        f"rounding the initial weights does in {PERTURBED_RUNS} runs of plain"
    )
    if chosen.json:
        found = {
            "options": vars(chosen) | {"json": str(chosen.json)},
            "torch": torch.__version__,
            "noise_nats": noise,
            "tolerance_nats": tolerance,
            "void": apart,
            "ratios": ratios,
            "rounds": [{name: asdict(measurement) for name, measurement in r.items()} for r in rounds],
        }
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    if apart:
        sys.exit(f"the comparison is void: the losses of {', '.join(apart)} are not those of plain")


def measure(contestant: str, request: RunRequest, perturbation: int = 0) -> Measurement:
    """One run in a process of its own, so that neither memory nor caches of another count. Ends the script if it fails.

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
    train_reference(model, recipe, learning_rates, batches, STEPS_BETWEEN_READINGS[device.type], report)
    peak_bytes = peak.bytes()
    return Measurement(
        contestant,
        *pace.per_second(recipe.tokens_per_step),
        peak_bytes,
        losses.curve(),
        flops,
        *peak_flops(device, recipe.precision),
        _hardware(device),
    )


def _hardware(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _print_table(
    contestants: list[str], rounds: list[dict[str, Measurement]], yardstick: Measurement, peak: float
) -> None:
    titles = ("contestant", "tokens/s", "peak MiB", "MFU %", f"loss at {yardstick.curve[-1][0]}", "nats apart")
    print("{:12} {:>26} {:>21} {:>21} {:>12} {:>11}".format(*titles))
    for name in contestants:
        runs = [r[name] for r in rounds]
        speed = [run.tokens_per_second for run in runs]
        memory = [run.peak_memory_bytes / 2**20 for run in runs]
        mfu = [100 * run.flops_per_token * run.tokens_per_second / peak for run in runs]
        loss = statistics.median(run.curve[-1][1] for run in runs)
        apart = max(run.distance(yardstick) for run in runs)
        print(
            f"{name:12} {_spread(speed, ',.0f'):>26} {_spread(memory, ',.0f'):>21} {_spread(mfu, '.1f'):>21} "
            f"{loss:12.5f} {apart:11.1e}"
        )


def _ratios(contestants: list[str], rounds: list[dict[str, Measurement]]) -> dict[str, list[float]]:
    """Of speeds, one for each round."""
    ratios = {}
    for ours, theirs in product(OURS, REFERENCES):
        if ours in contestants and theirs in contestants:
            pairs = [(r[ours], r[theirs]) for r in rounds]
            ratios[f"{ours} / {theirs}"] = [a.tokens_per_second / b.tokens_per_second for a, b in pairs]
            if pairs[0][0].device == "cpu":
                ratios[f"{ours} / {theirs}, processor time"] = [
                    a.tokens_per_processor_second / b.tokens_per_processor_second for a, b in pairs
                ]
    return ratios


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
    options.add_argument("--contestants", default=",".join(CONTESTANTS), help=f"default {','.join(CONTESTANTS)}")
    options.add_argument("--compile", action="store_true", help="torch.compile for our torch backend")
    options.add_argument("--json", type=Path, metavar="FILE", help="every run with its loss curve")
    chosen = options.parse_args()
    chosen.contestants = chosen.contestants.split(",")
    if unknown := set(chosen.contestants) - set(CONTESTANTS):
        options.error(f"--contestants {', '.join(sorted(unknown))}: choose from {', '.join(CONTESTANTS)}")
    if "huggingface" in chosen.contestants and find_spec("transformers") is None:
        options.error("huggingface needs transformers: install the extra `distill`, or choose other --contestants")
    if chosen.rounds < 1:
        options.error("--rounds: at least 1")
    if chosen.steps < 3 * UNTIMED_STEPS:
        options.error(f"--steps: at least {3 * UNTIMED_STEPS}, of which {UNTIMED_STEPS} are not timed")
    return chosen


if __name__ == "__main__":
    main()
