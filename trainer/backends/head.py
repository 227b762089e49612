"""The cost of a prediction, computed so that float32 logits never exist for all tokens at once."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits turned to float32 at a time: few enough to stay in a CPU core's cache, many enough to fill a GPU.
ELEMENTS_AT_A_TIME = {"cpu": 2**19, "cuda": 2**28}
SMALLEST = torch.finfo(torch.float32).tiny


def nats_of_logits(
    logits: Tensor, targets: Tensor, softcap: float = 0.0, z_loss: float = 0.0, compiled: bool = False
) -> Tensor:
    """logits [tokens, vocabulary] of any float type, int64 targets [tokens], to float32 nats [tokens].

    softcap: logits become softcap * tanh(logits / softcap) first (Gemma 2); 0 is off. z_loss: weight of the squared
    logarithm of the softmax's denominator, added to the cost (PaLM); 0 is off. compiled: by torch.compile, which makes
    one pass over the logits of many. Where a gradient is wanted it takes the logits' memory at once, so they must not
    be used again; a cost then ends at 87 nats, its gradient does not.
    """
    return _Nats.apply(logits, targets, softcap, z_loss, compiled)


class _Nats(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, softcap: float, z_loss: float, compiled: bool) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0]
        function = _costs_and_gradients if wants_gradient else _costs
        if compiled:
            function = _compiled(function)
        rows = _rows_at_a_time(logits)
        parts = zip(logits.detach().split(rows), targets.split(rows), strict=True)
        nats = torch.cat([function(part, wanted, softcap, z_loss) for part, wanted in parts])
        if wants_gradient:
            ctx.save_for_backward(logits)  # which are the gradient by now
        return nats

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        gradient, rows = gradient.detach(), _rows_at_a_time(gradient)
        # Part by part: a CPU would turn all of it to float32 and back for a product of two types.
        for part, upstream in zip(gradient.split(rows), gradients[0].split(rows), strict=True):
            part.mul_(upstream[:, None])
        return gradient, None, None, None, None


def _costs(logits: Tensor, targets: Tensor, softcap: float, z_loss: float) -> Tensor:
    capped = _cap(logits.float(), softcap)
    costs = F.cross_entropy(capped, targets, reduction="none")
    return costs + z_loss * capped.logsumexp(-1) ** 2 if z_loss else costs


def _costs_and_gradients(logits: Tensor, targets: Tensor, softcap: float, z_loss: float) -> Tensor:
    """Leaves in the logits the gradient of each row's cost."""
    capped = _cap(logits.float(), softcap)
    gradient = capped.softmax(-1)
    costs = -gradient.gather(1, targets[:, None]).squeeze(1).clamp_(min=SMALLEST).log()
    if z_loss:
        log_denominator = capped.logsumexp(-1)
        costs += z_loss * log_denominator**2
        gradient *= 1 + 2 * z_loss * log_denominator[:, None]
    gradient.scatter_add_(1, targets[:, None], gradient.new_full((len(targets), 1), -1.0))
    if softcap:
        gradient *= 1 - (capped / softcap) ** 2
    logits.copy_(gradient)
    return costs


def _cap(logits: Tensor, softcap: float) -> Tensor:
    return softcap * torch.tanh(logits / softcap) if softcap else logits


@lru_cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function, dynamic=False)


def _rows_at_a_time(logits: Tensor) -> int:
    """As equal as they can be: another number of rows would be compiled anew."""
    parts = math.ceil(logits.numel() / ELEMENTS_AT_A_TIME[logits.device.type])
    return math.ceil(len(logits) / parts)
