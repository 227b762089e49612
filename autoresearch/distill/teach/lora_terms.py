"""What the two sides of an adapter's training say to each other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

MERGED = "merged"  # the folder of the base with the adapter in it


@dataclass(frozen=True)
class LoraRequest:
    """One training. Two that are equal go on with each other.

    corpus: folder; sha256: of its two JSONL files, one after the other; base: folder, or a name on Hugging Face's hub;
    batch: rows a step; max_length: tokens of a row; patience: evaluations without a lower held-out loss after which it
    ends; evaluate_every: steps.
    """

    corpus: str
    sha256: str
    base: str
    epochs: int = 3
    batch: int = 16
    lr: float = 2e-4
    max_length: int = 8192
    patience: int = 3
    evaluate_every: int = 20
    seed: int = 0
    merge: bool = False


@dataclass(frozen=True)
class Answers:
    """What a model answered to what was held out. readable: of the wire format; matched: with the changes that were
    held out."""

    asked: int
    readable: int
    matched: int


@dataclass(frozen=True)
class LoraResult:
    """Losses in nats per supervised token, by weight, over what was held out; of the base, and of the adapter at its
    best step. history: [step, held-out loss]. seconds: of all attempts, as far as a kill has not undone them."""

    base_loss: float
    loss: float
    best_step: int
    step: int
    steps: int
    history: list[list[float]]
    base_answers: Answers
    answers: Answers
    rows: int
    supervised_tokens: int
    longest_row: int
    trained_parameters: int
    seconds: float
    device: str
    template: str  # tokenizer or ours
    versions: dict[str, str]


def read_request(path: Path) -> LoraRequest:
    return LoraRequest(**json.loads(path.read_text("utf-8")))


def read_result(path: Path) -> LoraResult:
    found = json.loads(path.read_text("utf-8"))
    answers = {key: Answers(**found[key]) for key in ("base_answers", "answers")}
    return LoraResult(**{**found, **answers})
