"""The fit rail: predicts a run's peak memory and training time from its shape and this study's measurements."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import TypeAlias

from rails.values import RailsError, Value, clean

GIB = 2**30
BUDGETS = ("tokens", "steps", "seconds")
NEAREST = 5  # measurements that correct one prediction

# Bytes that stay alive from forward to backward, per token and layer, with activations in bf16: for each unit of
# d_model two LayerNorm inputs and outputs (4 x 4), their bf16 copies (4), q, k, v (6), attention's output and the two
# residual outputs (6); for each unit of d_ff the hidden layer before and after GELU (4).
BYTES_PER_D_MODEL = 32
BYTES_PER_D_FF = 4
BYTES_PER_LOGIT = 8  # fp32 logits and their gradient
BYTES_PER_PARAM = 16  # fp32 weights, gradients and Adam's two moments
BASE_BYTES = GIB // 2  # libraries and allocator, before any tensor

ShapeKey: TypeAlias = tuple[Value | None, ...]


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

    budget: one of {"tokens": n}, {"steps": n}, {"seconds": s}. memory_bytes and run_seconds bound one run's peak memory
    and training time. vocab_size: of the study's tokenizer; without it nothing is predicted. precisions: those that
    the machine can train in. measurements: a snapshot is taken, so a study makes new limits as its runs complete.
    RailsError for a budget that is none.
    """

    budget: Mapping[str, float] | None = None
    memory_bytes: int | None = None
    run_seconds: float | None = None
    vocab_size: int | None = None
    precisions: tuple[str, ...] | None = None
    measurements: Sequence[Measurement] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "measurements", tuple(self.measurements))
        if self.budget is None:
            return
        named = [(key, self.budget[key]) for key in BUDGETS if key in self.budget]
        if len(named) != 1:
            raise RailsError("a budget has exactly one of tokens, steps and seconds")
        key, amount = named[0]
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 < amount < 2**60:
            raise RailsError(f"the budget's {key} must be a number above 0")

    @cached_property
    def _memory_samples(self) -> "_Samples":
        samples = _Samples()
        for run in self.measurements:
            if run.peak_memory_bytes > 0 and (shape := _shape(run.recipe, self.vocab_size)) is not None:
                samples.add(shape, shape.memory_bytes, run.peak_memory_bytes / shape.memory_bytes)
        return samples

    @cached_property
    def _speed_samples(self) -> "_Samples":
        """Measured FLOP/s, by FLOPs per token."""
        samples = _Samples()
        for run in self.measurements:
            if run.tokens > 0 and run.train_seconds > 0 and (shape := _shape(run.recipe, self.vocab_size)) is not None:
                samples.add(shape, shape.flops_per_token, shape.flops_per_token * run.tokens / run.train_seconds)
        return samples


@dataclass(frozen=True, slots=True)
class Prediction:
    """Parameters; peak memory in bytes; training seconds, None where nothing measured says how fast this machine is."""

    params: int
    memory_bytes: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class _Shape:
    key: ShapeKey
    precision: Value | None
    params: int
    memory_bytes: int  # before correction
    flops_per_token: int


@dataclass
class _Samples:
    """Measured figures, to be looked up by shape, else by nearness in size among runs of the same precision."""

    by_shape: dict[ShapeKey, list[float]] = field(default_factory=dict)
    by_size: dict[Value | None, list[tuple[float, float]]] = field(default_factory=dict)
    is_sorted: bool = False

    def add(self, shape: _Shape, size: int, figure: float) -> None:
        self.by_shape.setdefault(shape.key, []).append(figure)
        self.by_size.setdefault(shape.precision, []).append((math.log(size), figure))

    def near(self, shape: _Shape, size: int) -> list[float]:
        """Figures of this very shape, or of the few runs nearest in size; another precision only when none has this."""
        if same := self.by_shape.get(shape.key):
            return same
        if not self.is_sorted:
            for run_sizes in self.by_size.values():
                run_sizes.sort()
            self.is_sorted = True
        if shape.precision in self.by_size:
            runs = self.by_size[shape.precision]
        else:
            runs = sorted(run for others in self.by_size.values() for run in others)
        log_size = math.log(size)
        middle = bisect_left(runs, (log_size, 0.0))
        window = runs[max(0, middle - NEAREST) : middle + NEAREST]
        return [figure for _, figure in sorted(window, key=lambda run: abs(run[0] - log_size))[:NEAREST]]


def predict(recipe: Mapping[str, Value], limits: Limits) -> Prediction | None:
    """Predict one run; None where the recipe lacks the GPT's knobs or the vocabulary's size is not known.

    The model: no linear biases, tied embeddings, learned positions, LayerNorm with weight and bias. Memory is the
    analytic figure times the largest ratio measured near it; time is FLOPs over the median speed measured near it.
    """
    shape = _shape(recipe, limits.vocab_size)
    if shape is None:
        return None
    ratios = limits._memory_samples.near(shape, shape.memory_bytes)
    memory_bytes = round(shape.memory_bytes * max(ratios, default=1.0))
    return Prediction(shape.params, memory_bytes, _seconds(shape, recipe, limits))


def budget_steps(recipe: Mapping[str, Value], limits: Limits) -> int | None:
    """Optimizer steps that the budget buys this recipe.

    None without a budget, and for a budget in seconds while nothing measured says how many steps it buys.
    RailsError where a budget in tokens or seconds meets a recipe without batch_size and seq_len.
    """
    if limits.budget is None:
        return None
    if "steps" in limits.budget:
        return int(limits.budget["steps"])
    if (step_tokens := _step_tokens(recipe)) is None:
        raise RailsError("budget_steps needs the knobs batch_size and seq_len to turn the budget into steps")
    if "tokens" in limits.budget:
        return int(limits.budget["tokens"]) // step_tokens
    shape = _shape(recipe, limits.vocab_size)
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
    if limits.memory_bytes is not None and run.memory_bytes > limits.memory_bytes:
        return (
            f"predicted peak memory {_gib(run.memory_bytes)} is over the limit of {_gib(limits.memory_bytes)} "
            f"({run.params / 1e6:.1f} M parameters); a smaller model, batch_size or seq_len needs less"
        )
    if limits.run_seconds is not None and run.seconds is not None and run.seconds > limits.run_seconds:
        return (
            f"predicted training time {run.seconds / 60:.1f} min is over the limit of "
            f"{limits.run_seconds / 60:.1f} min ({run.params / 1e6:.1f} M parameters); a smaller model needs less"
        )
    return None


def _shape(recipe: Mapping[str, Value], vocab_size: int | None) -> _Shape | None:
    sizes = [recipe.get(name) for name in ("n_layer", "d_model", "d_ff", "batch_size", "seq_len")]
    counts = [size for size in [*sizes, vocab_size] if type(size) is int and size > 0]
    if len(counts) != 6:
        return None
    layers, width, hidden, batch, length, vocab = counts
    precision = recipe.get("precision")
    matrices = layers * (4 * width * width + 2 * width * hidden)
    params = matrices + (4 * layers + 2) * width + (vocab + length) * width
    kept = batch * length * layers * (BYTES_PER_D_MODEL * width + BYTES_PER_D_FF * hidden)
    kept *= 2 if precision == "fp32" else 1
    memory_bytes = BASE_BYTES + BYTES_PER_PARAM * params + kept + BYTES_PER_LOGIT * batch * length * vocab
    # Six per weight that a token meets (the tied embedding once, as the output), and attention's two products.
    flops_per_token = 6 * (matrices + vocab * width) + 12 * layers * width * length
    key = (*counts, recipe.get("n_head"), precision)
    return _Shape(key, precision, params, memory_bytes, flops_per_token)


def _step_tokens(recipe: Mapping[str, Value]) -> int | None:
    batch, length = recipe.get("batch_size"), recipe.get("seq_len")
    return batch * length if type(batch) is int and type(length) is int and batch > 0 and length > 0 else None


def _tokens_per_second(shape: _Shape, limits: Limits) -> float | None:
    speeds = limits._speed_samples.near(shape, shape.flops_per_token)
    return median(speeds) / shape.flops_per_token if speeds else None


def _seconds(shape: _Shape, recipe: Mapping[str, Value], limits: Limits) -> float | None:
    if limits.budget is None:
        return None
    if "seconds" in limits.budget:
        return float(limits.budget["seconds"])
    tokens = limits.budget.get("tokens") or limits.budget["steps"] * (_step_tokens(recipe) or 0)
    rate = _tokens_per_second(shape, limits)
    return None if rate is None else tokens / rate


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
