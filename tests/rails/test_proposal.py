"""The schema rail: the exact wire format passes, everything near it is blocked."""

import json
from collections.abc import Callable

import pytest

from rails import Menu, Value, gate

GOOD = '{"knob": "lr", "new_value": 0.002, "reason": "r"}'
DEEP = 8000

NOT_THE_WIRE_FORMAT = {
    "empty": "",
    "blank": "  \n ",
    "prose": "Let me raise lr to 0.002.",
    "code fence": f"```json\n{GOOD}\n```",
    "text before": f"Sure: {GOOD}",
    "text after": f"{GOOD} Done.",
    "two documents": f"{GOOD}\n{GOOD}",
    "trailing comma": GOOD + ",",
    "byte order mark": "\ufeff" + GOOD,
    "byte order mark in bytes": b"\xef\xbb\xbf" + GOOD.encode(),
    "no-break space": "\u00a0" + GOOD,
    "form feed": "\f" + GOOD,
    "NUL at the end": GOOD + "\0",
    "utf-16": GOOD.encode("utf-16"),
    "utf-32": GOOD.encode("utf-32-le"),
    "not utf-8": b'{"knob": "lr", "new_value": 0.002, "reason": "\xff"}',
    "overlong utf-8": b'{"knob": "\xc0\xacr"}',
    "single quotes": GOOD.replace('"', "'"),
    "comment": GOOD.replace("{", "{ // why\n"),
    "raw newline in a string": GOOD.replace('"r"', '"r\n"'),
    "list": f"[{GOOD}]",
    "string": json.dumps(GOOD),
    "number": "1",
    "null": "null",
    "NaN": "NaN",
    "not text": None,
    "unknown key": '{"knob": "lr", "new_value": 0.002, "reason": "r", "shell": "rm -rf"}',
    "key in capitals": '{"Knob": "lr", "new_value": 0.002, "reason": "r"}',
    "key twice": '{"knob": "lr", "knob": "lr", "new_value": 0.002, "reason": "r"}',
    "key twice, once escaped": '{"knob": "lr", "\\u006bnob": "n_head", "new_value": 0.002, "reason": "r"}',
    "key twice inside": '{"changes": {"lr": 1, "lr": 2}, "reason": "r"}',
    "no knob": '{"new_value": 0.002, "reason": "r"}',
    "no value": '{"knob": "lr", "reason": "r"}',
    "no reason": '{"knob": "lr", "new_value": 0.002}',
    "empty object": "{}",
    "knob is a number": '{"knob": 1, "new_value": 0.002, "reason": "r"}',
    "knob is null": '{"knob": null, "new_value": 0.002, "reason": "r"}',
    "knob is a list": '{"knob": ["lr"], "new_value": 0.002, "reason": "r"}',
    "value is a list": '{"knob": "lr", "new_value": [0.002], "reason": "r"}',
    "value is an object": '{"knob": "lr", "new_value": {"a": 1}, "reason": "r"}',
    "reason is null": '{"knob": "lr", "new_value": 0.002, "reason": null}',
    "reason is a number": '{"knob": "lr", "new_value": 0.002, "reason": 5}',
    "reason is too long": json.dumps({"knob": "lr", "new_value": 0.002, "reason": "r" * 501}),
    "delta is text": '{"knob": "lr", "new_value": 0.002, "reason": "r", "expected_delta": "-0.1"}',
    "delta is true": '{"knob": "lr", "new_value": 0.002, "reason": "r", "expected_delta": true}',
    "delta is null": '{"knob": "lr", "new_value": 0.002, "reason": "r", "expected_delta": null}',
    "delta is NaN": '{"knob": "lr", "new_value": 0.002, "reason": "r", "expected_delta": NaN}',
    "delta is 1e400": '{"knob": "lr", "new_value": 0.002, "reason": "r", "expected_delta": 1e400}',
    "delta is huge": f'{{"knob": "lr", "new_value": 0.002, "reason": "r", "expected_delta": {"9" * 9000}}}',
    "too long": GOOD + " " * (16 * 1024),
    "too long in bytes only": GOOD.replace('"r"', '"' + "é" * 8200 + '"'),
    "too long with surrogates": "\ud800" * 6000,
    "deep lists": "[" * DEEP + "]" * DEEP,
    "deep objects": '{"a":' * (DEEP // 5) + "1" + "}" * (DEEP // 5),
    "deep and unclosed": "[" * DEEP,
    "deep after a closing": "]" * 10 + "[" * DEEP,
    "deep behind a stray escape": '\\"' + "[" * DEEP,
    "deep value": '{"knob": "lr", "new_value": ' + "[" * DEEP + "]" * DEEP + ', "reason": "r"}',
    "a string of quotes": '"' + '\\"' * 8000,
    "three levels": '{"changes": {"lr": {"a": 1}}, "reason": "r"}',
}


@pytest.mark.parametrize("raw", NOT_THE_WIRE_FORMAT.values(), ids=NOT_THE_WIRE_FORMAT)
def test_what_is_not_the_wire_format_is_blocked_by_schema(
    menu: Menu, menu_of_three: Menu, recipe: dict[str, Value], raw: str | bytes
) -> None:
    for each in (menu, menu_of_three):
        verdict = gate(raw, recipe, each)
        assert not verdict.passed and verdict.rail == "schema", verdict
        assert verdict.reason.isprintable() and len(verdict.reason) < 500
        json.loads(verdict.to_json())


def test_brackets_inside_a_reason_do_not_count_as_nesting(
    menu: Menu, recipe: dict[str, Value], propose: Callable[..., str]
) -> None:
    assert gate(propose("lr", 2e-3, reason='[[[{{{"\\"[[[ \\'), recipe, menu).passed


def test_a_reason_of_500_characters_passes(menu: Menu, recipe: dict[str, Value], propose: Callable[..., str]) -> None:
    assert gate(propose("lr", 2e-3, reason="é" * 500), recipe, menu).passed


def test_a_lone_surrogate_in_a_reason_is_dropped(menu: Menu, recipe: dict[str, Value]) -> None:
    for reason in ("a\ud800b", "a\\ud800b"):
        verdict = gate(f'{{"knob": "lr", "new_value": 0.002, "reason": "{reason}"}}', recipe, menu)
        assert verdict.passed and verdict.hypothesis == "ab"


def test_a_slip_in_a_key_is_told_the_nearest_key(menu: Menu, recipe: dict[str, Value]) -> None:
    assert 'did you mean "new_value"?' in gate('{"knob": "lr", "newvalue": 1, "reason": "r"}', recipe, menu).reason


@pytest.mark.parametrize("changes", [{}, {"lr": 2e-3, "n_head": 8, "tied": False, "d_model": 64}, [], "lr", None, 1])
def test_changes_hold_one_to_max_changes_knobs(menu_of_three: Menu, recipe: dict[str, Value], changes: object) -> None:
    assert gate(json.dumps({"changes": changes, "reason": "r"}), recipe, menu_of_three).rail == "schema"


def test_changes_are_blocked_where_the_menu_allows_one(menu: Menu, recipe: dict[str, Value]) -> None:
    verdict = gate('{"changes": {"lr": 0.002}, "reason": "r"}', recipe, menu)
    assert verdict.rail == "schema" and "one change per trial" in verdict.reason


@pytest.mark.parametrize("more", [{"knob": "lr"}, {"new_value": 1}, {"knob": "lr", "new_value": 1}])
def test_both_wire_formats_at_once_are_blocked(
    menu_of_three: Menu, recipe: dict[str, Value], more: dict[str, object]
) -> None:
    raw = json.dumps({"changes": {"n_head": 8}, "reason": "r", **more})
    assert gate(raw, recipe, menu_of_three).rail == "schema"


def test_both_wire_formats_pass_where_the_menu_allows_several(
    menu_of_three: Menu, recipe: dict[str, Value], propose: Callable[..., str]
) -> None:
    assert gate(propose("lr", 2e-3), recipe, menu_of_three).passed
    assert gate('{"changes": {"lr": 0.002}, "reason": "r"}', recipe, menu_of_three).passed
