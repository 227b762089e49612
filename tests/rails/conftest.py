"""A small menu with a knob of every type, its recipe, and a proposal writer."""

import json
from collections.abc import Callable

import pytest

from rails import Menu, Value, load_menu

MENU = """
max_changes = 1

[knobs.d_model]
type = "int"
choices = [64, 96, 128]
default = 128
doc = "width"

[knobs.n_head]
type = "int"
low = 1
high = 16
default = 4

[knobs.lr]
type = "float"
low = 1e-5
high = 1e-2
scale = "log"
default = 1e-3

[knobs.weight_decay]
type = "float"
low = 0
high = 1
default = 0

[knobs.precision]
type = "str"
choices = ["bf16", "fp32"]
default = "bf16"

[knobs.tied]
type = "bool"
default = true

[[constraints]]
expr = "d_model % n_head == 0"
doc = "heads divide d_model"
"""


@pytest.fixture
def menu_text() -> str:
    return MENU


@pytest.fixture
def menu() -> Menu:
    return load_menu(MENU)


@pytest.fixture
def menu_of_three() -> Menu:
    return load_menu(MENU.replace("max_changes = 1", "max_changes = 3"))


@pytest.fixture
def recipe(menu: Menu) -> dict[str, Value]:
    return menu.defaults()


@pytest.fixture
def propose() -> Callable[..., str]:
    def write(knob: str, value: object, **more: object) -> str:
        return json.dumps({"knob": knob, "new_value": value, "reason": "worth a try", **more})

    return write
