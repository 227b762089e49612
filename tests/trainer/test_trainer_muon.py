"""Muon in batches against torch's own, one matrix at a time."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from trainer.muon import ELEMENTS_AT_A_TIME, SCALE, Muon, orthogonalised

LR, DECAY = 0.01, 0.1
ROUNDING = 0.05  # of an update: bfloat16's digits, five products deep

Stacks = dict[nn.Parameter, tuple[int, ...]]


def random_matrices(*shapes: tuple[int, int]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def torchs(matrices: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Muon(matrices, lr=LR, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")


def ours(matrices: list[nn.Parameter], stacks: Stacks | None = None) -> torch.optim.Optimizer:
    return Muon(matrices, stacks or {}, LR, DECAY)


def after_steps(optimizer: torch.optim.Optimizer, matrices: list[nn.Parameter], gradients: list[list[Tensor]]) -> None:
    for of_step in gradients:
        for matrix, gradient in zip(matrices, of_step, strict=True):
            matrix.grad = gradient.clone()
        optimizer.step()


@pytest.mark.parametrize("elements_at_a_time", [ELEMENTS_AT_A_TIME, 1000])
def test_each_matrix_moves_as_torchs_own_moves_it(elements_at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.muon.ELEMENTS_AT_A_TIME", elements_at_a_time)
    shapes = [(16, 16), (48, 16), (16, 48), (16, 16), (8, 40), (48, 16)]
    start, left, right = (random_matrices(*shapes) for _ in range(3))
    generator = torch.Generator().manual_seed(1)
    # Of very different sizes, since a batch must not mix its matrices' norms.
    gradients = [[10.0**i * torch.randn(s, generator=generator) for i, s in enumerate(shapes)] for _ in range(3)]
    after_steps(ours(left), left, gradients)
    after_steps(torchs(right), right, gradients)
    for first, a, b in zip(start, left, right, strict=True):
        moved = (b - first).norm()
        assert moved > 0.1 * LR
        assert (a - b).norm() < ROUNDING * moved


@pytest.mark.parametrize("turns", [1, 2])
def test_matrices_laid_on_each_other_move_as_they_would_apart(turns: int) -> None:
    rows, width = (8, 4, 4), 16
    apart = random_matrices(*((turns * count, width) for count in rows))
    gradients = [[torch.randn(m.shape, generator=torch.Generator().manual_seed(i)) for i, m in enumerate(apart)]]

    def together(parts: list[Tensor]) -> Tensor:
        return torch.cat([part.detach().unflatten(0, (turns, -1)) for part in parts], 1).flatten(0, 1)

    stack = nn.Parameter(together(list(apart)))
    after_steps(ours([stack], {stack: rows}), [stack], [[together(gradients[0])]])
    whole = nn.Parameter(together(list(apart)))
    after_steps(ours([whole]), [whole], [[together(gradients[0])]])
    after_steps(torchs(apart), apart, gradients)
    moved = SCALE * LR * stack.numel() ** 0.5
    assert (stack - together(list(apart))).norm() < ROUNDING * moved
    assert (stack - whole).norm() > 5 * ROUNDING * moved


def test_a_gradient_of_zeros_moves_nothing() -> None:
    assert not orthogonalised(torch.zeros(2, 4, 8)).any()


def test_its_momentum_is_part_of_its_state() -> None:
    first, second = random_matrices((8, 8)), random_matrices((8, 8))
    gradients = [[torch.randn(8, 8, generator=torch.Generator().manual_seed(i))] for i in range(3)]
    before, resumed = ours(first), ours(second)
    after_steps(before, first, gradients[:2])
    resumed.load_state_dict(deepcopy(before.state_dict()))
    second[0].data.copy_(first[0].data)
    after_steps(before, first, gradients[2:])
    after_steps(resumed, second, gradients[2:])
    assert torch.equal(first[0], second[0])
