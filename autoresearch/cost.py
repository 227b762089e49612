"""What a search costs: the energy of its runs and the tokens of its language model, at the prices of study.toml."""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch.config import Settings
from autoresearch.workers.energy import JOULES_PER_KWH

MILLION = 1e6


@dataclass(frozen=True)
class Cost:
    """In the currency of [energy]. energy: None where nobody wrote any down; tokens: None where none that has a price
    was counted."""

    energy: float | None
    tokens: float | None

    @property
    def total(self) -> float | None:
        known = [part for part in (self.energy, self.tokens) if part is not None]
        return sum(known) if known else None


def cost(settings: Settings, joules: float | None, prompt_tokens: int, completion_tokens: int) -> Cost:
    """joules: None: not known. A server that counts no tokens has 0 of them."""
    energy = None if joules is None else joules / JOULES_PER_KWH * settings.energy.price_per_kwh
    paid = [
        tokens / MILLION * price
        for tokens, price in (
            (prompt_tokens, settings.proposer.price_per_million_prompt_tokens),
            (completion_tokens, settings.proposer.price_per_million_completion_tokens),
        )
        if tokens and price is not None
    ]
    return Cost(energy, sum(paid) if paid else None)
