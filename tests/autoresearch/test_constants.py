"""A script's constants: what counts as one, and a copy in which nothing but their values is other than before."""

from __future__ import annotations

import ast

import pytest

from autoresearch.constants import MOST_BYTES, patched, read_constants
from autoresearch.errors import UserError
from autoresearch.trial import Value

SCRIPT = """\
import os  # LR = 5
LR = 1e-3 * 4   # the rate
BATCH: int = 2**4; DEPTH = (-8)
USE_BIAS = True
MODE = 'fast'
LAMBDA = 3
print(f"{LR=}")
"""


def values(source: str) -> dict[str, object]:
    return {found.name: found.value for found in read_constants(source)[0]}


def left_out(source: str) -> dict[str, str]:
    return {other.name: other.why for other in read_constants(source)[1]}


def test_a_constant_is_a_plain_value_or_simple_arithmetic_of_numbers() -> None:
    found = {"LR": 0.004, "BATCH": 16, "DEPTH": -8, "USE_BIAS": True, "MODE": "fast", "LAMBDA": 3}
    assert values(SCRIPT) == found
    assert [constant.line for constant in read_constants(SCRIPT)[0]] == [2, 3, 3, 4, 5, 6]


def test_in_the_copy_all_but_the_values_is_as_it_was() -> None:
    changes: dict[str, Value] = {"lr": 0.5, "batch": 32, "depth": 9, "use_bias": False, "mode": "slow", "lambda_": 4}
    assert patched(SCRIPT, changes).splitlines() == [
        "import os  # LR = 5",
        "LR = 0.5   # the rate",
        "BATCH: int = 32; DEPTH = (9)",
        "USE_BIAS = False",
        "MODE = 'slow'",
        "LAMBDA = 4",
        'print(f"{LR=}")',
    ]


def test_a_value_that_stands_already_keeps_its_spelling() -> None:
    assert patched(SCRIPT, {"lr": 0.004, "batch": 16, "lambda_": 3.0}) == SCRIPT
    assert "USE_BIAS = 1" in patched(SCRIPT, {"use_bias": 1})


def test_a_name_that_is_bound_again_is_no_constant() -> None:
    again = ["A = 2", "A += 1", "for A in []: pass", "import A", "def A(): pass", "class A: pass", "(A := 2)"]
    again += ["with x as A: pass", "del A", "def f():\n    global A\n    A = 2", "try: pass\nexcept E as A: pass"]
    again += ["[A := y for y in []]", "match x:\n    case [*A]: pass", "if x:\n    A = 3", "from A import b as A"]
    for more in again:
        assert values(f"A = 1\n{more}\n") == {}, more
        assert left_out(f"A = 1\n{more}\n") == {"A": "assigned more than once"}, more


def test_a_name_of_another_scope_is_another() -> None:
    same = [
        "def f(A): A = 2",
        "lambda A: A",
        "[A for A in []]",
        "class B:\n    A = 2",
        "print(A)",
        "x.A = 3",
        "x[A] = 3",
    ]
    for more in same:
        assert values(f"A = 1\n{more}\n")["A"] == 1, more


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("B = LR * 2", "made from LR"),
        ("B = C = 2", "assigned together with others"),
        ("B, C = 1, 2", "assigned together with others"),
        ("B = (0.9, 0.95)", "no plain number, word, True or False"),
        ("B = os.environ['B']", "made from os"),
        ("B = 9**9**9", "no plain number, word, True or False"),
        ("B = 10**10**10", "no plain number, word, True or False"),
        ("B = 1e999", "no plain number, word, True or False"),
        ("B = 1 / 0", "no plain number, word, True or False"),
        ("B = (-8)**0.5", "no plain number, word, True or False"),
        ("B = 0x" + "f" * 9000, "no plain number, word, True or False"),
        ("B = " + "-" * 40 + "1", "no plain number, word, True or False"),
        ("lr = 2", "another name differs from it in capitals alone"),
        ("_B = 2", "a knob's name is letters, digits and _, and begins with a letter"),
        ("größe = 2", "a knob's name is letters, digits and _, and begins with a letter"),
        ("B" * 65 + " = 2", "a knob's name is letters, digits and _, and begins with a letter"),
    ],
)
def test_what_cannot_be_turned_is_left_out_with_why(line: str, why: str) -> None:
    assert why in left_out(f"import os\nLR = 1\n{line}\n").values()


def test_positions_hold_with_any_letters_and_line_ends() -> None:
    odd = "\ufeffs = 'ä\u2028\x0b'\r\nA = 1 # ß\rQ = 'é'; B = 2\n\x0cC = (1 +\r\n  2)\n'''\x0c\x1c'''; D = 4"
    expected = "\ufeffs = 'ä\u2028\x0b'\r\nA = 5 # ß\rQ = 'é'; B = 6\n\x0cC = (7)\n'''\x0c\x1c'''; D = 8"
    assert patched(odd, {"a": 5, "b": 6, "c": 7, "d": 8}) == expected


@pytest.mark.parametrize("word", ["it's", '"', "\\", "'''", "x'; import os; '", "é\u2028", "{x}"])
def test_a_word_is_written_so_that_python_reads_it_back(word: str) -> None:
    made = patched(SCRIPT, {"mode": word})
    assert values(made)["MODE"] == word
    assert len(ast.parse(made).body) == len(ast.parse(SCRIPT).body)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\ndef f(:\n", "train.py, line 2: this is no Python: invalid syntax"),
        ("a\0b", "this is no Python"),
        ("(" * 300, "this is no Python"),
        ("-" * 20_000 + "1", "this is no Python"),
        ("x = " + "1" * 5000, "this is no Python"),
        ("#" * (MOST_BYTES + 1), "train.py is larger than 1,048,576 bytes"),
    ],
)
def test_what_is_no_script_is_one_clear_line(source: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as told:
        read_constants(source, "train.py")
    assert "\n" not in str(told.value)


def test_a_knob_that_the_script_lacks_and_a_value_that_python_cannot_spell_are_refused() -> None:
    with pytest.raises(UserError, match="has no constant WIDTH"):
        patched(SCRIPT, {"width": 3})
    with pytest.raises(UserError, match="nan cannot be written"):
        patched(SCRIPT, {"lr": float("nan")})


def test_an_expression_deeper_than_pythons_stack_does_no_harm() -> None:
    assert values("A = 1\nx" + ".x" * 900 + "\nprint(" + "1 + " * 900 + "1)\n") == {"A": 1}
