"""Where changes come from: each proposer answers one untrusted text per trial, which the rails then judge."""

from __future__ import annotations

import os

from autoresearch.config import ProposerSettings
from autoresearch.proposers.proposer import NothingLeft, Proposer

__all__ = ["NothingLeft", "Proposer", "make_proposer"]


def make_proposer(settings: ProposerSettings) -> Proposer:
    """The proposer that study.toml names; `auto` is the hybrid where a language model is configured, else gp."""
    from autoresearch.proposers.bayes import BayesProposer
    from autoresearch.proposers.classic import RandomProposer

    name = settings.name
    if name == "auto":
        configured = settings.base_url or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_KEY")
        name = "hybrid" if configured else "gp"
    if name == "random":
        return RandomProposer()
    if name == "tpe":
        from autoresearch.proposers.tpe import TpeProposer

        return TpeProposer()
    if name == "gp":
        return BayesProposer()
    from autoresearch.proposers.llm import LlmProposer

    optimizer = BayesProposer()
    model = LlmProposer(settings, fallback=optimizer)
    if name == "llm":
        return model
    from autoresearch.proposers.hybrid import HybridProposer

    return HybridProposer(optimizer, model, settings.model_share)
