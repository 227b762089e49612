"""The conversation in which a model is taught, and asked once it was: its question, and how that is written.

Texts of others stay data: nothing in them can steer a terminal or be read as a mark of a model's chat format.
"""

from __future__ import annotations

import re

from autoresearch.proposers.lineage import TOKENS
from autoresearch.proposers.prompt import instructions, render
from autoresearch.trial import MAX_PROMPT_BYTES, History
from rails import clean

# Where a tokenizer has no chat template. No text of a question can hold its marks: they are broken.
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# Tokenizers take <|im_end|>, </s>, <start_of_turn> and [INST] within a message for the end of it.
_MARK = re.compile(r"<(?=[|\uff5c/A-Za-z_])|\[(?=/?(?:INST|SYS|AVAILABLE|TOOL))")


def rendered(history: History, lineage_tokens: int | None = TOKENS) -> tuple[str, str]:
    """System message and user message, for one change."""
    return instructions(history), safe(render(history, lineage_tokens))


def safe(text: str) -> str:
    return _MARK.sub(lambda mark: f"{mark[0]} ", printable(text))


def printable(text: str) -> str:
    """Line by line."""
    lines = text.split("\n")
    return "\n".join(line if line.isprintable() else clean(line, MAX_PROMPT_BYTES) for line in lines)
