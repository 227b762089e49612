"""The cost of a prediction, computed so that float32 logits never exist for all tokens at once."""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# The output layer's product has as many columns as the next multiple of this: a GPU's fast kernels want rows that
# start at multiples of 16 bytes and tiles that fill, and 50257 gives neither.
VOCABULARY_MULTIPLE = 128

# Logits turned to float32 at a time: few enough to stay in a CPU core's cache, many enough to fill a GPU.
ELEMENTS_AT_A_TIME = {"cpu": 2**19, "cuda": 2**28}
SMALLEST = torch.finfo(torch.float32).tiny

Constant = float | Tensor | None  # None: off
Costs = Callable[[Tensor, Tensor, Constant, Constant], Tensor]


def padded_logits(x: Tensor, weight: Tensor) -> Tensor:
    """x [tokens, d_model], weight [vocabulary, d_model], to [tokens, vocabulary to the next VOCABULARY_MULTIPLE].

    The weight is filled up with zeros for the product alone: no parameter, norm or average ever holds them.
    """
    if missing := -len(weight) % VOCABULARY_MULTIPLE:
        weight = F.pad(weight, (0, 0, 0, missing))
    return F.linear(x, weight)


def nats_of_logits(
    logits: Tensor,
    targets: Tensor,
    softcap: float = 0.0,
    z_loss: float = 0.0,
    compiled: bool = False,
    vocab_size: int | None = None,
) -> Tensor:
    """logits [tokens, vocabulary] of any float type, int64 targets [tokens], to float32 nats [tokens].

    softcap: logits become softcap * tanh(logits / softcap) first (Gemma 2); 0 is off. z_loss: weight of the squared
    logarithm of the softmax's denominator, added to the cost (PaLM); 0 is off. compiled: by torch.compile, which makes
    one pass over the logits of many. vocab_size: columns after so many are padding: they have no probability, and
    their gradient is 0. Where a gradient is wanted it takes the logits' memory at once, so they must not be used
    again; a cost then ends at 87 nats unless compiled, its gradient does not.
    """
    return _Nats.apply(logits, targets, softcap, z_loss, compiled, vocab_size)


class _Nats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        softcap: float,
        z_loss: float,
        compiled: bool,
        vocab_size: int | None,
    ) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0]
        costs_of: Costs = _costs_and_gradients if wants_gradient else _costs
        constants: list[Constant] = [softcap or None, z_loss or None]
        if compiled:
            costs_of = _compiled(wants_gradient)
            constants = [_as_tensor(value, logits.device) if value else None for value in (softcap, z_loss)]
        rows = _rows_at_a_time(logits)
        real = logits.detach()[:, :vocab_size]
        parts = zip(real.split(rows), targets.split(rows), strict=True)
        nats = torch.cat([costs_of(part, wanted, *constants) for part, wanted in parts])
        if wants_gradient:
            if vocab_size is not None:
                logits.detach()[:, vocab_size:].zero_()
            ctx.save_for_backward(logits)  # which are the gradient by now
        return nats

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        gradient, rows = gradient.detach(), _rows_at_a_time(gradient)
        # Part by part: a CPU would turn all of it to float32 and back for a product of two types.
        for part, upstream in zip(gradient.split(rows), gradients[0].split(rows), strict=True):
            part.mul_(upstream[:, None])
        return gradient, None, None, None, None, None


def _costs(logits: Tensor, targets: Tensor, softcap: Constant, z_loss: Constant) -> Tensor:
    capped = _cap(logits.float(), softcap)
    costs = F.cross_entropy(capped, targets, reduction="none")
    return costs if z_loss is None else costs + z_loss * capped.logsumexp(-1) ** 2


def _costs_and_gradients(logits: Tensor, targets: Tensor, softcap: Constant, z_loss: Constant) -> Tensor:
    """Leaves in the logits the gradient of each row's cost."""
    capped = _cap(logits.float(), softcap)
    gradient = capped.softmax(-1)
    costs = -gradient.gather(1, targets[:, None]).squeeze(1).clamp_(min=SMALLEST).log()
    if z_loss is not None:
        log_denominator = capped.logsumexp(-1)
        costs += z_loss * log_denominator**2
        gradient *= 1 + 2 * z_loss * log_denominator[:, None]
    gradient.scatter_add_(1, targets[:, None], gradient.new_full((len(targets), 1), -1.0))
    if softcap is not None:
        gradient *= 1 - (capped / softcap) ** 2
    logits.copy_(gradient)
    return costs


def _in_one_pass(wants_gradient: bool, logits: Tensor, targets: Tensor, softcap: Constant, z_loss: Constant) -> Tensor:
    """Either of the above in the form to compile: nothing of the logits' size is used twice, so none of it is stored.

    The comparison with the target, free there, would take a hundred times scatter_add_'s time uncompiled on a CPU.
    """
    capped = _cap(logits.float(), softcap)
    is_target = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    log_denominator = capped.logsumexp(-1, keepdim=True)
    costs = log_denominator - torch.where(is_target, capped, 0.0).sum(-1, keepdim=True)
    if z_loss is not None:
        costs = costs + z_loss * log_denominator**2
    if wants_gradient:
        gradient = (capped - log_denominator).exp()
        if z_loss is not None:
            gradient = gradient * (1 + 2 * z_loss * log_denominator)
        gradient = gradient - is_target.float()
        if softcap is not None:
            gradient = gradient * (1 - (capped / softcap) ** 2)
        logits.copy_(gradient)
    return costs.squeeze(1)


def _cap(logits: Tensor, softcap: Constant) -> Tensor:
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _as_tensor(value: float, device: torch.device) -> Tensor:
    """As a number it would be part of the compiled code, and each new value would be compiled anew."""
    return torch.full((), value, dtype=torch.float32, device=device)


@lru_cache
def _compiled(wants_gradient: bool) -> Costs:
    return torch.compile(partial(_in_one_pass, wants_gradient), dynamic=False)


def _rows_at_a_time(logits: Tensor) -> int:
    """All parts equal where a number of parts does that, else all but the last: another size is compiled anew."""
    fewest = math.ceil(logits.numel() / ELEMENTS_AT_A_TIME[logits.device.type])
    parts = next((parts for parts in range(fewest, 2 * fewest) if len(logits) % parts == 0), fewest)
    return math.ceil(len(logits) / parts)
