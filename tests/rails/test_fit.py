"""The fit rail: predictions from the shape, corrected by what was measured."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

import rails
from rails import Limits, Measurement, Prediction, RailsError, Value, budget_steps, gate, load_menu
from rails.fit import GIB, fit_fault

GPT_354M: dict[str, Value] = {
    "n_layer": 24,
    "n_head": 16,
    "d_model": 1024,
    "d_ff": 4096,
    "batch_size": 16,
    "seq_len": 1024,
    "precision": "bf16",
}
NANO: dict[str, Value] = {
    "n_layer": 4,
    "n_head": 4,
    "d_model": 128,
    "d_ff": 512,
    "batch_size": 8,
    "seq_len": 256,
    "precision": "bf16",
}


# FLOPs of one step of it: of a token 6 for each weight that multiplies it and 12 n_layer d_model seq_len.
STEP = 8 * 256 * (6 * (4 * 12 * 128**2 + 2048 * 128) + 12 * 4 * 128 * 256)


def nano(**changes: Value) -> dict[str, Value]:
    return {**NANO, **changes}


def predict(recipe: Mapping[str, Value], limits: Limits) -> Prediction:
    found = rails.predict(recipe, limits)
    assert found is not None
    return found


def seconds(recipe: Mapping[str, Value], limits: Limits) -> float:
    found = predict(recipe, limits).seconds
    assert found is not None
    return found


def measured(
    recipe: Mapping[str, Value], memory: int = GIB, seconds: float = 12.0, tokens: int = 200_000
) -> Measurement:
    return Measurement(recipe, memory, seconds, tokens)


def test_gpt_354m_has_its_published_parameter_count() -> None:
    assert predict(GPT_354M, Limits(vocab_size=50257)).params == 354_601_984


def test_without_measurements_memory_is_the_analytic_figure_and_time_is_unknown() -> None:
    prediction = predict(GPT_354M, Limits({"steps": 60}, vocab_size=50257))
    assert 20 * GIB < prediction.memory_bytes < 50 * GIB and prediction.seconds is None


@pytest.mark.parametrize("knob", ["n_layer", "d_model", "d_ff", "batch_size", "seq_len"])
def test_a_larger_recipe_is_predicted_to_need_more(knob: str) -> None:
    plain = predict(NANO, Limits(vocab_size=2048)).memory_bytes
    limits = Limits({"steps": 60}, vocab_size=2048, measurements=[measured(NANO, plain)])
    size = NANO[knob]
    assert isinstance(size, int)
    larger = nano(**{knob: size * 2})
    assert predict(larger, limits).memory_bytes > predict(NANO, limits).memory_bytes
    assert seconds(larger, limits) > seconds(NANO, limits)


def test_fp32_keeps_more_memory_than_bf16() -> None:
    limits = Limits(vocab_size=2048)
    assert predict(nano(precision="fp32"), limits).memory_bytes > predict(NANO, limits).memory_bytes


@pytest.mark.parametrize("missing", ["n_layer", "d_ff", "batch_size"])
def test_a_recipe_without_the_gpts_knobs_is_not_predicted(missing: str) -> None:
    recipe = {name: value for name, value in NANO.items() if name != missing}
    limits = Limits({"steps": 9}, memory_bytes=1, run_seconds=1e-9, vocab_size=2048)
    assert rails.predict(recipe, limits) is None and fit_fault(recipe, limits) is None


def test_without_a_vocabulary_size_nothing_is_predicted() -> None:
    assert rails.predict(NANO, Limits(memory_bytes=1)) is None


def test_a_shape_that_was_measured_is_predicted_as_measured() -> None:
    runs = [measured(NANO, 700_000_000, 12.0), measured(nano(n_layer=8), 10 * GIB, 99.0)]
    prediction = predict({**NANO, "lr": 0.5}, Limits({"tokens": 200_000}, vocab_size=2048, measurements=runs))
    assert prediction.memory_bytes == 700_000_000 and prediction.seconds == pytest.approx(12.0)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_one_run_nearby_corrects_memory_a_little_and_many_do_most_of_it(device: str) -> None:
    def predicted(*runs: Measurement) -> int:
        limits = Limits(vocab_size=2048, device=device, measurements=runs)
        return predict(nano(n_layer=5), limits).memory_bytes

    def run(d_ff: int) -> Measurement:
        plain = predict(nano(n_layer=5, d_ff=d_ff), Limits(vocab_size=2048, device=device)).memory_bytes
        return measured(nano(n_layer=5, d_ff=d_ff), round(plain * 1.5))

    plain, one = predicted(), predicted(run(500))
    many = predicted(*(run(d_ff) for d_ff in range(400, 700, 20)))
    outlier = measured(nano(n_layer=5, d_ff=513), plain * 20)
    assert plain * 1.05 < one < plain * 1.15
    assert plain * 1.3 < many < plain * 1.5
    assert predicted(outlier, *(run(d_ff) for d_ff in range(400, 700, 20))) == pytest.approx(many, rel=0.02)


def test_on_a_cpu_libraries_count_and_on_a_gpu_they_do_not() -> None:
    tiny = nano(n_layer=1, d_model=64, d_ff=128, batch_size=1, seq_len=64)
    on_cpu, on_gpu = (predict(tiny, Limits(vocab_size=300, device=device)).memory_bytes for device in ("cpu", "cuda"))
    assert on_cpu > 400 * 2**20 and on_gpu < 100 * 2**20


def test_the_published_354m_recipe_is_predicted_under_its_published_memory() -> None:
    limits = Limits(vocab_size=50257, device="cuda")
    assert 15 * GIB < predict(GPT_354M, limits).memory_bytes < 24.3 * GIB


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(RailsError, match="device must be cpu or cuda, not tpu"):
        Limits(device="tpu")


def test_far_measurements_give_way_to_near_ones() -> None:
    small, large = nano(d_model=64, n_layer=1), GPT_354M
    at = predict(large, Limits(vocab_size=2048)).memory_bytes
    runs = [
        measured(nano(n_layer=n), predict(nano(n_layer=n), Limits(vocab_size=2048)).memory_bytes)
        for n in (1, 2, 3, 4, 5)
    ]
    limits = Limits(vocab_size=2048, measurements=[*runs, measured(large, at * 9)])
    assert predict(small, limits).memory_bytes == pytest.approx(predict(small, Limits(vocab_size=2048)).memory_bytes)


def test_speed_comes_from_runs_of_the_same_precision_where_there_are_any() -> None:
    runs = [measured(nano(n_layer=3), seconds=12.0), measured(nano(n_layer=4, precision="fp32"), seconds=1200.0)]
    limits = Limits({"tokens": 200_000}, vocab_size=2048, measurements=runs)
    assert seconds(NANO, limits) < 30
    assert seconds(nano(n_layer=3, precision="fp8"), limits) > 12


def test_a_step_budget_and_a_token_budget_of_the_same_size_take_the_same_time() -> None:
    runs = [measured(nano(n_layer=3))]
    tokens = predict(NANO, Limits({"tokens": 60 * 8 * 256}, vocab_size=2048, measurements=runs)).seconds
    assert tokens == pytest.approx(predict(NANO, Limits({"steps": 60}, vocab_size=2048, measurements=runs)).seconds)


def test_a_budget_in_seconds_is_its_own_prediction() -> None:
    assert predict(NANO, Limits({"seconds": 30}, vocab_size=2048)).seconds == 30


def test_measurements_without_figures_are_left_out() -> None:
    runs = [measured(NANO, 0, 0.0, 0), measured({"lr": 1.0}), measured(NANO, -1, -1.0, 5)]
    limits = Limits({"tokens": 1000}, vocab_size=2048, measurements=runs)
    assert predict(NANO, limits) == predict(NANO, Limits({"tokens": 1000}, vocab_size=2048))


def test_limits_take_a_snapshot_of_the_measurements() -> None:
    runs = [measured(NANO)]
    limits = Limits(vocab_size=2048, measurements=runs)
    runs.append(measured(NANO, 50 * GIB))
    assert predict(NANO, limits).memory_bytes == GIB


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ({"steps": 60}, 60),
        ({"tokens": 200_000}, 97),
        ({"tokens": 2047}, 0),
        ({"flops": 97.5 * STEP}, 97),
        ({"flops": 97 * STEP}, 97),
        ({"flops": STEP - 1}, 0),
        ({"seconds": 60}, None),
        (None, None),
    ],
)
def test_budget_steps_follow_from_the_budget(budget: Any, steps: int | None) -> None:
    assert budget_steps(NANO, Limits(budget, vocab_size=2048)) == steps


def test_a_budget_in_flops_needs_to_know_the_model() -> None:
    for recipe, limits in ((NANO, Limits({"flops": 1e12})), ({"lr": 0.1}, Limits({"flops": 1e12}, vocab_size=2048))):
        with pytest.raises(RailsError, match="budget_steps needs"):
            budget_steps(recipe, limits)


def test_a_budget_in_flops_takes_as_long_as_the_tokens_that_it_buys() -> None:
    runs = [measured(NANO, seconds=12.0, tokens=200_000)]
    flops = seconds(NANO, Limits({"flops": 100.0 * STEP}, vocab_size=2048, measurements=runs))
    assert flops == pytest.approx(seconds(NANO, Limits({"steps": 100}, vocab_size=2048, measurements=runs)))


def test_budget_steps_of_seconds_follow_from_measured_speed() -> None:
    limits = Limits({"seconds": 24}, vocab_size=2048, measurements=[measured(NANO, seconds=12.0, tokens=2048 * 50)])
    assert budget_steps(NANO, limits) == 100


@pytest.mark.parametrize(
    "budget",
    [
        {},
        {"hours": 1},
        {"tokens": 1, "steps": 1},
        {"steps": 0},
        {"steps": -1},
        {"steps": True},
        {"steps": "60"},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"tokens": None},
        {"tokens": 1, "flops": 1e12},
        {"tokens": 2**60},
        {"flops": 0},
        {"flops": 1e30},
        {"flops": float("nan")},
    ],
)
def test_a_budget_that_is_none_is_refused(budget: Any) -> None:
    with pytest.raises(RailsError, match="budget"):
        Limits(budget)


MENU = """
[knobs.n_layer]
type = "int"
low = 1
high = 48
default = 4
""" + "".join(
    f'[knobs.{name}]\ntype = "int"\nchoices = [{NANO[name]}]\ndefault = {NANO[name]}\n'
    for name in ("n_head", "d_model", "d_ff", "batch_size", "seq_len")
)


def test_a_run_predicted_over_memory_is_blocked_with_both_figures(propose: Callable[..., str]) -> None:
    menu = load_menu(MENU)
    limits = Limits(memory_bytes=GIB, vocab_size=2048)
    assert gate(propose("n_layer", 5), menu.defaults(), menu, (), limits).passed
    verdict = gate(propose("n_layer", 48), menu.defaults(), menu, (), limits)
    assert verdict.rail == "fit"
    assert "GiB, with 25% to spare, is over the limit of 1.00 GiB" in verdict.reason


def test_a_shape_that_has_run_here_needs_less_to_spare() -> None:
    limits = Limits(memory_bytes=GIB, vocab_size=2048, measurements=[measured(NANO, round(0.9 * GIB))])
    assert fit_fault({**NANO, "lr": 0.5}, limits) is None
    assert "with 25% to spare" in (fit_fault(nano(n_layer=7, batch_size=32), limits) or "")


def test_a_run_predicted_over_time_is_blocked_with_both_figures(propose: Callable[..., str]) -> None:
    menu = load_menu(MENU)
    runs = [measured(menu.defaults(), seconds=60.0)]
    limits = Limits({"tokens": 200_000}, run_seconds=120.0, vocab_size=2048, measurements=runs)
    assert gate(propose("n_layer", 5), menu.defaults(), menu, (), limits).passed
    verdict = gate(propose("n_layer", 48), menu.defaults(), menu, (), limits)
    assert verdict.rail == "fit" and "min is over the limit of 2.0 min" in verdict.reason
