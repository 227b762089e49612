"""The model and its parts, against plain formulas."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from worker_process import RECIPE

from trainer.backends import attention, backend_named, precisions
from trainer.backends.float8 import Float8Linear
from trainer.backends.head import nats_of_logits
from trainer.backends.torch_gpt import GPT, TorchBackend
from trainer.recipe import Recipe
from trainer.schedule import Schedule
from trainer.training import Losses

CPU = torch.device("cpu")


def build(seed: int = 0, **changes: Any) -> GPT:
    return TorchBackend().build(Recipe(**(RECIPE | changes)), 512, CPU, seed)


def test_gpt_354m_has_354_million_parameters() -> None:
    recipe = Recipe(**(RECIPE | {"n_layer": 24, "n_head": 16, "d_model": 1024, "d_ff": 4096, "seq_len": 1024}))
    with torch.device("meta"):
        model = GPT(recipe, vocab_size=50257)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(354.6e6, abs=0.05e6)


def test_weights_start_as_gpt2_does() -> None:
    weights = dict(build(n_layer=8, d_model=64, d_ff=256).named_parameters())
    residual = 0.02 / math.sqrt(2 * 8)
    assert weights["token_embedding.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert weights["blocks.3.attention.query_key_value.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert weights["blocks.3.attention.project.weight"].std().item() == pytest.approx(residual, rel=0.05)
    assert weights["blocks.3.mlp.project.weight"].std().item() == pytest.approx(residual, rel=0.05)
    assert weights["norm.weight"].unique().tolist() == [1.0]
    assert weights["norm.bias"].unique().tolist() == [0.0]


def test_recipes_with_one_seed_share_the_weights_that_have_one_shape() -> None:
    narrow, wide, other = build(), build(d_ff=96, n_layer=3), build(seed=1)
    assert torch.equal(narrow.token_embedding.weight, wide.token_embedding.weight)
    key = "blocks.1.attention.query_key_value.weight"
    assert torch.equal(narrow.get_parameter(key), wide.get_parameter(key))
    assert not torch.equal(narrow.get_parameter(key), other.get_parameter(key))


def test_no_position_sees_what_comes_after_it() -> None:
    model = build()
    tokens = torch.randint(1, 512, (2, 33), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, 20:] = 5
    before, after = (model(row[:, :-1], tokens[:, 1:]) for row in (tokens, changed))
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("length", [1, 100, 128, 129, 300])
def test_attention_in_blocks_is_scaled_dot_product_attention(
    length: int, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, length, 8, generator=generator, requires_grad=True)
    key, value = (torch.randn(2, kv_heads, length, 8, generator=generator, requires_grad=True) for _ in range(2))
    upstream = torch.randn(2, 4, length, 8, generator=generator)
    plain = attention.attend(query, key, value)
    plain_gradients = torch.autograd.grad(plain, (query, key, value), upstream)
    monkeypatch.setattr(attention, "LONGEST_PLAIN", 0)
    fused = attention.attend(query, key, value)
    fused_gradients = torch.autograd.grad(fused, (query, key, value), upstream)
    torch.testing.assert_close(plain, fused)
    torch.testing.assert_close(plain_gradients, fused_gradients)


def test_a_rotated_product_depends_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 1, 1, 8, generator=generator).expand(1, 1, 20, 8) for _ in range(2))
    angles = attention.rotary_angles(20, 8, CPU)
    products = attention.rotate(query, angles) @ attention.rotate(key, angles).mT
    for distance in (0, 3, 11):
        same = products[0, 0].diagonal(-distance)
        torch.testing.assert_close(same, same[:1].expand_as(same))
    assert not products[0, 0, 3, 0].isclose(products[0, 0, 0, 0])


@pytest.mark.parametrize(("softcap", "z_loss"), [(0.0, 0.0), (5.0, 0.0), (0.0, 0.01), (5.0, 0.01)])
@pytest.mark.parametrize("tokens", [1, 1023, 2049])
def test_the_cost_in_parts_is_cross_entropy(tokens: int, softcap: float, z_loss: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, 16, generator=generator, requires_grad=True)
    weight = torch.randn(512, 16, generator=generator, requires_grad=True)
    targets = torch.randint(0, 512, (tokens,), generator=generator)
    upstream = torch.rand(tokens, generator=generator)

    logits = F.linear(x, weight)
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    expected = F.cross_entropy(logits, targets, reduction="none") + z_loss * logits.logsumexp(-1).square()
    expected_gradients = torch.autograd.grad(expected, (x, weight), upstream)
    nats = nats_of_logits(F.linear(x, weight), targets, softcap, z_loss)
    gradients = torch.autograd.grad(nats, (x, weight), upstream)

    torch.testing.assert_close(nats, expected)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_an_fp8_product_and_its_gradients_are_near_the_exact_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = Float8Linear(64, 96, bias=False)
    x = torch.randn(2, 40, 64, generator=generator, requires_grad=True)
    upstream = torch.randn(2, 40, 96, generator=generator) * 1e-6  # far below what 8 bits hold unscaled
    found = torch.autograd.grad(layer(x), (x, layer.weight), upstream.bfloat16())
    exact = torch.autograd.grad(F.linear(x, layer.weight), (x, layer.weight), upstream)

    assert relative_error(layer(x), F.linear(x, layer.weight)) < 0.05
    for gradient, wanted in zip(found, exact, strict=True):
        assert gradient.dtype == wanted.dtype
        assert relative_error(gradient, wanted) < 0.1


def test_fp8_sums_fast_for_outputs_and_exactly_for_gradients() -> None:
    found = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.ops.aten._scaled_mm.default:
                arguments = dict(zip([a.name for a in function._schema.arguments], args, strict=False)) | kwargs
                found.append((arguments["self"].dtype, arguments.get("use_fast_accum", False)))
            return function(*args, **(kwargs or {}))

    layer = Float8Linear(32, 16, bias=False)
    with Products():
        layer(torch.randn(16, 32, dtype=torch.bfloat16, requires_grad=True)).sum().backward()
    assert found == [(torch.float8_e4m3fn, True), (torch.float8_e5m2, False), (torch.float8_e5m2, False)]


def test_an_fp8_model_costs_nearly_what_a_bf16_model_does() -> None:
    tokens = torch.randint(1, 512, (4, 33), generator=torch.Generator().manual_seed(0))
    costs = []
    for precision in ("bf16", "fp8"):
        # Past the device's own check: the CPU has the operation, only not the speed.
        model = GPT(Recipe(**(RECIPE | {"precision": precision})), 512)
        model.initialise(seed=0)
        loss = model(tokens[:, :-1], tokens[:, 1:]).mean()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        costs.append(loss.item())
    assert costs[1] == pytest.approx(costs[0], rel=1e-3)


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found.float() - wanted).norm() / wanted.norm()).item()


def test_a_cpu_trains_fp32_and_bf16_and_says_why_not_fp8() -> None:
    assert precisions(CPU) == ("fp32", "bf16")
    with pytest.raises(ValueError, match=r"compute capability 8\.9 .* cpu can do fp32, bf16"):
        build(precision="fp8")


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match="backend 'jax' is unknown; choose 'torch'"):
        backend_named("jax")


def schedule_of(budget: dict[str, float], **changes: Any) -> Schedule:
    return Schedule.of(budget, Recipe(**(RECIPE | {"lr": 1.0, "lr_warmup": 10} | changes)))


def test_the_learning_rate_warms_up_and_ends_at_a_tenth() -> None:
    schedule = schedule_of({"steps": 100})
    rates = [schedule.lr(step, schedule.spent(step, seconds=0.0)) for step in range(100)]
    assert rates[:11] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.55, abs=0.01)
    assert rates[99] == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cosine", [1.0, 0.88, 0.6, 0.32, 0.2]),
        ("linear", [1.0, 0.8, 0.6, 0.4, 0.2]),
        ("wsd", [1.0, 1.0, 1.0, 1.0, 0.2]),
    ],
)
def test_each_schedule_goes_down_its_own_way_to_its_final_fraction(kind: str, expected: list[float]) -> None:
    schedule = schedule_of({"steps": 1000}, schedule=kind, final_lr_fraction=0.2, lr_warmup=0)
    rates = [schedule.lr(step, step / 1000) for step in (0, 250, 500, 750, 1000)]
    assert rates == pytest.approx(expected, abs=0.01)
    assert schedule.lr(900, 0.9) == pytest.approx({"cosine": 0.22, "linear": 0.28, "wsd": 0.6}[kind], abs=0.01)


def test_a_budget_in_flops_ends_where_its_tokens_do() -> None:
    made = Recipe(**RECIPE)
    price = made.tokens_per_step * 1000
    for flops, steps in ((price, 1), (3 * price - 1, 2), (2.5e6 * price, 2_500_000)):
        assert Schedule.of({"flops": flops}, made, 1000).total_steps == steps
    schedule = Schedule.of({"flops": 100.0 * price}, made, 1000)
    same = Schedule.of({"steps": 100}, made)
    assert [schedule.lr(step, schedule.spent(step, 0.0)) for step in range(100)] == [
        same.lr(step, same.spent(step, 0.0)) for step in range(100)
    ]


@pytest.mark.parametrize("budget", [{"flops": 1e4}, {"tokens": 1}])
def test_a_budget_that_pays_for_no_step_is_refused(budget: dict[str, float]) -> None:
    ((unit, amount),) = budget.items()
    with pytest.raises(ValueError, match=rf"budget of {amount:g} {unit} does not pay for one step of .* {unit} \("):
        Schedule.of(budget, Recipe(**RECIPE), 1000)


def test_a_budget_in_seconds_follows_the_clock() -> None:
    schedule = schedule_of({"seconds": 10.0}, lr_warmup=0)
    assert schedule.lr(0, schedule.spent(0, seconds=0.0)) == 1.0
    assert schedule.lr(7, schedule.spent(7, seconds=5.0)) == pytest.approx(0.55)
    assert schedule.spent(7, seconds=10.0) == 1.0


def test_a_spike_is_forgiven_and_a_lasting_rise_is_not() -> None:
    losses = Losses()
    for loss in [7.0, 6.0, 5.0, 5.0, 12.0, 5.0, 5.0]:
        losses.add(loss)
    assert losses.diverged_at is None
    for _ in range(20):
        losses.add(9.0)
    assert losses.diverged_at is not None and 8 < losses.diverged_at < 20


def test_a_nan_loss_is_the_end_and_stays_out_of_the_curve() -> None:
    losses = Losses()
    for loss in (7.0, 6.0, math.nan):
        losses.add(loss)
    assert losses.diverged_at == 3
    assert losses.curve() == [[1, 7.0], [2, 6.0]]


def test_a_curve_has_about_fifty_points_whatever_the_steps() -> None:
    losses = Losses()
    for step in range(997):
        losses.add(7 - step / 1000)
    assert 45 <= len(losses.curve()) <= 50
    assert losses.curve()[-1][0] == 997


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_a_gpu_step_is_finite_and_repeats(precision: str) -> None:
    device = torch.device("cuda", 0)
    if precision not in precisions(device):
        pytest.skip(f"{precision} needs a newer GPU")
    tokens = torch.randint(1, 512, (4, 33), generator=torch.Generator().manual_seed(0)).to(device)
    recipe = Recipe(**(RECIPE | {"precision": precision}))
    gradients = []
    for _ in range(2):
        model = TorchBackend().build(recipe, 512, device, seed=0)
        model(tokens[:, :-1], tokens[:, 1:]).mean().backward()
        gradient = model.blocks.get_parameter("0.mlp.expand.weight").grad
        assert gradient is not None and gradient.isfinite().all()
        gradients.append(gradient)
    assert torch.equal(*gradients)
