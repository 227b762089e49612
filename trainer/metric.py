"""Frozen: bits per byte of a fixed text, every byte scored exactly once whatever the recipe."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Tokens scored at a time. A constant, so that no recipe's shape can move the last bit of the result.
EVALUATION_TOKENS = 8192

# Of a text that are scored for one point of a curve on the way.
CURVE_TOKENS = 8192

NatsPerToken = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def bits_per_byte(
    nats_of: NatsPerToken,
    tokens: npt.NDArray[Any],
    text_bytes: int,
    endoftext: int,
    seq_len: int,
    device: torch.device,
    rows: int | None = None,
    report: Callable[[int, int], None] | None = None,
) -> float:
    """The nats that a model needs for the text's tokens, over ln 2 times the text's bytes.

    tokens: one split as stored. text_bytes: UTF-8 bytes of its documents. nats_of: int64 inputs and targets, both
    [rows, length], to the float32 nats of each target. rows: windows at a time; the sum's last digits alone depend
    on it, so every caller leaves it out but the test that shows so. report: called with windows done and all.

    The stream is endoftext and then the tokens; windows of seq_len follow each other without overlap. So each token is
    a target once. endoftext as a target is left out: it is no part of the text. Of it is what fills up the last rows,
    so that every call of nats_of has one shape: whatever is compiled for it serves all texts.
    """
    stream = torch.from_numpy(np.concatenate(([endoftext], tokens)).astype(np.int64))
    rows = rows or max(1, EVALUATION_TOKENS // seq_len)
    batches = math.ceil(len(tokens) / (rows * seq_len))
    added = stream.new_full((batches * rows * seq_len - len(tokens),), endoftext)
    inputs, targets = (torch.cat((part, added)).view(batches, rows, seq_len) for part in (stream[:-1], stream[1:]))

    nats_of_windows: list[float] = []
    for done, (given, wanted) in enumerate(zip(inputs.to(device), targets.to(device), strict=True)):
        nats = nats_of(given, wanted)
        nats_of_windows += nats.double().masked_fill(wanted == endoftext, 0.0).sum(1).tolist()
        if report is not None:
            report(done + 1, batches)
    return math.fsum(nats_of_windows) / (math.log(2) * text_bytes)


def nats_per_token(
    nats_of: NatsPerToken, tokens: npt.NDArray[Any], endoftext: int, seq_len: int, device: torch.device
) -> float:
    """The mean over the text's first CURVE_TOKENS: a cheap look on the way, for curves, never for a decision."""
    part = tokens[:CURVE_TOKENS]
    bits = bits_per_byte(nats_of, part, len(part), endoftext, seq_len, device)
    return bits * math.log(2)
