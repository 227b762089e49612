"""The training loop: batches in, a trained model and its loss curve out, until the budget is spent."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from trainer.backends import Model
from trainer.recipe import Recipe
from trainer.schedule import Schedule

CURVE_POINTS = 50

# A model that knows nothing starts at the logarithm of the vocabulary size; one that is this far above its own start
# after being smoothed over some ten steps does not come back within a short budget.
DIVERGENCE_MARGIN_NATS = 1.0
SMOOTHING = 0.9
STEPS_BEFORE_JUDGING = 5

# Reading a loss makes the CPU wait for the GPU, so there it is done once in a while.
STEPS_BETWEEN_READINGS = {"cpu": 1, "cuda": 8}

Report = Callable[[int, int, float], None]


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

    def curve(self) -> list[list[float]]:
        """About CURVE_POINTS points [last step of a bin, mean loss over the bin]; bins that hold a NaN are left out."""
        size = max(1, math.ceil(len(self.values) / CURVE_POINTS))
        bins = [self.values[start : start + size] for start in range(0, len(self.values), size)]
        points = [[i * size + len(part), math.fsum(part) / len(part)] for i, part in enumerate(bins)]
        return [[step, round(loss, 6)] for step, loss in points if math.isfinite(loss)]


def train(
    model: Model,
    recipe: Recipe,
    schedule: Schedule,
    batches: Iterator[npt.NDArray[np.int64]],
    device: torch.device,
    losses: Losses,
    report: Report,
) -> float:
    """Trains until the budget is spent or the loss diverges, filling `losses`; returns the seconds it took.

    batches: int64 [batch_size, seq_len + 1]. report: called with steps done, steps in all, latest loss.
    """
    optimizer = _optimizer(model, recipe)
    parameters = list(model.parameters())
    between_readings = 1 if schedule.total_seconds is not None else STEPS_BETWEEN_READINGS[device.type]
    unread: list[torch.Tensor] = []
    model.train()

    def read_losses() -> None:
        for loss in torch.stack(unread).tolist():
            losses.add(loss)
        unread.clear()
        report(len(losses.values), schedule.expected_steps(len(losses.values), seconds()), losses.values[-1])

    started = time.perf_counter()

    def seconds() -> float:
        return time.perf_counter() - started

    steps = 0
    while (spent := schedule.spent(steps, seconds())) < 1 and losses.diverged_at is None:
        lr = schedule.lr(steps, spent)
        for group in optimizer.param_groups:
            group["lr"] = lr
        batch = torch.from_numpy(next(batches)).to(device)
        loss = model(batch[:, :-1], batch[:, 1:]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        unread.append(loss.detach())
        if len(unread) == between_readings:
            read_losses()
    if unread:
        read_losses()
    return seconds()


def _optimizer(model: Model, recipe: Recipe) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), fused=True)
