"""What is worked out from a recipe's shape, against the trainer's own model."""

import random

import pytest
import torch

from autoresearch.study.preset import load_preset
from rails import Knob, Limits, Value, predict, violations
from rails.fit import budget_steps
from rails.predict import Shape
from trainer.backends.torch_gpt import GPT
from trainer.flops import flops_per_token
from trainer.recipe import Recipe
from trainer.schedule import Schedule

WIDE = load_preset("cpu-nano-wide")


def offered(knob: Knob) -> tuple[Value, ...]:
    """Its choices, or both ends of its range."""
    return knob.choices or tuple(end for end in (knob.low, knob.high) if end is not None)


def shape_of(recipe: dict[str, Value], vocab_size: int, device: str) -> Shape:
    shape = Shape.of(recipe, vocab_size, device)
    assert shape is not None
    return shape


def drawn(count: int) -> list[dict[str, Value]]:
    """Recipes from the wide menu, with all knobs at random."""
    generator = random.Random(0)
    limits = Limits({"tokens": 10**7})
    found: list[dict[str, Value]] = []
    while len(found) < count:
        recipe = {knob.name: generator.choice(offered(knob)) for knob in WIDE.menu.knobs.values()}
        if not violations(recipe, WIDE.menu, limits):
            found.append(recipe)
    return found


def test_parameters_and_flops_are_those_of_the_model() -> None:
    for recipe in drawn(60):
        made = Recipe.from_mapping(recipe)
        with torch.device("meta"):
            model = GPT(made, 2048)
        shape = shape_of(recipe, 2048, "cpu")
        assert shape.params == sum(parameter.numel() for parameter in model.parameters())
        assert shape.flops_per_token == flops_per_token(model, made)
        assert shape.tokens_per_step == made.tokens_per_step


@pytest.mark.parametrize("budget", [{"tokens": 10**7}, {"steps": 60}, {"flops": 1e15}, {"flops": 4 * 10**14 + 1}])
@pytest.mark.parametrize("vocab_size", [2048, 1021])
def test_a_budget_buys_as_many_steps_for_the_rails_as_for_the_trainer(
    budget: dict[str, float], vocab_size: int
) -> None:
    for recipe in drawn(20):
        made = Recipe.from_mapping(recipe)
        with torch.device("meta"):
            model = GPT(made, vocab_size)
        schedule = Schedule.of(budget, made, flops_per_token(model, made))
        assert schedule.total_steps == budget_steps(recipe, Limits(budget, vocab_size=vocab_size))


def test_a_recipe_without_the_wide_knobs_is_one_with_their_defaults() -> None:
    narrow = load_preset("cpu-nano").recipe
    assert Shape.of(narrow, 2048, "cpu") == Shape.of(WIDE.recipe, 2048, "cpu")


@pytest.mark.parametrize("knob", ["lr", "lr_warmup", "beta1", "grad_clip", "schedule", "init_std", "z_loss"])
def test_what_changes_no_shape_changes_no_prediction(knob: str) -> None:
    other = offered(WIDE.menu.knobs[knob])[-1]
    assert Shape.of(WIDE.recipe | {knob: other}, 2048, "cpu") == Shape.of(WIDE.recipe, 2048, "cpu")


@pytest.mark.parametrize(
    ("knob", "value", "grows"),
    [
        ("ema_decay", 0.9, True),
        ("tied_embeddings", False, True),
        ("dropout", 0.1, True),
        ("grad_accumulation", 4, True),
        ("optimizer", "muon", False),
        ("n_kv_head", 1, None),
    ],
)
def test_a_knob_moves_memory_the_way_it_must(knob: str, value: Value, grows: bool | None) -> None:
    large = load_preset("gpt-354m-wide").recipe
    plain, changed = (shape_of(recipe, 50257, "cuda").live_bytes for recipe in (large, large | {knob: value}))
    assert (changed > plain) == (grows is True)


def test_accumulation_takes_its_part_of_the_budget() -> None:
    limits = Limits({"tokens": 200_000}, vocab_size=2048)
    assert budget_steps(WIDE.recipe, limits) == 97
    assert budget_steps(WIDE.recipe | {"grad_accumulation": 4}, limits) == 24


def test_heads_that_do_not_divide_are_no_reason_to_fail() -> None:
    assert predict(WIDE.recipe | {"n_head": 7, "n_kv_head": 3}, Limits(vocab_size=2048)) is not None
    assert predict(WIDE.recipe | {"n_kv_head": True}, Limits(vocab_size=2048)) is None
