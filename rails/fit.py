"""The fit rail: whether a recipe's peak memory and training time fit, by its shape and this study's measurements."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median

from rails.predict import Shape, tokens_per_step
from rails.values import RailsError, Value, clean

GIB = 2**30
BUDGETS = ("tokens", "steps", "seconds", "flops")
# Above it a budget is a slip of the pen; FLOPs are many even in a short run.
MOST_OF_A_BUDGET = {"tokens": 2.0**60, "steps": 2.0**60, "seconds": 2.0**60, "flops": 1e30}
NEAREST = 9  # measurements of other shapes that correct one prediction
# How many of them what was worked out is worth: one run may be off by as much as the prediction.
WORTH_RUNS = 4

# What a run holds besides its tensors, and how much room tensors take in all. CPU: resident memory, so libraries and
# what lies between tensors count, fitted to `benchmarks/fit.py`. GPU: what torch has allocated, not measured yet.
BASE_BYTES = {"cpu": 450 * 2**20, "cuda": 64 * 2**20}
BYTES_PER_LIVE_BYTE = {"cpu": 1.17, "cuda": 1.05}
# Predictions are in the middle of what happens; a run must fit although it takes more. With this much to spare none of
# the benchmark's held-out runs that passed at some limit was over it. A shape that has run takes nearly the same again.
MARGIN, MARGIN_OF_MEASURED = 1.25, 1.05


@dataclass(frozen=True)
class Measurement:
    """What one complete run showed. A memory or time that was not measured is 0 and is left out."""

    recipe: Mapping[str, Value]
    peak_memory_bytes: int
    train_seconds: float
    tokens: int


@dataclass(frozen=True)
class Limits:
    """What a run may spend and what this machine can do; None means not checked.

    budget: one of {"tokens": n}, {"steps": n}, {"seconds": s}, {"flops": f}. memory_bytes and run_seconds bound one
    run's peak memory and training time. vocab_size: of the study's tokenizer; without it nothing is predicted.
    precisions: those that the machine can train in. device: cpu or cuda, whose memory it is. measurements: a snapshot
    is taken, so a study makes new limits as its runs complete. RailsError for a budget or device that is none.
    """

    budget: Mapping[str, float] | None = None
    memory_bytes: int | None = None
    run_seconds: float | None = None
    vocab_size: int | None = None
    precisions: tuple[str, ...] | None = None
    measurements: Sequence[Measurement] = ()
    device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "measurements", tuple(self.measurements))
        if self.device not in BASE_BYTES:
            raise RailsError(f"device must be {' or '.join(BASE_BYTES)}, not {clean(str(self.device), 60)}")
        if self.budget is None:
            return
        named = [(key, self.budget[key]) for key in BUDGETS if key in self.budget]
        if len(named) != 1:
            raise RailsError("a budget has exactly one of tokens, steps, seconds and flops")
        key, amount = named[0]
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 < amount < MOST_OF_A_BUDGET[key]:
            raise RailsError(f"the budget's {key} must be a number above 0")

    def shape(self, recipe: Mapping[str, Value]) -> Shape | None:
        """None where the recipe lacks the GPT's knobs or the vocabulary's size is not known."""
        return Shape.of(recipe, self.vocab_size, self.device)

    @cached_property
    def _memory_samples(self) -> "_Samples":
        """By how much runs took more than was worked out."""
        samples = _Samples()
        for run in self.measurements:
            if run.peak_memory_bytes > 0 and (shape := self.shape(run.recipe)) is not None:
                worked_out = _worked_out_bytes(shape)
                excess = (run.peak_memory_bytes - worked_out) / _unit_of_excess(worked_out, shape)
                samples.add(shape, worked_out, excess)
        return samples

    @cached_property
    def _speed_samples(self) -> "_Samples":
        """Measured work per second, by work per token."""
        samples = _Samples()
        for run in self.measurements:
            if run.tokens > 0 and run.train_seconds > 0 and (shape := self.shape(run.recipe)) is not None:
                samples.add(shape, shape.work_per_token, shape.work_per_token * run.tokens / run.train_seconds)
        return samples


@dataclass(frozen=True, slots=True)
class Prediction:
    """Parameters; peak memory in bytes, and by what factor it may be exceeded; training seconds, None where nothing
    measured says how fast this machine is."""

    params: int
    memory_bytes: int
    margin: float
    seconds: float | None


@dataclass
class _Samples:
    """Measured figures, to be looked up by shape, else by nearness in size among runs of the same precision."""

    by_shape: dict[Shape, list[float]] = field(default_factory=dict)
    by_size: dict[Value | None, list[tuple[float, float]]] = field(default_factory=dict)
    is_sorted: bool = False

    def add(self, shape: Shape, size: float, figure: float) -> None:
        self.by_shape.setdefault(shape, []).append(figure)
        self.by_size.setdefault(shape.precision, []).append((math.log(size), figure))

    def near(self, shape: Shape, size: float) -> tuple[float, float] | None:
        """The median and its weight, from 0 to 1: for this very shape, else of the few runs nearest in size; another
        precision only when none has this. None without any."""
        if same := self.by_shape.get(shape):
            return median(same), 1.0
        if not self.is_sorted:
            for run_sizes in self.by_size.values():
                run_sizes.sort()
            self.is_sorted = True
        if shape.precision in self.by_size:
            runs = self.by_size[shape.precision]
        else:
            runs = sorted(run for others in self.by_size.values() for run in others)
        if not runs:
            return None
        log_size = math.log(size)
        middle = bisect_left(runs, (log_size, 0.0))
        window = runs[max(0, middle - NEAREST) : middle + NEAREST]
        nearest = sorted(window, key=lambda run: abs(run[0] - log_size))[:NEAREST]
        return median(figure for _, figure in nearest), len(nearest) / (len(nearest) + WORTH_RUNS)


def predict(recipe: Mapping[str, Value], limits: Limits) -> Prediction | None:
    """Predict one run; None where the recipe lacks the GPT's knobs or the vocabulary's size is not known.

    Memory is what the shape says, corrected by what runs of this shape, else of about this size, really took. Time is
    the shape's work over the median speed measured near it.
    """
    shape = limits.shape(recipe)
    if shape is None:
        return None
    worked_out = _worked_out_bytes(shape)
    memory_bytes, margin = worked_out, MARGIN
    if (found := limits._memory_samples.near(shape, worked_out)) is not None:
        excess, weight = found
        memory_bytes = max(shape.live_bytes, worked_out + weight * excess * _unit_of_excess(worked_out, shape))
        margin = MARGIN_OF_MEASURED if weight == 1 else MARGIN
    return Prediction(shape.params, round(memory_bytes), margin, _seconds(shape, limits))


def budget_steps(recipe: Mapping[str, Value], limits: Limits) -> int | None:
    """Optimizer steps that the budget buys this recipe.

    None without a budget, and for a budget in seconds while nothing measured says how many steps it buys.
    RailsError where a budget in tokens or seconds meets a recipe without batch_size and seq_len, and where one in flops
    meets a recipe without the GPT's knobs, or a vocabulary of unknown size.
    """
    if limits.budget is None:
        return None
    if "steps" in limits.budget:
        return int(limits.budget["steps"])
    if (step_tokens := tokens_per_step(recipe)) is None:
        raise RailsError("budget_steps needs the knobs batch_size and seq_len to turn the budget into steps")
    if "tokens" in limits.budget:
        return int(limits.budget["tokens"]) // step_tokens
    shape = limits.shape(recipe)
    if "flops" in limits.budget:
        if shape is None:
            raise RailsError("budget_steps needs the GPT's knobs and the vocabulary's size to turn flops into steps")
        return int(limits.budget["flops"] // (shape.flops_per_token * step_tokens))
    rate = _tokens_per_second(shape, limits) if shape is not None else None
    return None if rate is None else int(limits.budget["seconds"] * rate / step_tokens)


def fit_fault(recipe: Mapping[str, Value], limits: Limits) -> str | None:
    """None when the recipe fits this machine and these limits as far as anything is known, else what does not fit."""
    precision = recipe.get("precision")
    if limits.precisions is not None and precision is not None and precision not in limits.precisions:
        allowed = ", ".join(limits.precisions) or "none"
        return f"precision {clean(str(precision), 60)} cannot be trained on this machine; it can: {allowed}"
    if (run := predict(recipe, limits)) is None:
        return None
    if limits.memory_bytes is not None and run.memory_bytes * run.margin > limits.memory_bytes:
        return (
            f"predicted peak memory {_gib(run.memory_bytes)}, with {run.margin - 1:.0%} to spare, is over the limit "
            f"of {_gib(limits.memory_bytes)} ({run.params / 1e6:.1f} M parameters); a smaller model, batch_size or "
            "seq_len needs less"
        )
    if limits.run_seconds is not None and run.seconds is not None and run.seconds > limits.run_seconds:
        return (
            f"predicted training time {run.seconds / 60:.1f} min is over the limit of "
            f"{limits.run_seconds / 60:.1f} min ({run.params / 1e6:.1f} M parameters); a smaller model needs less"
        )
    return None


def _worked_out_bytes(shape: Shape) -> float:
    return BASE_BYTES[shape.device] + BYTES_PER_LIVE_BYTE[shape.device] * shape.live_bytes


def _unit_of_excess(worked_out: float, shape: Shape) -> float:
    """A GPU's excess goes with the size; a CPU's is mostly another set of libraries, the same for all."""
    return worked_out if shape.device == "cuda" else 1.0


def _tokens_per_second(shape: Shape, limits: Limits) -> float | None:
    found = limits._speed_samples.near(shape, shape.work_per_token)
    return None if found is None else found[0] / shape.work_per_token


def _seconds(shape: Shape, limits: Limits) -> float | None:
    if limits.budget is None:
        return None
    if "seconds" in limits.budget:
        return float(limits.budget["seconds"])
    rate = _tokens_per_second(shape, limits)
    return None if rate is None else _tokens(shape, limits.budget) / rate


def _tokens(shape: Shape, budget: Mapping[str, float]) -> float:
    """What a budget buys that is not in seconds, part of a step included."""
    if "flops" in budget:
        return budget["flops"] / shape.flops_per_token
    return budget.get("tokens") or budget["steps"] * shape.tokens_per_step


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
