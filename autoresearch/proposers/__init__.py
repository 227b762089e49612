"""Where changes come from: each proposer answers one untrusted text per trial, which the rails then judge."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from autoresearch.config import ProposerSettings
from autoresearch.proposer_name import ProposerName
from autoresearch.proposers.proposer import NothingLeft, Proposer

if TYPE_CHECKING:
    from autoresearch.proposers.talk import Advised

__all__ = ["NothingLeft", "Proposer", "make_proposer"]


def make_proposer(settings: ProposerSettings) -> Proposer:
    """The proposer that study.toml names; `auto` is the hybrid where a language model is configured, else gp. Raises
    UserError for a student's folder that holds none."""
    from autoresearch.proposers.bayes import BayesProposer
    from autoresearch.proposers.classic import RandomProposer

    name = ProposerName.read(settings.name)
    kind = name.kind
    if kind == "auto":
        configured = settings.base_url or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_KEY")
        kind = "hybrid" if configured else "gp"
    if kind == "random":
        return RandomProposer()
    if kind == "tpe":
        from autoresearch.proposers.tpe import TpeProposer

        return TpeProposer()
    optimizer = BayesProposer()
    if kind == "gp":
        return optimizer
    model = _model(name, settings, optimizer)
    if not name.is_hybrid:
        return model
    from autoresearch.proposers.hybrid import HybridProposer

    return HybridProposer(optimizer, model, settings.model_share)


def _model(name: ProposerName, settings: ProposerSettings, fallback: Proposer) -> Advised:
    """What proposes alone, or beside an optimizer; each loads its libraries when it is asked for."""
    if name.folder is None:
        from autoresearch.proposers.llm import LlmProposer

        return LlmProposer(settings, fallback)
    if name.model == "lora":
        from autoresearch.proposers.lora import LoraProposer

        return LoraProposer(name.folder, settings, fallback)
    from autoresearch.proposers.scratch import ScratchProposer

    return ScratchProposer(name.folder, fallback)
