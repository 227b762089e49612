"""A linear layer whose three matrix products run in 8-bit floating point, scaled per tensor."""

from typing import Any

import torch
from torch import Tensor, nn

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2  # gradients need range more than digits


class Float8Linear(nn.Linear):
    """nn.Linear without bias, [..., in] to bfloat16 [..., out]. Widths and the rows in training: multiples of 16.

    Each operand is scaled by its own largest magnitude of this very step (dynamic scaling), so there is no history
    to carry between steps or runs. Master weights stay float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        flat = _Float8Product.apply(x.flatten(0, -2), self.weight)
        return flat.view(*x.shape[:-1], self.out_features)


class _Float8Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x8, x_scale = _quantise(x, FORWARD)
        w8, w_scale = _quantise(weight, FORWARD)
        ctx.save_for_backward(x8, x_scale, w8, w_scale)
        ctx.input_type = x.dtype
        return _product(x8, x_scale, w8, w_scale, torch.bfloat16, fast=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x8, x_scale, w8, w_scale = ctx.saved_tensors
        g8, g_scale = _quantise(gradients[0], BACKWARD)
        # The kernel takes a row-major left and a column-major right operand, hence the copies of the transposes.
        x_gradient = _product(g8, g_scale, w8.t().contiguous(), w_scale, ctx.input_type)
        w_gradient = _product(g8.t().contiguous(), g_scale, x8.t().contiguous(), x_scale, torch.float32)
        return x_gradient, w_gradient


def _quantise(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """The tensor in 8 bits and the float32 scalar that undoes its scaling."""
    scale = x.abs().amax().float().clamp(min=1e-12) / torch.finfo(kind).max
    return (x / scale).to(kind), scale


def _product(
    left: Tensor, left_scale: Tensor, right: Tensor, right_scale: Tensor, kind: torch.dtype, fast: bool = False
) -> Tensor:
    """left [m, k] times the transpose of right [n, k].

    fast: partial sums stay in the tensor cores, which hold fewer digits than float32; a Hopper loses much of its speed
    to moving them out. As torchao and Transformer Engine do, for outputs alone: gradients keep float32 sums.
    """
    return torch._scaled_mm(
        left, right.t(), scale_a=left_scale, scale_b=right_scale, out_dtype=kind, use_fast_accum=fast
    )
