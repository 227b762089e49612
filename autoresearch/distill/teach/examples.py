"""A corpus as tokens: the answer alone is learned, and a row that does not fit is refused, never cut."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch.errors import UserError
from rails import clean

NOT_LEARNED = -100  # as torch's cross entropy and all trainers have it


@dataclass(frozen=True)
class Example:
    """labels: those of the answer and what ends it, NOT_LEARNED for all tokens before; as many as there are ids."""

    ids: list[int]
    labels: list[int]
    weight: float
    answer: str

    @property
    def prompt(self) -> list[int]:
        return self.ids[: len(self.ids) - self.supervised]

    @property
    def supervised(self) -> int:
        return sum(label != NOT_LEARNED for label in self.labels)


def read_examples(path: Path, tokenizer: Any, max_length: int) -> list[Example]:
    """One for each line; the tokenizer is one of transformers.

    Raises UserError that names the line which is no row, from which nothing would be learned, or which is longer.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} cannot be read: make a corpus with `autoresearch distill corpus`") from None
    named = [(f"{path.name} line {n}", line) for n, line in enumerate(lines, 1) if line.strip()]
    if not named:
        raise UserError(f"{path} holds no rows: make the corpus of more trials, with some held out (--hold-out 0.2)")
    examples = {name: _example(name, line, tokenizer) for name, line in named}
    if not any(example.weight for example in examples.values()):
        raise UserError(f"{path}: all weights are 0, so nothing can be learned from it: make the corpus anew")
    longer = {name: len(example.ids) for name, example in examples.items() if len(example.ids) > max_length}
    if longer:
        name = max(longer, key=lambda name: longer[name])
        raise UserError(
            f"{name} has {longer[name]:,} tokens and --max-length is {max_length:,} (longer rows: {len(longer)}); an "
            f"answer is never cut: give --max-length {longer[name]}, which takes more memory, or leave such rows out"
        )
    return list(examples.values())


def _example(name: str, line: str, tokenizer: Any) -> Example:
    try:
        record = json.loads(line)
        messages = [{"role": str(each["role"]), "content": str(each["content"])} for each in record["messages"]]
        weight = float(record.get("weight", 1.0))
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{name} is no row with messages and a weight of 0 or more: make the corpus anew") from None
    if not messages or messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise UserError(f"{name} has no answer, so no token of it would be learned: leave that row out")
    prompt = _tokens(name, tokenizer, messages[:-1], True)
    ids = _tokens(name, tokenizer, messages, False)
    if ids[: len(prompt)] != prompt:
        raise UserError(
            f"{name}: the tokenizer's chat template changes the question once an answer follows, so what is to be "
            "learned cannot be told apart: take another --base"
        )
    example = Example(ids, [NOT_LEARNED] * len(prompt) + ids[len(prompt) :], weight, messages[-1]["content"])
    if not example.supervised:
        raise UserError(f"{name} has no token that would be learned: the chat template leaves answers out")
    return example


def _tokens(name: str, tokenizer: Any, messages: Sequence[dict[str, str]], asks: bool) -> list[int]:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=True, return_dict=False, add_generation_prompt=asks
        )
    except TemplateError as error:
        raise UserError(f"{name}: the tokenizer's chat template refuses it ({clean(str(error), 200)})") from None
