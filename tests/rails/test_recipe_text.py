"""The recipe's three views: text, values and key."""

import random
import tomllib
from typing import Any

import pytest

from rails import Menu, RailsError, Value, parse_recipe, recipe_key, render_recipe


def test_a_recipe_is_one_knob_a_line_in_the_order_given() -> None:
    assert render_recipe({"b": 1, "a": 0.001, "c": 1e-5, "s": "bf16", "t": True}) == (
        'b = 1\na = 0.001\nc = 1e-05\ns = "bf16"\nt = true\n'
    )


@pytest.mark.parametrize(
    "value",
    [
        0,
        -3,
        2**53,
        1.0,
        8.0,
        0.1,
        1e-5,
        1e22,
        1e-300,
        1.7976931348623157e308,
        5e-324,
        True,
        False,
        "bf16",
        'say "hi"',
        "back\\slash",
        "é漢🙂",
        "",
    ],
)
def test_a_value_reads_back_with_its_type(value: Value) -> None:
    read = tomllib.loads(render_recipe({"knob": value}))["knob"]
    assert read == value and type(read) is type(value)


def test_random_floats_read_back_to_the_last_bit() -> None:
    rng = random.Random(0)
    for _ in range(500):
        value = rng.uniform(-1, 1) * 10.0 ** rng.randint(-30, 30)
        assert tomllib.loads(render_recipe({"knob": value}))["knob"] == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "a\nb", "a\x1b[0m", "\ud800", None, [1]])
def test_a_value_that_toml_cannot_hold_on_one_line_is_refused(value: Any) -> None:
    with pytest.raises(RailsError):
        render_recipe({"knob": value})


@pytest.mark.parametrize("name", ["", "a b", "a = 1\nb", "a.b", "é"])
def test_a_name_that_is_no_bare_key_is_refused(name: str) -> None:
    with pytest.raises(RailsError):
        render_recipe({name: 1})


def test_a_recipe_reads_back_from_its_text(menu: Menu, recipe: dict[str, Value]) -> None:
    assert parse_recipe(render_recipe(recipe), menu) == recipe


def test_an_integer_for_a_float_knob_is_read_as_a_float(menu: Menu, recipe: dict[str, Value]) -> None:
    text = render_recipe(recipe).replace("weight_decay = 0.0", "weight_decay = 1")
    assert type(parse_recipe(text, menu)["weight_decay"]) is float


def test_the_order_of_the_file_is_kept(menu: Menu, recipe: dict[str, Value]) -> None:
    backwards = dict(reversed(recipe.items()))
    assert list(parse_recipe(render_recipe(backwards), menu)) == list(backwards)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("lr = 0.001\n", "", "knob lr is missing (the menu's default is 0.001)"),
        ("n_head", "nhead", '"nhead" is no knob of the menu; did you mean "n_head"?'),
        ("lr = 0.001", "lr = 1.0", "lr must be a float from 1e-05 to 0.01, not 1.0"),
        ("lr = 0.001", "lr = nan", "not nan"),
        ("lr = 0.001", "lr = true", "not true"),
        ("lr = 0.001", 'lr = "0.001"', 'not "0.001"'),
        ("lr = 0.001", "lr = []", "not a list"),
        ("lr = 0.001", "lr = 2026-01-01", "not datetime"),
        ("lr = 0.001", "lr = {x = 1}", "not a table"),
        ("lr = 0.001", "lr = 0x" + "f" * 5000, "not an integer of 20000 bits"),
        ("n_head = 4", "n_head = 4.0", "n_head must be an int from 1 to 16, not 4.0"),
        ("n_head = 4", "n_head = 4\nn_head = 4", "no valid TOML"),
        ("tied = true", "tied = 1", "tied must be true or false"),
        ('"bf16"', '"fp8"', 'one of "bf16", "fp32"'),
        ("tied = true", "[tied]", "not a table"),
    ],
)
def test_an_unsound_recipe_is_refused_in_one_line_that_names_the_file(
    menu: Menu, recipe: dict[str, Value], old: str, new: str, words: str
) -> None:
    with pytest.raises(RailsError) as caught:
        parse_recipe(render_recipe(recipe).replace(old, new), menu, "here/recipe.toml")
    message = str(caught.value)
    assert message.startswith("here/recipe.toml: ") and words in message and message.isprintable()


def test_a_key_is_sixteen_hex_digits_that_stay_the_same() -> None:
    assert recipe_key({"lr": 0.001, "n": 8}) == "477fa92ef69d84bb"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1e-3}, {"a": 0.001}),
        ({"a": 8}, {"a": 8.0}),
        ({"a": 0.0}, {"a": -0.0}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ],
)
def test_one_recipe_spelled_two_ways_has_one_key(one: dict[str, Value], other: dict[str, Value]) -> None:
    assert recipe_key(one) == recipe_key(other)


def test_different_recipes_have_different_keys() -> None:
    recipes: list[dict[str, Value]] = [
        {"a": 1},
        {"a": 2},
        {"a": True},
        {"a": "1"},
        {"a": "true"},
        {"b": 1},
        {"a": 1, "b": 1},
        {"a": 0.1},
        {"a": 0.1 + 2e-17},
    ]
    assert len({recipe_key(recipe) for recipe in recipes}) == len(recipes)
