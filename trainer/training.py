"""The training loop: batches in, a trained model and its loss curve out, until the budget is spent."""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.backends import Model
from trainer.optimizer import AveragedWeights, Optimizer
from trainer.parallel import ALONE, Cost, Processes, of_first
from trainer.recipe import Recipe
from trainer.schedule import Schedule
from trainer.step_clock import StepClock

CURVE_POINTS = 50
WINDOW = 0.1  # of a run, over which a loss on the way is a mean

# A model that knows nothing starts at the logarithm of the vocabulary size; one that is this far above its own start
# after being smoothed over some ten steps does not come back within a short budget.
DIVERGENCE_MARGIN_NATS = 1.0
SMOOTHING = 0.9
STEPS_BEFORE_JUDGING = 5

# Reading a loss makes the CPU wait for the GPU, so there it is done once in a while.
STEPS_BETWEEN_READINGS = {"cpu": 1, "cuda": 8}

Report = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Spent:
    """The time that training took."""

    seconds: float
    first_step_seconds: float  # unless rehearsed, it loads, compiles and allocates what later steps find ready
    steps: int

    @property
    def steps_per_second(self) -> float:
        """Without the first step, unless there was no other."""
        if self.steps == 1:
            return 1 / self.seconds
        return (self.steps - 1) / (self.seconds - self.first_step_seconds)


@dataclass
class Losses:
    """The training loss of every step so far, in nats per token."""

    values: list[float] = field(default_factory=list)
    diverged_at: int | None = None  # step, counted from 1
    _smoothed: float = 0.0

    def add(self, loss: float) -> None:
        """Notes one step's loss; sets `diverged_at` at the first step that cannot be recovered from."""
        self.values.append(loss)
        steps = len(self.values)
        self._smoothed = SMOOTHING * self._smoothed + (1 - SMOOTHING) * loss
        smoothed = self._smoothed / (1 - SMOOTHING**steps)
        too_high = steps >= STEPS_BEFORE_JUDGING and smoothed > self.values[0] + DIVERGENCE_MARGIN_NATS
        if self.diverged_at is None and (not math.isfinite(loss) or too_high):
            self.diverged_at = steps

    def before(self, share: float, steps: int) -> float:
        """The mean loss of the last tenth, before a share of it, of a run of so many steps."""
        end = math.ceil(share * steps)
        part = self.values[max(0, end - max(1, round(WINDOW * steps))) : end]
        return math.fsum(part) / len(part)

    def curve(self) -> list[list[float]]:
        """About CURVE_POINTS points [last step of a bin, mean loss over the bin]; bins that hold a NaN are left out."""
        size = max(1, math.ceil(len(self.values) / CURVE_POINTS))
        bins = [self.values[start : start + size] for start in range(0, len(self.values), size)]
        points = [[i * size + len(part), math.fsum(part) / len(part)] for i, part in enumerate(bins)]
        return [[step, round(loss, 6)] for step, loss in points if math.isfinite(loss)]


@contextmanager
def _frozen() -> Iterator[None]:
    """Keeps the garbage collector off all that is there already: libraries, compiled code, the model.

    A look through it takes a tenth of a second, in which a GPU waits. What training itself leaves in circles, which is
    next to nothing, is still collected.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@_frozen()
def train(
    model: Model,
    recipe: Recipe,
    schedule: Schedule,
    batches: Iterator[Tensor],
    device: torch.device,
    losses: Losses,
    clock: StepClock,
    report: Report,
    processes: Processes = ALONE,
    looks: int = 0,
    look: Callable[[int], None] = lambda steps: None,
) -> Spent:
    """Trains until the budget is spent or the loss diverges, filling `losses` and `clock`.

    The model is left as it should be scored: with its averaged weights where the recipe asks for them.
    batches: int64 [batch_size, seq_len + 1] on the device. report: called with steps done, steps in all, latest loss.
    look: called with steps done at `looks` points, evenly spread between start and end, with the model as it is then;
    its time is no part of training's.
    """
    optimizer = Optimizer(model, recipe)
    cost_of = processes.averaging(model)
    parameters = list(model.parameters())
    average = AveragedWeights(parameters, recipe.ema_decay) if recipe.ema_decay else None
    between_readings = 1 if schedule.total_seconds is not None else STEPS_BETWEEN_READINGS[device.type]
    unread: list[Tensor] = []
    model.train()

    def read_losses() -> None:
        for loss in processes.mean(torch.stack(unread)).tolist():  # on a GPU, this waits for all that was asked of it
            losses.add(loss)
        unread.clear()
        report(len(losses.values), schedule.expected_steps(len(losses.values), seconds()), losses.values[-1])
        clock.read()  # last, so that a report is no part of the next step

    started = time.perf_counter()
    looking_seconds = 0.0
    steps_to_look = schedule.steps_between(looks)

    def seconds() -> float:
        return time.perf_counter() - started - looking_seconds

    steps, first_step_seconds = 0, 0.0
    while (spent := _spent(schedule, steps, seconds())) < 1 and losses.diverged_at is None:
        unread.append(_gradients(cost_of, recipe, batches, clock))
        processes.clip_gradients(parameters, recipe.grad_clip)
        optimizer.step(schedule.lr(steps, spent))
        if average is not None:
            average.update()
        clock.phase_ended("optimizer")
        clock.step_ended()
        steps += 1
        if steps == 1 or len(unread) == between_readings:
            read_losses()
        if steps == 1:
            first_step_seconds = seconds()
        if steps in steps_to_look:
            if unread:
                read_losses()
            look_started = time.perf_counter()
            model.train(False)
            look(steps)
            model.train()
            looking_seconds += time.perf_counter() - look_started
            clock.read()
    if unread:
        read_losses()
    total_seconds = seconds()
    if average is not None:
        average.copy_to_model()
    return Spent(total_seconds, first_step_seconds, steps)


def _spent(schedule: Schedule, steps: int, seconds: float) -> float:
    """Where the clock decides when to end, all processes go by the first one's; a first step there always is."""
    if schedule.total_seconds is None or not steps:
        return schedule.spent(steps, 0.0)
    return schedule.spent(steps, of_first(seconds))


def _gradients(cost_of: Cost, recipe: Recipe, batches: Iterator[Tensor], clock: StepClock) -> Tensor:
    """Leaves the gradients of one step's passes in the parameters; returns the mean cost, a scalar still on its way."""
    costs = []
    for _ in range(recipe.grad_accumulation):
        batch = next(batches)
        clock.phase_ended("data")
        cost = cost_of(batch[:, :-1], batch[:, 1:]).mean() / recipe.grad_accumulation
        clock.phase_ended("forward")
        cost.backward()
        clock.phase_ended("backward")
        costs.append(cost.detach())
    return torch.stack(costs).sum()
