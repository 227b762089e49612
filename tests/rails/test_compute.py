"""The compute rail: a run may take so many times the baseline's FLOPs and no more, whatever it buys them with."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from autoresearch.study.preset import load_preset
from rails import Limits, Menu, Value, Verdict, gate, load_menu
from rails.compute import compute_fault, compute_ratio
from rails.predict import Shape

MENU = load_preset("cpu-nano-wide").menu
NANO = MENU.defaults()
TOKENS, STEPS = {"tokens": 200_000}, {"steps": 97}


def allowing(ratio: float) -> Menu:
    return replace(MENU, max_compute_ratio=ratio)


def limits(budget: Any, vocab_size: int | None = 2048) -> Limits:
    return Limits(budget, vocab_size=vocab_size)


def ratio(budget: Any, **changes: Value) -> float | None:
    return compute_ratio(NANO | changes, NANO, limits(budget))


def judged(menu: Menu, budget: Any, **changes: Value) -> Verdict:
    raw = json.dumps({"changes": changes, "reason": "more of it"})
    return gate(raw, NANO, replace(menu, max_changes=5), (), limits(budget))


def test_under_a_token_budget_only_dearer_tokens_count() -> None:
    assert ratio(TOKENS) == 1.0
    assert ratio(TOKENS, batch_size=4) == 1.0, "half a step more of the same budget is nobody's purchase"
    assert ratio(TOKENS, batch_size=16) == pytest.approx(96 / 97), "but what rounding takes away is not spent"
    assert ratio(TOKENS, n_layer=8) == pytest.approx(1.8)
    assert ratio(TOKENS, d_model=64) == pytest.approx(0.45)


def test_under_a_step_budget_more_tokens_count_too() -> None:
    assert ratio(STEPS, batch_size=16) == pytest.approx(2)
    assert ratio(STEPS, grad_accumulation=4) == pytest.approx(4)
    assert ratio(STEPS, batch_size=16, n_layer=8) == pytest.approx(2 * (ratio(STEPS, n_layer=8) or 0))


def test_under_a_flops_budget_all_runs_take_the_same() -> None:
    assert ratio({"flops": 1e13}, n_layer=8, batch_size=16) == 1.0
    assert judged(allowing(1.0), {"flops": 1e14}, n_layer=8).passed


@pytest.mark.parametrize(
    ("budget", "vocab_size", "lost"),
    [
        ({"seconds": 60}, 2048, ""),
        (None, 2048, ""),
        (TOKENS, None, ""),
        (TOKENS, 2048, "d_model"),
        ({"tokens": 9}, 9, ""),
    ],
    ids=["a clock decides", "no budget", "no vocabulary", "no GPT", "no step of the baseline"],
)
def test_what_cannot_be_known_is_let_through(budget: Any, vocab_size: int | None, lost: str) -> None:
    recipe = {name: value for name, value in NANO.items() if name != lost} | {"n_layer": 8}
    assert compute_fault(recipe, allowing(0.1), limits(budget, vocab_size)) is None


def test_a_menu_that_lacks_the_gpts_knobs_lets_all_through() -> None:
    menu = load_menu('max_compute_ratio = 0.1\n[knobs.lr]\ntype = "float"\nlow = 0.1\nhigh = 1.0\ndefault = 0.5\n')
    raw = '{"knob": "lr", "new_value": 0.2, "reason": "less"}'
    assert gate(raw, {"lr": 0.5}, menu, (), limits(TOKENS)).passed


def test_a_menu_without_a_ratio_lets_all_through() -> None:
    assert MENU.max_compute_ratio is None
    assert judged(MENU, STEPS, n_layer=8, batch_size=16).passed


def test_a_run_beyond_the_ratio_is_blocked_and_told_what_to_lower() -> None:
    verdict = judged(allowing(1.5), TOKENS, n_layer=8)
    assert verdict.rail == "compute"
    assert verdict.reason == (
        "a run would take 1.8 times the baseline's FLOPs; the menu's max_compute_ratio is 1.5: "
        "lower n_layer (8; the baseline has 4)"
    )
    assert judged(allowing(1.81), TOKENS, n_layer=8).passed


def test_a_step_budgets_tokens_are_among_what_to_lower() -> None:
    verdict = judged(allowing(1.5), STEPS, d_model=192, batch_size=16)
    assert verdict.rail == "compute"
    assert "lower d_model (192; the baseline has 128) or batch_size (16; the baseline has 8)" in verdict.reason
    assert "batch_size" not in judged(allowing(1.5), TOKENS, n_layer=8, batch_size=16).reason


def test_a_change_of_kind_that_costs_more_names_the_sizes() -> None:
    verdict = judged(allowing(0.5), TOKENS, activation="swiglu")
    assert "lower n_layer or d_model or d_ff or seq_len" in verdict.reason


def test_the_figure_is_never_the_limit_itself() -> None:
    limit = (ratio(TOKENS, seq_len=512) or 0) - 1e-5
    verdict = judged(allowing(limit), TOKENS, seq_len=512)
    assert float(verdict.reason.split()[4]) > limit


def test_the_baseline_is_the_menus_defaults_and_not_the_recipe_that_stands() -> None:
    deep = NANO | {"n_layer": 6}
    raw = '{"knob": "n_layer", "new_value": 7, "reason": "one more"}'
    assert gate(raw, deep, allowing(1.5), (), limits(TOKENS)).rail == "compute"
    assert gate(raw, deep, allowing(1.6), (), limits(TOKENS)).passed


def test_a_verdict_agrees_with_the_shapes_of_both_recipes() -> None:
    generator, menu = random.Random(0), allowing(1.25)
    start = Shape.of(NANO, 2048, "cpu")
    assert start is not None
    for _ in range(50):
        changes = {name: generator.choice(MENU.knobs[name].choices) for name in ("d_model", "d_ff", "seq_len")}
        shape = Shape.of(NANO | changes, 2048, "cpu")
        assert shape is not None
        dearer = shape.flops_per_token / start.flops_per_token
        assert (compute_fault(NANO | changes, menu, limits(TOKENS)) is None) == (dearer <= 1.25)
