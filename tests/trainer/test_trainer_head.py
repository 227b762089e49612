"""The output layer and its cost: a vocabulary of any size, and one graph for all values of a knob."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._inductor.compile_fx
from torch import Tensor
from worker_process import RECIPE

from trainer.backends import head
from trainer.backends.torch_gpt import TorchBackend
from trainer.data import Dataset
from trainer.metric import bits_per_byte, nats_per_token
from trainer.optimizer import AveragedWeights, Optimizer
from trainer.parallel import ALONE
from trainer.recipe import Recipe

CPU = torch.device("cpu")
CONSTANTS = [(0.0, 0.0), (5.0, 0.0), (0.0, 0.01), (5.0, 0.01)]  # softcap, z_loss


def random_tokens(*shape: int, below: int) -> Tensor:
    return torch.randint(1, below, shape, generator=torch.Generator().manual_seed(0))


def costs(vocab_size: int, **changes: Any) -> tuple[list[float], Tensor]:
    """Of a few steps, and the costs of the tokens in scoring before them."""
    recipe = Recipe(**(RECIPE | {"init_std": 0.1} | changes))
    model = TorchBackend().build(recipe, vocab_size, CPU, seed=0)
    optimizer, parameters = Optimizer(model, recipe), list(model.parameters())
    inputs, targets = random_tokens(2, 4, 32, below=vocab_size)
    model.train(False)
    with torch.no_grad():
        scored = model(inputs, targets)
    model.train()
    found = []
    for _ in range(5):
        cost = model(inputs, targets).mean()
        cost.backward()
        ALONE.clip_gradients(parameters, recipe.grad_clip)
        optimizer.step(recipe.lr)
        found.append(cost.item())
    return found, scored


@pytest.mark.parametrize("vocab_size", [300, 500])
@pytest.mark.parametrize(
    "changes",
    [{}, {"tied_embeddings": False, "logit_softcap": 5.0, "z_loss": 0.01}, {"precision": "bf16"}],
    ids=["plain", "untied", "bf16"],
)
def test_padding_the_vocabulary_moves_no_bit_of_a_score_and_training_by_rounding_alone(
    vocab_size: int, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    padded, padded_score = costs(vocab_size, **changes)
    monkeypatch.setattr(head, "VOCABULARY_MULTIPLE", 1)
    plain, plain_score = costs(vocab_size, **changes)
    assert torch.equal(padded_score, plain_score)
    assert padded[0] == plain[0] and plain[-1] < 0.95 * plain[0]
    # The backward product's sum over the vocabulary may be cut elsewhere: at 300 it is on some CPUs, at 500 not.
    assert padded == pytest.approx(plain, rel=1e-6)


def test_the_products_rows_start_at_round_numbers_and_a_round_vocabulary_is_taken_as_it_is() -> None:
    x, odd, even = torch.ones(2, 4), torch.ones(300, 4, requires_grad=True), torch.ones(256, 4)
    logits = head.padded_logits(x, odd)
    assert (logits.shape, logits.stride()) == ((2, 384), (384, 1))
    assert logits[:, :300].eq(4).all() and logits[:, 300:].eq(0).all()
    assert head.padded_logits(x, even).shape == (2, 256)


@pytest.mark.parametrize(("softcap", "z_loss"), CONSTANTS)
def test_a_padded_column_has_no_probability_and_no_gradient(softcap: float, z_loss: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 384, generator=generator)
    logits[:, 300:] = 1e4
    targets = random_tokens(40, below=300)
    found, wanted = (part.detach().clone().requires_grad_() for part in (logits, logits[:, :300]))
    nats = head.nats_of_logits(found * 1, targets, softcap, z_loss, vocab_size=300)
    alone = head.nats_of_logits(wanted * 1, targets, softcap, z_loss)
    upstream = torch.rand(40, generator=generator)
    (gradient,), (gradient_alone,) = (torch.autograd.grad(*pair, upstream) for pair in ((nats, found), (alone, wanted)))
    assert torch.equal(nats, alone)
    assert torch.equal(gradient[:, :300], gradient_alone)
    assert not gradient[:, 300:].any()
    with torch.no_grad():
        scored = head.nats_of_logits(logits, targets, softcap, z_loss, vocab_size=300)
        assert torch.equal(scored, head.nats_of_logits(logits[:, :300], targets, softcap, z_loss))


@pytest.mark.parametrize(("softcap", "z_loss"), CONSTANTS)
def test_the_form_to_compile_costs_the_same(softcap: float, z_loss: float) -> None:
    logits = 3 * torch.randn(40, 300, generator=torch.Generator().manual_seed(0))
    targets = random_tokens(40, below=300)
    plain, fused = logits.clone(), logits.clone()
    constants = [constant or None for constant in (softcap, z_loss)]
    tensors = [constant and torch.tensor(constant) for constant in constants]
    wanted = head._costs_and_gradients(plain, targets, *constants)
    torch.testing.assert_close(head._in_one_pass(False, logits, targets, *tensors), wanted)
    torch.testing.assert_close(head._in_one_pass(True, fused, targets, *tensors), wanted)
    torch.testing.assert_close(fused, plain)


@pytest.mark.parametrize(("tokens", "rows"), [(2048, 1024), (1536, 768), (3072, 1024), (4096, 1024), (1031, 516)])
def test_parts_are_equal_where_the_tokens_can_be_shared_so(tokens: int, rows: int) -> None:
    assert head._rows_at_a_time(torch.empty(tokens, 512)) == rows


class Graphs:
    """Stands in for the compiler proper, which takes long: counts what it is asked to compile and runs it as it is."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, module: torch.fx.GraphModule, *_: Any, **__: Any) -> Any:
        self.count += 1
        return module.forward

    def since(self) -> int:
        """Graphs since this was last asked."""
        count, self.count = self.count, 0
        return count


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphs]:
    counted = Graphs()
    monkeypatch.setattr(torch._inductor.compile_fx, "compile_fx", counted)
    torch._dynamo.reset()
    yield counted
    torch._dynamo.reset()


def compiled_run(dataset: Dataset, graphs: Graphs, seed: int = 0, **changes: Any) -> list[int]:
    """Graphs compiled in training, then in scoring both texts and in a look on the way."""
    constants = {"logit_softcap": 30.0, "z_loss": 1e-4, "dropout": 0.1, "ema_decay": 0.9}
    recipe = Recipe(**(RECIPE | constants | changes))
    model = TorchBackend().build(recipe, dataset.manifest.vocab_size, CPU, seed)
    model.compile_blocks()
    optimizer, parameters = Optimizer(model, recipe), list(model.parameters())
    average = AveragedWeights(parameters, recipe.ema_decay)
    windows = dataset.windows(seed, recipe.batch_size, recipe.seq_len)
    for _ in range(2):
        batch = torch.from_numpy(next(windows))
        model(batch[:, :-1], batch[:, 1:]).mean().backward()
        ALONE.clip_gradients(parameters, recipe.grad_clip)
        optimizer.step(recipe.lr)
        average.update()
    average.copy_to_model()
    counts = [graphs.since()]
    model.train(False)
    for tokens in (dataset.val, dataset.test):
        bits_per_byte(model, tokens, 1, dataset.manifest.endoftext, recipe.seq_len, CPU)
    nats_per_token(model, dataset.val, dataset.manifest.endoftext, recipe.seq_len, CPU)
    return [*counts, graphs.since()]


def test_a_run_compiles_a_block_and_a_cost_for_training_and_once_more_for_all_scoring(
    dataset: Dataset, graphs: Graphs
) -> None:
    assert compiled_run(dataset, graphs) == [2, 2]


def test_a_run_that_changes_only_values_compiles_nothing(dataset: Dataset, graphs: Graphs) -> None:
    compiled_run(dataset, graphs)
    values: dict[str, Any] = {
        "lr": 0.1,
        "lr_warmup": 9,
        "grad_clip": 0.3,
        "weight_decay": 0.2,
        "beta1": 0.8,
        "beta2": 0.99,
        "schedule": "wsd",
        "final_lr_fraction": 0.3,
        "init_std": 0.03,
        "logit_softcap": 20.0,
        "z_loss": 2e-4,
        "embedding_lr_multiplier": 2.0,
        "ema_decay": 0.8,
        "grad_accumulation": 2,
    }
    assert compiled_run(dataset, graphs, seed=1, **values) == [0, 0]
    assert compiled_run(dataset, graphs, n_layer=3, optimizer="muon", tied_embeddings=False) == [0, 0]


def test_what_is_compiled_for_scoring_depends_on_no_knob_of_training(dataset: Dataset, graphs: Graphs) -> None:
    compiled_run(dataset, graphs)
    assert compiled_run(dataset, graphs, dropout=0.2) == [1, 0]
    assert compiled_run(dataset, graphs, z_loss=0.0, batch_size=2) == [2, 0]
