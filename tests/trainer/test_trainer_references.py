"""What the trainer is measured against computes the trainer's own function, with a head of any width."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from reference_models import REFERENCES
from worker_process import RECIPE

from trainer.backends.torch_gpt import TorchBackend
from trainer.recipe import Recipe

VOCAB_SIZE = 509


@pytest.mark.parametrize("name", list(REFERENCES))
def test_a_references_loss_and_gradients_are_the_trainers_and_torchs_own(name: str) -> None:
    if name.startswith("huggingface") and find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    recipe = Recipe(**RECIPE)
    model = TorchBackend().build(recipe, VOCAB_SIZE, torch.device("cpu"), seed=0)
    weights = {key: weight.detach().clone() for key, weight in model.named_parameters()}
    reference = REFERENCES[name](recipe, VOCAB_SIZE, weights)
    tokens = torch.randint(1, VOCAB_SIZE, (4, 33), generator=torch.Generator().manual_seed(0))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    torchs = F.cross_entropy(model.logits(inputs)[:, :VOCAB_SIZE], targets.flatten())
    losses = [model(inputs, targets).mean(), reference(inputs, targets)]
    assert [loss.item() for loss in losses] == pytest.approx([torchs.item()] * 2, abs=1e-6)
    for loss in losses:
        loss.backward()
    found = next(p for p in reference.parameters() if len(p) in (VOCAB_SIZE, 512)).grad
    assert found is not None and len(found) == (512 if name.endswith("padded") else VOCAB_SIZE)
    torch.testing.assert_close(found[:VOCAB_SIZE], model.token_embedding.weight.grad, rtol=1e-4, atol=1e-7)
    assert not found[VOCAB_SIZE:].any()
