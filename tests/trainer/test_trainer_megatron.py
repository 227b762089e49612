"""The Megatron-Core backend against the torch backend: one function, one start, one result."""

import importlib.util
import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import ColumnParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from torch import Tensor, nn
from worker_process import RECIPE, Worker

from trainer.backends import backend_named
from trainer.backends.megatron import MegatronGPT, uses_transformer_engine
from trainer.backends.megatron_layers import local_layers
from trainer.backends.torch_gpt import GPT
from trainer.metric import bits_per_byte
from trainer.optimizer import Optimizer
from trainer.parallel import Processes
from trainer.protocol import RunRequest
from trainer.recipe import Recipe

CPU = torch.device("cpu")
VOCAB_SIZE = 128
ROWS, LENGTH = 3, 32
SHAPES = list(
    itertools.product(
        ("layernorm", "rmsnorm"),
        ("gelu", "relu2", "swiglu"),
        ("learned", "rope"),
        (0, 1, 2),  # n_kv_head
        (False, True),  # qk_norm
        (True, False),  # tied_embeddings
    )
)


def recipe(**changes: Any) -> Recipe:
    return Recipe(**(RECIPE | {"n_head": 4, "init_std": 0.2} | changes))


def build(backend: str, knobs: Recipe, device: torch.device = CPU, seed: int = 0) -> Any:
    return backend_named(backend).build(knobs, VOCAB_SIZE, device, seed)


def pair(**changes: Any) -> tuple[GPT, MegatronGPT]:
    """Both backends' models with the same weights, none of which is what it starts as."""
    knobs = recipe(**changes)
    plain, megatron = build("torch", knobs), build("megatron", knobs, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    megatron.load(dict(plain.named_parameters()))
    return plain, megatron


def random_tokens(*shape: int) -> Tensor:
    return torch.randint(1, VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("norm", "activation", "position", "n_kv_head", "qk_norm", "tied_embeddings"), SHAPES)
def test_both_backends_compute_one_function(
    norm: str, activation: str, position: str, n_kv_head: int, qk_norm: bool, tied_embeddings: bool
) -> None:
    plain, megatron = pair(
        norm=norm,
        activation=activation,
        position=position,
        n_kv_head=n_kv_head,
        qk_norm=qk_norm,
        tied_embeddings=tied_embeddings,
    )
    inputs = random_tokens(ROWS, LENGTH)
    wanted = plain.logits(inputs).view(ROWS, LENGTH, -1)
    found = megatron.logits(inputs).view(LENGTH, ROWS, -1).transpose(0, 1)
    assert wanted.std() > 0.5
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)

    text = np.random.default_rng(0).integers(1, VOCAB_SIZE, 10 * LENGTH + 7)  # the last window is short
    scores = [bits_per_byte(model, text, 1000, 0, LENGTH, CPU) for model in (plain, megatron)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_kv_head": 2, "qk_norm": True, "position": "rope", "norm": "rmsnorm", "activation": "swiglu"},
        {"tied_embeddings": False, "logit_softcap": 5.0, "z_loss": 0.01, "activation": "relu2"},
    ],
)
def test_both_backends_have_one_gradient(changes: dict[str, Any]) -> None:
    plain, megatron = pair(**changes)
    inputs, targets = random_tokens(ROWS, LENGTH), random_tokens(LENGTH, ROWS).t()
    for model in (plain, megatron):
        model(inputs, targets).mean().backward()
    found = [parameter.grad for parameter in megatron.parameters()]
    megatron.load({name: gradient(parameter) for name, parameter in plain.named_parameters()})
    torch.testing.assert_close(found, [parameter.detach() for parameter in megatron.parameters()], rtol=1e-3, atol=1e-6)


def gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


class NormedColumnLinear(ColumnParallelLinear):  # type: ignore[misc]
    """Holds the norm before it, as Transformer Engine's layer does and by the same names."""

    def __init__(self, input_size: int, output_size: int, **options: Any) -> None:
        super().__init__(input_size, output_size, **options)
        self.layer_norm_weight = nn.Parameter(torch.empty(input_size))
        self.layer_norm_bias = nn.Parameter(torch.empty(input_size))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return super().forward(F.layer_norm(x, x.shape[-1:], self.layer_norm_weight, self.layer_norm_bias))


def test_weights_find_their_place_in_layers_that_hold_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    def fused_layers(config: TransformerConfig) -> TransformerBlockSubmodules:
        layers = local_layers(config)
        parts = layers.layer_specs[0].submodules
        parts.input_layernorm = parts.pre_mlp_layernorm = IdentityOp
        parts.self_attention.submodules.linear_qkv = parts.mlp.submodules.linear_fc1 = NormedColumnLinear
        return layers

    plain, unfused = pair(n_kv_head=2, qk_norm=True)
    monkeypatch.setattr("trainer.backends.megatron_layers.fused_layers", fused_layers)
    fused = MegatronGPT(plain.recipe, VOCAB_SIZE, CPU, fused=True)
    fused.load(dict(plain.named_parameters()))
    inputs = random_tokens(ROWS, LENGTH)
    torch.testing.assert_close(fused.logits(inputs), unfused.logits(inputs))


def test_both_backends_start_from_the_same_weights() -> None:
    inputs = random_tokens(ROWS, LENGTH)
    nats = [build(backend, recipe(), seed=3)(inputs, inputs) for backend in ("torch", "megatron")]
    torch.testing.assert_close(nats[0], nats[1])


@pytest.mark.parametrize("tied_embeddings", [True, False])
@pytest.mark.parametrize("position", ["learned", "rope"])
def test_both_backends_group_parameters_alike(tied_embeddings: bool, position: str) -> None:
    plain, megatron = pair(tied_embeddings=tied_embeddings, position=position, qk_norm=True, activation="swiglu")
    sizes = [
        {name: sorted(p.numel() for p in group) for name, group in model.groups().items()}
        for model in (plain, megatron)
    ]
    assert sizes[0] == sizes[1]
    grouped = [parameter for group in megatron.groups().values() for parameter in group]
    assert {id(p) for p in grouped} == {id(p) for p in megatron.parameters()}
    assert len(grouped) == len(list(megatron.parameters()))
    assert megatron.matmul_weights() == plain.matmul_weights()


@pytest.mark.parametrize("tied_embeddings", [True, False])
def test_a_vocabulary_of_an_odd_size_is_that_of_the_torch_backend(tied_embeddings: bool) -> None:
    knobs = recipe(tied_embeddings=tied_embeddings, z_loss=0.01)
    inputs, targets = torch.randint(1, 300, (2, ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    found = []
    for backend in ("torch", "megatron"):
        model = backend_named(backend).build(knobs, 300, CPU, seed=0)
        optimizer = Optimizer(model, knobs)
        nats = [model(inputs, targets).mean()]
        nats[0].backward()
        norm = torch.nn.utils.get_total_norm(gradient(parameter) for parameter in model.parameters())
        optimizer.step(knobs.lr)
        nats.append(model(inputs, targets).mean())
        parameters = list(model.parameters())
        numbers = [*(number.item() for number in nats), norm.item()]
        found.append([*numbers, Processes().count(parameters), model.matmul_weights()])
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    added = [parameter[300:] for parameter in parameters if len(parameter) == 384]
    assert len(added) == (1 if tied_embeddings else 2)
    assert all(not rows.any() for rows in added)


def losses(backend: str, steps: int, **changes: Any) -> list[float]:
    """Training on a text that repeats itself, so that there is something to learn."""
    torch.manual_seed(0)  # as a run does: dropout draws from it
    knobs = recipe(init_std=0.02, **changes)
    model = build(backend, knobs)
    optimizer = Optimizer(model, knobs)
    batch = random_tokens(4, 9).repeat(1, 4)
    found = []
    for _ in range(steps):
        loss = model(batch[:, :32], batch[:, 1:33]).mean()
        loss.backward()
        optimizer.step(knobs.lr)
        found.append(loss.item())
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    return found


@pytest.mark.parametrize("changes", [{"dropout": 0.2}, {"dropout": 0.2, "precision": "bf16", "position": "rope"}])
def test_what_ran_before_in_the_process_does_not_show(changes: dict[str, Any]) -> None:
    first = losses("megatron", 3, **changes)
    build("megatron", recipe(n_layer=1, seq_len=48, dropout=0.5))(random_tokens(2, 48), random_tokens(2, 48))
    assert losses("megatron", 3, **changes) == first
    assert losses("megatron", 3, **(changes | {"dropout": 0.0})) != first


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_backends_learn_alike(precision: str, optimizer: str) -> None:
    plain, megatron = (
        losses(backend, 30, precision=precision, optimizer=optimizer, n_kv_head=2) for backend in ("torch", "megatron")
    )
    assert plain[-1] < 0.9 * plain[0]
    assert megatron == pytest.approx(plain, rel=1e-3 if precision == "fp32" else 5e-3)


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize("n_kv_head", [0, 2])
def test_muon_takes_the_same_matrices_apart_in_both_backends(activation: str, n_kv_head: int) -> None:
    plain, megatron = pair(optimizer="muon", activation=activation, n_kv_head=n_kv_head)
    inputs, targets = random_tokens(ROWS, LENGTH), random_tokens(LENGTH, ROWS).t()
    for model in (plain, megatron):
        model(inputs, targets).mean().backward()
        Optimizer(model, plain.recipe).step(0.01)
    found = [parameter.detach().clone() for parameter in megatron.groups()["matrices"]]
    megatron.load(dict(plain.named_parameters()))
    for a, b in zip(found, megatron.groups()["matrices"], strict=True):
        assert (a - b).square().mean().sqrt() < 0.1 * 0.2 * 0.01  # a tenth of the update


def test_bf16_rounds_where_the_torch_backend_rounds() -> None:
    inputs = random_tokens(ROWS, LENGTH)
    exact, (plain, megatron) = pair()[0](inputs, inputs), (model(inputs, inputs) for model in pair(precision="bf16"))
    rounding = (plain - exact).abs().mean()
    assert rounding > 1e-4
    assert (megatron - plain).abs().mean() < 0.1 * rounding


def test_dropout_falls_where_the_torch_backend_has_it() -> None:
    inputs = random_tokens(1, LENGTH)  # of one row, so that both orders of tokens draw the same numbers
    nats = []
    for model in pair(dropout=0.3):
        torch.manual_seed(0)
        nats.append(model(inputs, inputs))
    torch.testing.assert_close(nats[0], nats[1])


def test_scoring_leaves_out_dropout_and_z_loss() -> None:
    plain, megatron = pair(dropout=0.5, z_loss=0.1)
    inputs = random_tokens(1, LENGTH)
    plain.train(False)
    megatron.train(False)
    torch.testing.assert_close(megatron(inputs, inputs), plain(inputs, inputs))


def test_a_worker_repeats_a_run_and_agrees_with_the_torch_backend(
    warm_worker: Worker, request_for: Callable[..., RunRequest]
) -> None:
    knobs = {"precision": "bf16", "norm": "rmsnorm", "position": "rope", "n_kv_head": 1}
    plain, first = (warm_worker.run(request_for(backend=backend, **knobs)) for backend in ("torch", "megatron"))
    dropped = warm_worker.run(request_for(backend="megatron", dropout=0.3))
    second = warm_worker.run(request_for(backend="megatron", **knobs))

    assert (first.state, first.message, dropped.state) == ("complete", "", "complete")
    assert set(first.versions) - set(plain.versions) >= {"megatron-core"}
    assert (second.val_bpb, second.curve) == (first.val_bpb, first.curve)
    assert (first.params, first.flops_per_token) == (plain.params, plain.flops_per_token)
    assert first.val_bpb == pytest.approx(plain.val_bpb, rel=1e-3)


def test_a_backend_is_loaded_only_when_it_is_asked_for() -> None:
    code = "import sys, trainer.run; sys.exit(any(name.startswith('megatron') for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rows_added_for_fp8_do_not_show() -> None:
    plain, megatron = pair(precision="bf16")
    # Past the backend's own check. Without Transformer Engine this multiplies in bf16.
    padding = MegatronGPT(recipe(precision="fp8"), VOCAB_SIZE, CPU, fused=False)
    padding.load(dict(plain.named_parameters()))
    inputs, targets = random_tokens(2, 7), random_tokens(7, 2).t()
    torch.testing.assert_close(padding(inputs, targets), megatron(inputs, targets))


def test_fp8_on_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision 'fp8' needs a GPU of compute capability 8\.9"):
        build("megatron", recipe(precision="fp8"))


@pytest.mark.skipif(importlib.util.find_spec("transformer_engine") is not None, reason="Transformer Engine is here")
def test_without_transformer_engine_a_gpu_trains_with_local_layers_but_not_in_fp8() -> None:
    gpu = torch.device("cuda")
    assert not uses_transformer_engine(recipe(precision="bf16"), gpu)
    with pytest.raises(ValueError, match="precision 'fp8' with backend 'megatron' needs Transformer Engine"):
        uses_transformer_engine(recipe(precision="fp8"), gpu)


def test_what_the_backend_cannot_do_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="compile: "):
        build("megatron", recipe()).compile_blocks()
    for changes, message in (
        ({"n_kv_head": 1}, r"n_kv_head is 1; it must be a multiple of tensor_parallel \(2\)"),
        ({"d_ff": 65}, r"d_ff is 65; it must be a multiple"),
        ({"optimizer": "muon"}, "'muon' needs whole matrices"),
    ):
        with pytest.raises(ValueError, match=message):
            backend_named("megatron").build(recipe(**changes), VOCAB_SIZE, CPU, seed=0, processes=Processes(tensor=2))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("position", ["learned", "rope"])
def test_a_gpu_costs_what_the_torch_backend_says_and_repeats(precision: str, norm: str, position: str) -> None:
    gpu = torch.device("cuda", 0)
    knobs = recipe(precision=precision, norm=norm, position=position, d_model=128, d_ff=256, qk_norm=True, n_kv_head=2)
    if precision == "fp8":
        try:
            uses_transformer_engine(knobs, gpu)
        except ValueError as error:
            pytest.skip(str(error))
    inputs = random_tokens(4, 32).to(gpu)
    plain = build("torch", knobs, gpu)(inputs, inputs)
    runs = []
    for _ in range(2):
        model = build("megatron", knobs, gpu)
        nats = model(inputs, inputs)
        nats.mean().backward()
        assert all(gradient(parameter).isfinite().all() for parameter in model.parameters())
        runs.append([nats, *(gradient(parameter) for parameter in model.parameters())])
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)
    tolerance = {"fp32": 1e-4, "bf16": 0.03, "fp8": 0.1}[precision]
    assert runs[0][0].mean().item() == pytest.approx(plain.mean().item(), rel=tolerance)
    model.train(False)
    with torch.no_grad():
        assert model(inputs[:1, :7], inputs[:1, :7]).shape == (1, 7)  # a last window, of no round number of tokens
