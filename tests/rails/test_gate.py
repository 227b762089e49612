"""The eight rails in order, seen from outside: one proposal in, one verdict out."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import pytest

from autoresearch.study.preset import load_preset
from rails import RAILS, Limits, Menu, Value, Verdict, gate, load_menu, recipe_key, violations


def test_a_sound_proposal_passes(menu: Menu, recipe: dict[str, Value], propose: Callable[..., str]) -> None:
    verdict = gate(propose("lr", 2e-3, expected_delta=-0.01), recipe, menu)
    assert verdict == Verdict(True, None, "passed all rails", {"lr": 2e-3}, "worth a try", -0.01)


def test_bytes_are_read_as_utf8(menu: Menu, recipe: dict[str, Value], propose: Callable[..., str]) -> None:
    assert gate(propose("lr", 2e-3).encode(), recipe, menu).passed


def test_ascii_white_space_around_the_object_is_allowed(
    menu: Menu, recipe: dict[str, Value], propose: Callable[..., str]
) -> None:
    assert gate(f" \t\r\n{propose('lr', 2e-3)}\n\n", recipe, menu).passed


def test_the_gate_changes_neither_recipe_nor_menu(
    menu: Menu, recipe: dict[str, Value], propose: Callable[..., str]
) -> None:
    before = dict(recipe)
    gate(propose("lr", 2e-3), recipe, menu)
    assert recipe == before and menu.defaults() == before


@pytest.mark.parametrize(
    ("knob", "sent", "held"),
    [
        ("weight_decay", 1, 1.0),
        ("n_head", 8, 8),
        ("precision", "fp32", "fp32"),
        ("tied", False, False),
        ("lr", 1e-2, 1e-2),
    ],
)
def test_a_value_is_held_in_the_knobs_own_type(
    menu: Menu, recipe: dict[str, Value], propose: Callable[..., str], knob: str, sent: object, held: object
) -> None:
    verdict = gate(propose(knob, sent), recipe, menu)
    assert verdict.passed, verdict
    assert verdict.changes == {knob: held} and type(verdict.changes[knob]) is type(held)


@pytest.mark.parametrize(
    ("knob", "wanted"),
    [("learning_rate", "lr"), ("nhead", "n_head"), ("LR", "lr"), ("", ""), ("__class__", ""), ("\uff4c\uff52", "")],
)
def test_an_unknown_knob_is_blocked_by_menu(
    menu: Menu, recipe: dict[str, Value], propose: Callable[..., str], knob: str, wanted: str
) -> None:
    verdict = gate(propose(knob, 1), recipe, menu)
    assert verdict.rail == "menu" and wanted in verdict.reason and "d_model, n_head, lr" in verdict.reason


def test_menu_names_the_nearest_knob(menu: Menu, recipe: dict[str, Value], propose: Callable[..., str]) -> None:
    assert 'did you mean "weight_decay"?' in gate(propose("weight_dcay", 0.1), recipe, menu).reason


@pytest.mark.parametrize(
    ("knob", "literal"),
    [
        ("lr", "true"),
        ("n_head", "true"),
        ("lr", '"0.001"'),
        ("lr", "NaN"),
        ("lr", "Infinity"),
        ("lr", "-Infinity"),
        ("lr", "1e400"),
        ("lr", "-1e400"),
        ("lr", "0"),
        ("lr", "0.5"),
        ("lr", "null"),
        ("lr", "1" * 5000),
        ("lr", "-1e-3"),
        ("n_head", "8.0"),
        ("n_head", "1e1"),
        ("n_head", "0"),
        ("n_head", "17"),
        ("n_head", "9" * 39),
        ("n_head", "9" * 9000),
        ("n_head", "NaN"),
        ("n_head", '"8"'),
        ("n_head", "null"),
        ("d_model", "65"),
        ("d_model", "64.0"),
        ("d_model", "false"),
        ("precision", '"BF16"'),
        ("precision", '"fp8"'),
        ("precision", '"bf16 "'),
        ("precision", '"\\ud800"'),
        ("precision", "1"),
        ("precision", "null"),
        ("precision", "true"),
        ("tied", "1"),
        ("tied", "0"),
        ("tied", '"false"'),
        ("tied", "0.0"),
        ("weight_decay", "1.0000000001"),
        ("weight_decay", "false"),
    ],
)
def test_a_value_the_knob_may_not_take_is_blocked_by_range(
    menu: Menu, recipe: dict[str, Value], knob: str, literal: str
) -> None:
    verdict = gate(f'{{"knob": "{knob}", "new_value": {literal}, "reason": "r"}}', recipe, menu)
    assert verdict.rail == "range", verdict
    assert knob in verdict.reason and menu.knobs[knob].allowed in verdict.reason


@pytest.mark.parametrize(
    ("knob", "value"),
    [("lr", 0.001), ("n_head", 4), ("precision", "bf16"), ("tied", True), ("weight_decay", -0.0), ("weight_decay", 0)],
)
def test_a_change_to_the_value_that_stands_is_blocked_by_range(
    menu: Menu, recipe: dict[str, Value], propose: Callable[..., str], knob: str, value: object
) -> None:
    verdict = gate(propose(knob, value), recipe, menu)
    assert verdict.rail == "range" and "already stands" in verdict.reason


def test_a_broken_constraint_is_blocked_by_cross(
    menu: Menu, recipe: dict[str, Value], propose: Callable[..., str]
) -> None:
    verdict = gate(propose("n_head", 5), recipe, menu)
    assert verdict.rail == "cross"
    assert "heads divide d_model" in verdict.reason and "d_model = 128, n_head = 5" in verdict.reason


def test_two_changes_are_judged_together(menu_of_three: Menu, recipe: dict[str, Value]) -> None:
    raw = json.dumps({"changes": {"n_head": 3, "d_model": 96}, "reason": "r"})
    assert gate(raw, recipe, menu_of_three).changes == {"n_head": 3, "d_model": 96}


def test_one_standing_value_among_several_changes_is_blocked(menu_of_three: Menu, recipe: dict[str, Value]) -> None:
    raw = json.dumps({"changes": {"n_head": 8, "lr": 0.001}, "reason": "r"})
    assert gate(raw, recipe, menu_of_three).rail == "range"


BUDGETED = """
[[constraints]]
expr = "budget_steps - n_head >= 5"
"""


def test_budget_steps_without_a_budget_is_blocked_and_says_what_to_pass(
    menu_text: str, recipe: dict[str, Value], propose: Callable[..., str]
) -> None:
    menu = load_menu(menu_text + BUDGETED)
    for limits in (None, Limits()):
        verdict = gate(propose("lr", 2e-3), recipe, menu, (), limits)
        assert verdict.rail == "cross" and "pass the study's budget" in verdict.reason


@pytest.mark.parametrize(("steps", "passed"), [(9, True), (8, False)])
def test_budget_steps_come_from_the_budget(
    menu_text: str, recipe: dict[str, Value], propose: Callable[..., str], steps: int, passed: bool
) -> None:
    menu = load_menu(menu_text + BUDGETED)
    assert gate(propose("lr", 2e-3), recipe, menu, (), Limits({"steps": steps})).passed is passed


def test_a_token_budget_without_batch_and_length_is_blocked_not_raised(
    menu_text: str, recipe: dict[str, Value], propose: Callable[..., str]
) -> None:
    menu = load_menu(menu_text + BUDGETED)
    verdict = gate(propose("lr", 2e-3), recipe, menu, (), Limits({"tokens": 1000}))
    assert verdict.rail == "cross" and "batch_size and seq_len" in verdict.reason


def test_a_second_budget_without_measurements_leaves_budget_steps_unbounded(
    menu_text: str, recipe: dict[str, Value], propose: Callable[..., str]
) -> None:
    menu = load_menu(menu_text + BUDGETED)
    recipe = {**recipe, "batch_size": 8, "seq_len": 64}
    assert gate(propose("lr", 2e-3), recipe, menu, (), Limits({"seconds": 10})).passed


@pytest.mark.parametrize(
    "expr", ["100 / (d_model - 128) > 1", "100 % (d_model - 128) > 1", "100 // (d_model - 128) > 1"]
)
def test_a_constraint_without_an_answer_blocks(
    menu_text: str, recipe: dict[str, Value], propose: Callable[..., str], expr: str
) -> None:
    menu = load_menu(menu_text + f'[[constraints]]\nexpr = "{expr}"\n')
    verdict = gate(propose("lr", 2e-3), recipe, menu)
    assert verdict.rail == "cross" and "no answer" in verdict.reason


def test_a_recipe_already_tried_is_blocked_by_novelty_and_says_what_came_of_it(
    menu: Menu, recipe: dict[str, Value], propose: Callable[..., str]
) -> None:
    tried = {recipe_key({**recipe, "weight_decay": 1.0}): "trial 7 (discard, val_bpb 2.81)"}
    verdict = gate(propose("weight_decay", 1), recipe, menu, tried)
    assert verdict.rail == "novelty" and "trial 7 (discard, val_bpb 2.81)" in verdict.reason
    assert gate(propose("weight_decay", 0.5), recipe, menu, tried).passed


def test_an_unavailable_precision_is_blocked_by_fit(
    menu: Menu, recipe: dict[str, Value], propose: Callable[..., str]
) -> None:
    verdict = gate(propose("precision", "fp32"), recipe, menu, (), Limits(precisions=("bf16",)))
    assert verdict.rail == "fit" and "it can: bf16" in verdict.reason


def test_the_first_rail_that_blocks_wins(menu: Menu, recipe: dict[str, Value], propose: Callable[..., str]) -> None:
    tried = {recipe_key({**recipe, "n_head": 5}): "trial 1"}
    limits = Limits(precisions=())
    bad = lambda _: "nonsense"  # noqa: E731
    seen = [
        gate("nonsense", recipe, menu, tried, limits, diff=bad),
        gate(propose("nope", 99), recipe, menu, tried, limits, diff=bad),
        gate(propose("n_head", 99), recipe, menu, tried, limits, diff=bad),
        gate(propose("n_head", 5), recipe, menu, tried, limits, diff=bad),
        gate(propose("n_head", 8), recipe, menu, {recipe_key({**recipe, "n_head": 8}): "t"}, limits, diff=bad),
        gate(propose("n_head", 8), recipe, menu, {recipe_key({**recipe, "n_head": 8}): "t"}, limits),
        _too_much_compute(propose("n_layer", 8)),
        gate(propose("n_head", 8), recipe, menu, tried, limits),
    ]
    assert tuple(verdict.rail for verdict in seen) == RAILS


def _too_much_compute(raw: str) -> Verdict:
    """Of the GPT's own menu, which this small one is not; no precision fits either."""
    menu = load_preset("cpu-nano").menu
    limits = Limits({"tokens": 200_000}, vocab_size=2048, precisions=())
    return gate(raw, menu.defaults(), replace(menu, max_compute_ratio=1.5), (), limits)


def test_the_diff_is_asked_for_the_candidate_recipe(
    menu: Menu, recipe: dict[str, Value], propose: Callable[..., str]
) -> None:
    asked = []

    def diff(candidate: dict[str, Value]) -> str:
        asked.append(candidate)
        return ""

    gate(propose("lr", 2e-3), recipe, menu, diff=diff)
    assert asked == [{**recipe, "lr": 2e-3}]


def test_an_error_of_git_is_no_verdict(menu: Menu, recipe: dict[str, Value], propose: Callable[..., str]) -> None:
    def broken(_: object) -> str:
        raise OSError("no git")

    with pytest.raises(OSError, match="no git"):
        gate(propose("lr", 2e-3), recipe, menu, diff=broken)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "1e400", "null", '"\\u001b[31m\\u202ered"', "9" * 9000])
def test_a_blocked_verdict_is_strict_json_with_safe_text(menu: Menu, recipe: dict[str, Value], literal: str) -> None:
    raw = f'{{"knob": "lr", "new_value": {literal}, "reason": "a\\u001b[2Jb\\u202ec\\n d\\ud800"}}'
    line = gate(raw, recipe, menu).to_json()

    def refuse(name: str) -> NoReturn:
        raise AssertionError(name)

    verdict = json.loads(line, parse_constant=refuse)
    assert verdict["rail"] == "range" and verdict["hypothesis"] == "abc d" and set(verdict["changes"]) == {"lr"}
    assert line.isascii() and "\n" not in line and "\\u001b" not in line and "\\ud800" not in line


def test_a_blocked_proposal_keeps_what_was_read_of_it(menu: Menu, recipe: dict[str, Value]) -> None:
    raw = '{"knob": "lr", "new_value": 0.002, "reason": "because", "expected_delta": -1, "extra": 1}'
    verdict = gate(raw, recipe, menu)
    assert verdict.rail == "schema"
    assert (verdict.changes, verdict.hypothesis, verdict.expected_delta) == ({"lr": 0.002}, "because", -1.0)


def test_violations_name_every_broken_constraint(menu_text: str) -> None:
    menu = load_menu(menu_text + "[[constraints]]\nexpr = \"tied or precision == 'fp32'\"\n")
    recipe = menu.defaults()
    assert violations(recipe, menu) == []
    assert len(violations({**recipe, "n_head": 5, "tied": False}, menu)) == 2


def test_violations_of_a_recipe_without_the_knob_are_words_not_an_exception(menu: Menu) -> None:
    assert "lacks" in violations({"d_model": 128}, menu)[0]
