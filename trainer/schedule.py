"""How much of the budget is spent, and the learning rate that follows from it."""

import math
from dataclasses import dataclass

from trainer.recipe import Recipe

WSD_DECAY_SHARE = 0.2  # of the time after warmup, spent going down (MiniCPM 2024 decays for a tenth, others a fifth)
# What makes a step dear, by the budget's unit.
PRICE_IN_WORDS = {
    "tokens": "batch_size times seq_len times grad_accumulation",
    "flops": "batch_size times seq_len times grad_accumulation, times the model's FLOPs per token",
}


@dataclass
class Schedule:
    """Linear warmup, then the recipe's way down to its final fraction of the peak at the end of the budget.

    cosine: half a wave. linear: a straight line. wsd: stays at the peak, then a straight line at the end.
    total_steps is None for a budget in seconds: the way down then follows the clock.
    """

    kind: str
    peak: float
    final_fraction: float
    warmup_steps: int
    total_steps: int | None
    total_seconds: float | None
    _warmup_spent: float = 0.0  # share of the budget that was gone when the warmup ended

    @classmethod
    def of(cls, budget: dict[str, float], recipe: Recipe, flops_per_token: int | None = None) -> "Schedule":
        """flops_per_token: of the built model; only a budget in flops needs it.

        Raises ValueError for a budget that does not pay for one step.
        """
        ((unit, amount),) = budget.items()
        shape = (recipe.schedule, recipe.lr, recipe.final_lr_fraction, recipe.lr_warmup)
        if unit == "seconds":
            return cls(*shape, None, amount)
        price = _price_of_a_step(unit, recipe, flops_per_token)
        steps = int(amount // price)
        if steps < 1:
            raise ValueError(
                f"budget of {_amount(amount)} {unit} does not pay for one step of {_amount(price)} {unit} "
                f"({PRICE_IN_WORDS[unit]}); raise the budget or lower one of them"
            )
        return cls(*shape, steps, None)

    def spent(self, steps_done: int, seconds: float) -> float:
        """Share of the budget that is gone; the run is over at 1."""
        if self.total_seconds is not None:
            return seconds / self.total_seconds
        assert self.total_steps is not None
        return steps_done / self.total_steps

    def expected_steps(self, steps_done: int, seconds: float) -> int:
        """Steps in all; a guess from the pace so far where the budget is in seconds."""
        if self.total_steps is not None:
            return self.total_steps
        return max(steps_done, round(steps_done / max(1e-9, self.spent(steps_done, seconds))))

    def steps_between(self, points: int) -> frozenset[int]:
        """So many steps, evenly spread between the first and the last; none for a budget in seconds."""
        if self.total_steps is None:
            return frozenset()
        shares = (point / (points + 1) for point in range(1, points + 1))
        return frozenset(round(self.total_steps * share) for share in shares) - {0, self.total_steps}

    def lr(self, steps_done: int, spent: float) -> float:
        """The learning rate of the next step."""
        if steps_done <= self.warmup_steps:
            self._warmup_spent = spent
        if steps_done < self.warmup_steps:
            return self.peak * (steps_done + 1) / self.warmup_steps
        progress = min(1.0, (spent - self._warmup_spent) / max(1e-9, 1.0 - self._warmup_spent))
        return self.peak * (self.final_fraction + (1 - self.final_fraction) * self._height(progress))

    def _height(self, progress: float) -> float:
        """From 1 at the peak to 0 at the end."""
        if self.kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        if self.kind == "linear":
            return 1 - progress
        return min(1.0, (1 - progress) / WSD_DECAY_SHARE)


def _price_of_a_step(unit: str, recipe: Recipe, flops_per_token: int | None) -> int:
    """In the budget's unit; `rails.fit.budget_steps` counts the same."""
    if unit != "flops":
        return recipe.tokens_per_step if unit == "tokens" else 1
    assert flops_per_token is not None, "a budget in flops needs the model's FLOPs per token"
    return recipe.tokens_per_step * flops_per_token


def _amount(value: float) -> str:
    return f"{value:.0f}" if value < 1e9 else f"{value:g}"
