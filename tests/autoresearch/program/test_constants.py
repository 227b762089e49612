"""A script's constants: found by Python's own parser, replaced by their place, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from programs import CONSTANTS

from autoresearch.errors import UserError
from autoresearch.program.constants import constants, has_seed, replaced


def test_only_the_values_change_and_comments_and_layout_stay() -> None:
    made = replaced(CONSTANTS, {"lr": 0.5, "depth": 8, "kind": "it's", "wide": True, "other": 2}, "train.py")
    assert made == (
        CONSTANTS.replace("LR = 0.01 ", "LR = 0.5 ")
        .replace("2 ** 2", "8")
        .replace('("plain")', '("it\'s")')
        .replace("WIDE = False", "WIDE = True")
        .replace("OTHER = 1", "OTHER = 2")
    )


def test_what_a_constant_holds_is_read_and_not_run() -> None:
    text = "A = -3; B = 2 ** 19; C = [1]; D = open('/nowhere'); E = 1 / 0; F = 9 ** 9 ** 9\nG = 'x'\nH: float = 1e-3\n"
    text += "I = 3 * 'x'\n"
    values: dict[str, Any] = {name: found.value for name, found in constants(text, "s").items()}
    assert values == {"A": -3, "B": 2**19, "C": None, "D": None, "E": None, "F": None, "G": "x", "H": 1e-3, "I": None}


def test_what_is_set_inside_of_a_block_is_no_constant() -> None:
    text = "def f():\n    LR = 1\nif True:\n    LR = 2\na, b = 1, 2\nx.y = 3\n"
    assert constants(text, "s") == {}


def test_a_value_over_several_lines_is_replaced_whole() -> None:
    made = replaced("LR = (\n    0.1  # old\n)\nB = (1 +\n 2)\n", {"b": 7, "lr": 2}, "s")
    assert made == "LR = (\n    2  # old\n)\nB = (7)\n"


def test_windows_line_ends_stay() -> None:
    assert replaced("A = 1\r\nLR = 0.1\r\n", {"lr": 0.2}, "s") == "A = 1\r\nLR = 0.2\r\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("DEPHT = 1\n", 's has no constant DEPTH at its top for knob depth; did you mean "DEPHT"?'),
        ("DEPTH = 1\nDEPTH = 2\n", "sets DEPTH more than once"),
        ("DEPTH = 1\nDepth = 2\n", "sets DEPTH and Depth more than once"),
        ("DEPTH = (\n", "s is no Python script"),
        ("DEPTH = 1\0\n", "s is no Python script"),
    ],
)
def test_a_script_that_cannot_be_told_its_knobs_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(UserError) as refusal:
        replaced(text, {"depth": 3}, "s")
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_seed_is_known_by_its_name() -> None:
    assert has_seed(CONSTANTS, "s") and not has_seed("SEEDS = 3\n", "s")
