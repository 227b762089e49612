"""How much of the budget is spent, and the learning rate that follows from it."""

import math
from dataclasses import dataclass

FINAL_SHARE = 0.1  # of the peak learning rate, at the end of the cosine


@dataclass
class Schedule:
    """Linear warmup over `warmup_steps`, then a cosine to a tenth of the peak at the end of the budget.

    total_steps is None for a budget in seconds: the cosine then follows the clock.
    """

    peak: float
    warmup_steps: int
    total_steps: int | None
    total_seconds: float | None
    _warmup_spent: float = 0.0  # share of the budget that was gone when the warmup ended

    @classmethod
    def of(cls, budget: dict[str, float], peak: float, warmup_steps: int, tokens_per_step: int) -> "Schedule":
        """Raises ValueError for a budget that does not pay for one step."""
        ((unit, amount),) = budget.items()
        if unit == "seconds":
            return cls(peak, warmup_steps, None, amount)
        steps = int(amount) // tokens_per_step if unit == "tokens" else int(amount)
        if steps < 1:
            raise ValueError(
                f"budget of {amount} tokens does not pay for one step of {tokens_per_step} tokens "
                "(batch_size times seq_len); raise the budget or lower one of them"
            )
        return cls(peak, warmup_steps, steps, None)

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

    def lr(self, steps_done: int, spent: float) -> float:
        """The learning rate of the next step."""
        if steps_done <= self.warmup_steps:
            self._warmup_spent = spent
        if steps_done < self.warmup_steps:
            return self.peak * (steps_done + 1) / self.warmup_steps
        progress = min(1.0, (spent - self._warmup_spent) / max(1e-9, 1.0 - self._warmup_spent))
        return self.peak * (FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * progress)))
