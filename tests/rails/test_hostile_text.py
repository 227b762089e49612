"""Thousands of mutated proposals: the gate never raises, and nothing passes but a named knob within its range."""

import json
import random

import pytest

from rails import Menu, Value, clean, gate, parse_recipe, render_recipe, violations

SEEDS = [
    '{"knob": "lr", "new_value": 0.002, "reason": "steeper"}',
    '{"knob": "n_head", "new_value": 8, "reason": "more heads", "expected_delta": -0.02}',
    '{"knob": "precision", "new_value": "fp32", "reason": "exact"}',
    '{"knob": "tied", "new_value": false, "reason": "free"}',
    '{"changes": {"lr": 0.002, "d_model": 96}, "reason": "both"}',
    '{"changes": {"n_head": 2, "weight_decay": 1, "lr": 1e-4}, "reason": "three"}',
]
PIECES = [
    "NaN",
    "Infinity",
    "-",
    "1e400",
    "1e999999",
    "9" * 400,
    "0x10",
    "1_000",
    "true",
    "null",
    "[",
    "]",
    "{",
    "}",
    '"',
    "\\",
    ",",
    ":",
    "\0",
    "\x1b[31m",
    "\u202e",
    "\ud800",
    "\\ud800",
    "\ufeff",
    "\n",
    "é",
    "\U0001d7ce",
    "٣",
    "__proto__",
    "lr",
    "n_head",
    "d_model",
    "0.002",
    "8",
    "8.0",
    "-0.0",
    '"lr": 1e-3',
    '"changes": {"lr": 2e-3}',
    "```",
    "/*",
    "[" * 900,
    '{"a":' * 300,
    "1e-3",
    ".5",
    "+1",
]


def mutate(text: str, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice((0, 0, 1, 2, 5, 12)))
        text = text[:start] + rng.choice((*PIECES, "", rng.choice(SEEDS)[:20])) + text[end:]
    return text


@pytest.mark.parametrize("seed", range(4))
def test_no_mutated_proposal_raises_or_escapes_the_menu(
    menu: Menu, menu_of_three: Menu, recipe: dict[str, Value], seed: int
) -> None:
    rng = random.Random(seed)
    passed = 0
    for _ in range(1500):
        text = mutate(rng.choice(SEEDS), rng)
        raw: str | bytes = text
        if rng.random() < 0.2:
            damaged = bytearray(text.encode("utf-8", "surrogatepass"))
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            raw = bytes(damaged)
        allowed = rng.choice((menu, menu_of_three))
        verdict = gate(raw, recipe, allowed)
        json.loads(verdict.to_json())
        assert verdict.reason.isprintable() and verdict.hypothesis.isprintable()
        assert verdict.passed == (verdict.rail is None)
        if not verdict.passed:
            continue
        passed += 1
        assert 1 <= len(verdict.changes) <= allowed.max_changes
        for name, value in verdict.changes.items():
            admitted = allowed.knobs[name].admit(value)
            assert admitted == value and type(admitted) is type(value) and value != recipe[name]
        candidate = {**recipe, **verdict.changes}
        assert not violations(candidate, allowed)
        assert parse_recipe(render_recipe(candidate), allowed) == candidate
    assert passed > 20, "the corpus has to reach the far end of the gate"


@pytest.mark.parametrize("seed", range(2))
def test_random_bytes_never_raise_and_never_pass(menu: Menu, recipe: dict[str, Value], seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(500):
        assert not gate(rng.randbytes(rng.randrange(200)), recipe, menu).passed


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\nb\r\nc\td", "a b c d"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mred", "red"),
        ("a\x1b", "a"),
        ("\x1bPq#0\x1b\\x", "x"),
        ("a\u202eb\u2066c\u2069d\u200ee", "abcde"),
        ("zero\u200bwidth", "zerowidth"),
        ("a\0b\x07\x08\x7fc", "abc"),
        ("lone \ud800 half", "lone half"),
        ("a\u2028b\u2029c\x85d", "a b c d"),
        ("  edges  ", "edges"),
        ("é 漢字 🙂", "é 漢字 🙂"),
        ("\U000e0041tag", "tag"),
        ("", ""),
    ],
)
def test_cleaned_text_is_one_printable_line(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_cleaned_text_is_cut_at_its_limit() -> None:
    assert clean("x" * 1000) == "x" * 500 and clean("ab cd", 3) == "ab"


def test_cleaning_twice_changes_nothing() -> None:
    rng = random.Random(1)
    alphabet = "ab \x1b[]0;m\x07\\\u202e\ud800\n\x9bPX^_\u2028"
    for _ in range(2000):
        text = clean("".join(rng.choices(alphabet, k=rng.randrange(40))), 20)
        assert text == clean(text, 20) and text.isprintable() and len(text) <= 20
        text.encode("utf-8")
