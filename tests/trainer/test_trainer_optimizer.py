"""How each kind of weight is updated, and what is scored when weights are averaged."""

from typing import Any

import pytest
import torch
from worker_process import RECIPE

from trainer.backends.torch_gpt import GPT, TorchBackend
from trainer.optimizer import AveragedWeights, Optimizer
from trainer.recipe import Recipe

MATRIX, EMBEDDING, NORM = "blocks.0.mlp.expand.weight", "token_embedding.weight", "blocks.0.mlp_norm.weight"


def stepped(steps: int = 1, **knobs: Any) -> tuple[GPT, GPT]:
    """A model as it starts, and after some steps on one batch."""
    recipe = Recipe(**(RECIPE | {"weight_decay": 0.0} | knobs))
    start, model = (TorchBackend().build(recipe, 512, torch.device("cpu"), seed=0) for _ in range(2))
    tokens = torch.randint(1, 512, (4, 33), generator=torch.Generator().manual_seed(0))
    optimizer = Optimizer(model, recipe)
    for _ in range(steps):
        model(tokens[:, :-1], tokens[:, 1:]).mean().backward()
        optimizer.step(lr=0.01)
    return start, model


def change(name: str, **knobs: Any) -> torch.Tensor:
    start, model = stepped(**knobs)
    return (model.get_parameter(name) - start.get_parameter(name)).detach()


def test_adams_first_step_moves_every_weight_by_the_learning_rate() -> None:
    for name in (MATRIX, EMBEDDING, NORM):
        moved = change(name).abs()
        assert moved[moved > 1e-4].median().item() == pytest.approx(0.01, rel=0.02)


def test_muon_turns_a_matrix_evenly_in_all_directions_and_leaves_the_rest_to_adam() -> None:
    # Half of the singular values of an orthogonalised update are near the largest; those of Adam's fall off.
    flatness = {}
    for kind in ("adamw", "muon"):
        values = torch.linalg.svdvals(change(MATRIX, optimizer=kind))
        flatness[kind] = (values.median() / values.max()).item()
    assert flatness["muon"] > 0.6 > 0.4 > flatness["adamw"]
    for name in (EMBEDDING, NORM):
        assert torch.equal(change(name, optimizer="muon"), change(name, optimizer="adamw"))


def test_muons_updates_are_about_as_large_as_adams() -> None:
    sizes = [change(MATRIX, optimizer=kind).square().mean().sqrt().item() for kind in ("adamw", "muon")]
    assert 0.1 < sizes[1] / sizes[0] < 1


def test_embeddings_learn_at_their_own_rate() -> None:
    assert not change(EMBEDDING, embedding_lr_multiplier=0.0).any()
    torch.testing.assert_close(change(EMBEDDING, embedding_lr_multiplier=3.0), 3 * change(EMBEDDING))
    assert torch.equal(change(MATRIX, embedding_lr_multiplier=3.0), change(MATRIX))


def test_weight_decay_is_for_matrices_alone() -> None:
    assert torch.equal(change(NORM, weight_decay=0.5), change(NORM))
    for kind in ("adamw", "muon"):
        start, plain = stepped(optimizer=kind)
        _, decayed = stepped(optimizer=kind, weight_decay=0.5)
        for name in (MATRIX, EMBEDDING):
            shrunk = plain.get_parameter(name) - decayed.get_parameter(name)
            torch.testing.assert_close(shrunk, 0.01 * 0.5 * start.get_parameter(name), atol=1e-6, rtol=0.01)


def test_averaged_weights_follow_the_recent_ones_and_forget_the_start() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    average = AveragedWeights([weight], decay=0.99)
    for _ in range(100):
        with torch.no_grad():
            weight.add_(1)
        average.update()
    average.copy_to_model()
    # With a plain decay of 0.99 the mean lag would be 63 of 100 steps, most of it the start's.
    assert 80 < weight[0].item() < 95
