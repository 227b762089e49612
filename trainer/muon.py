"""Muon: momentum turned so that it moves a matrix evenly in all directions, for all matrices of one shape at once."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

# As published (Jordan 2024), and as torch.optim.Muon has them.
MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
EPSILON = 1e-7
# So scaled, updates are as large as AdamW's usually are, and one learning rate serves both (Moonlight 2025).
SCALE = 0.2
# Of one batch: enough to fill a GPU, few enough that memory does not grow with the model (14 bytes each).
ELEMENTS_AT_A_TIME = 2**26


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon with adjust_lr_fn "match_rms_adamw", but for two things.

    A parameter that is several matrices laid on each other (queries, keys and values; gate and rest) has each turned
    on its own, as published (Jordan 2024; Megatron-Core's muon_split_qkv). And matrices of one shape are multiplied in
    one batch: of a small model's some hundred products, each too small to fill a GPU, some thirty are left.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        stacks: Mapping[nn.Parameter, tuple[int, ...]],
        lr: float,
        weight_decay: float,
    ) -> None:
        """stacks: see trainer.backends.Model."""
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})
        self._stacks = stacks

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix from its gradient."""
        for group in self.param_groups:
            matrices = group["params"]
            gradients = [matrix.grad for matrix in matrices]
            momenta = [self._momentum(matrix) for matrix in matrices]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            updates = list(torch._foreach_lerp(gradients, momenta, MOMENTUM))  # Nesterov's look ahead
            self._turn(matrices, updates)
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(matrices, updates, alpha=-group["lr"])

    def _momentum(self, matrix: nn.Parameter) -> Tensor:
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        momentum: Tensor = state["momentum"]
        return momentum

    def _turn(self, matrices: list[nn.Parameter], updates: list[Tensor]) -> None:
        """In place: each matrix's update becomes its orthogonalised one, scaled."""
        by_shape: dict[tuple[int, ...], list[Tensor]] = {}
        for matrix, update in zip(matrices, updates, strict=True):
            rows = self._stacks.get(matrix, (len(update),))
            # [turns, rows, columns]: a view, since the rows of one matrix need not be neighbours.
            for part in update.unflatten(0, (-1, sum(rows))).split(rows, 1):
                by_shape.setdefault(part.shape, []).append(part)
        for shape, parts in by_shape.items():
            at_a_time = max(1, ELEMENTS_AT_A_TIME // math.prod(shape))
            for first in range(0, len(parts), at_a_time):
                batch = parts[first : first + at_a_time]
                turned = orthogonalised(torch.stack(batch).flatten(1, 2))
                turned = turned.to(batch[0].dtype) * (SCALE * math.sqrt(max(turned.shape[1:])))
                torch._foreach_copy_(batch, list(turned.unflatten(1, shape[:2])))


def orthogonalised(matrices: Tensor) -> Tensor:
    """[n, rows, columns] of any float type to bfloat16 of that shape: every singular value moved near 1.

    Newton and Schulz's iteration with Jordan's coefficients, which moves them to between about 0.5 and 1.5.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    norms = matrices.norm(dim=(1, 2), keepdim=True).clamp(min=EPSILON)
    x = (matrices / norms).bfloat16()
    if is_tall:
        x = x.mT
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
