"""The output layer and its cross-entropy as one step, so that float32 logits never exist for all tokens at once."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits turned to float32 at a time: few enough to stay in a CPU core's cache, many enough to fill a GPU.
ELEMENTS_AT_A_TIME = {"cpu": 2**19, "cuda": 2**28}


def cost_in_nats(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """x [tokens, width], weight [vocabulary, width] of one dtype, int64 targets [tokens], to float32 nats [tokens].

    Products run in the dtype of x and weight; softmax and logarithm in float32.
    """
    return _HeadCost.apply(x, weight, targets)


class _HeadCost(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        logits = x @ weight.t()
        ctx.save_for_backward(x, weight, targets, logits)
        parts = zip(_split(logits), targets.split(_rows(logits)), strict=True)
        return torch.cat([F.cross_entropy(part.float(), wanted, reduction="none") for part, wanted in parts])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, targets, logits = ctx.saved_tensors
        rows = _rows(logits)
        parts = zip(_split(logits), targets.split(rows), gradients[0].split(rows), strict=True)
        for part, wanted, gradient in parts:
            share = part.float().softmax(-1)
            share.scatter_add_(1, wanted[:, None], share.new_full((len(wanted), 1), -1.0))
            part.copy_(share.mul_(gradient[:, None]))  # the logits are not needed again: their room is
        return logits @ weight, logits.t() @ x, None


def _rows(logits: Tensor) -> int:
    return max(1, ELEMENTS_AT_A_TIME[logits.device.type] // logits.shape[1])


def _split(logits: Tensor) -> tuple[Tensor, ...]:
    return logits.split(_rows(logits))
