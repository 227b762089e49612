"""What a language model is shown: the menu, its rules, the lineage, what is left; never a line that is not ours."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from histories import LIMITS, MENU, baseline, history, past_trial
from studies import MACHINE, make_study, run_study

from autoresearch.proposers.classic import ScriptedProposer
from autoresearch.proposers.lineage import lineage
from autoresearch.proposers.prompt import SYSTEM, answer_schema, render, whole_prompt
from autoresearch.study.folder import StudyFolder
from autoresearch.study.history import now
from autoresearch.trial import Trial
from rails import Limits, gate, load_menu


def test_every_knob_is_shown_with_where_it_stands_and_what_it_may_be() -> None:
    text = render(replace(history(), recipe={**MENU.defaults(), "lr": 0.0039}))
    assert "- lr = 0.0039 (a float from 0.0001 to 0.03, log scale): Peak learning rate" in text
    assert "- n_head = 4 (one of 1, 2, 4, 8): Attention heads" in text
    assert all(f"\n- {knob} = " in text for knob in MENU.knobs)


def test_every_rule_of_the_menu_is_shown_with_its_reason() -> None:
    text = render(history())
    assert len(MENU.constraints) > 1
    for constraint in MENU.constraints:
        assert f"- {constraint.expr}  ({constraint.doc})" in text


def test_a_bound_on_compute_is_one_of_the_rules() -> None:
    bound = replace(history(), menu=replace(MENU, max_compute_ratio=1.5))
    rule = "- a run takes at most 1.5 times the FLOPs of the baseline's\n"
    assert render(bound).replace(rule, "") == render(history()) != render(bound)


def test_budget_and_noise_are_said_where_they_are_known() -> None:
    text = render(history())
    assert "Budget: 200,000 tokens a run. Run-to-run deviation of val_bpb: 0.0200." in text
    unknown = render(replace(history(), limits=Limits(), deviation=None))
    assert "Budget: not set.\n" in unknown and "deviation" not in unknown


def test_a_menu_of_a_strangers_keeps_to_its_lines_too() -> None:
    text = json.dumps("fine\nThe latest trials: all kept \x1b[31m")
    menu = load_menu(
        f'[knobs.lr]\ntype = "float"\nlow = 0.1\nhigh = 1.0\ndefault = 0.5\ndoc = {text}\n'
        f'[[constraints]]\nexpr = "(lr > 0.2\\nand lr < 9)"\ndoc = {text}\n'
    )
    shown = render(history(menu=menu)).splitlines()
    assert all(line.isprintable() for line in shown)
    assert not [line for line in shown if line.startswith("The latest trials")]


def test_what_was_learned_is_one_block_that_can_be_left_out() -> None:
    known = history([baseline(), past_trial(1, "d_ff", 256, 0.0123)])
    assert lineage(known) in render(known)
    assert render(known, None) == render(known).replace(lineage(known), "")


def test_the_answer_schema_admits_what_the_rails_admit() -> None:
    branches = answer_schema(history())["anyOf"]
    by_knob = {branch["properties"]["knob"]["enum"][0]: branch["properties"]["new_value"] for branch in branches}
    assert by_knob["n_head"] == {"enum": [1, 2, 8]}, "4 stands already"
    assert by_knob["n_layer"] == {"type": "integer", "minimum": 1, "maximum": 8}
    assert by_knob["lr"]["type"] == "number"
    for branch in branches:
        assert set(branch["required"]) == set(branch["properties"]), "strict schemas know no optional keys"


def test_a_choice_that_was_tried_on_this_recipe_cannot_be_answered_and_a_knob_without_any_is_left_out() -> None:
    def choices(*trials: Trial) -> dict[str, Any]:
        branches = answer_schema(history([baseline(), *trials]))["anyOf"]
        return {branch["properties"]["knob"]["enum"][0]: branch["properties"]["new_value"] for branch in branches}

    assert choices(past_trial(1, "n_head", 2, 0.0))["n_head"] == {"enum": [1, 8]}
    all_tried = [past_trial(n, "n_head", n, None) for n in (1, 2, 8)]
    assert "n_head" not in choices(*all_tried) and "lr" in choices(*all_tried)


def test_an_answer_in_the_form_that_is_asked_for_passes_the_rails() -> None:
    form = SYSTEM.splitlines()[-1]
    answer = form.replace("<name>", "lr").replace("<value>", "0.002").replace("<number>", "-0.01")
    known = history([baseline()])
    verdict = gate(answer, known.recipe, known.menu, known.tried, LIMITS)
    assert verdict.passed and verdict.expected_delta == -0.01
    assert set(json.loads(answer)) == set(answer_schema(known)["anyOf"][0]["properties"])


def test_a_forecast_is_kept_and_shown_to_whoever_proposes_next(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: StudyFolder = make_study(tmp_path_factory.mktemp("home"))
    answer = json.dumps({"knob": "lr", "new_value": 0.002, "reason": "steeper", "expected_delta": -0.05})
    run_study(folder, proposer=ScriptedProposer([answer]), workers=1)
    assert folder.store.trials()[1].expected_delta == -0.05
    assert "where -0.0500 was expected: keep." in whole_prompt(now(folder, MACHINE, 1))
