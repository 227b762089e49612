"""The shipped presets: menu and recipe agree, and the recipe meets its own constraints."""

from pathlib import Path

import pytest

import rails

PRESETS = Path(__file__).parents[2] / "autoresearch" / "presets"
BUDGETS = {"gpt-354m": {"steps": 60}, "cpu-nano": {"tokens": 200_000}}
VOCABULARIES = {"gpt-354m": 50257, "cpu-nano": 2048}


def read(name):
    return rails.load_menu((PRESETS / name / "menu.toml").read_text()), (PRESETS / name / "recipe.toml").read_text()


@pytest.mark.parametrize("name", BUDGETS)
def test_the_recipe_is_the_menus_defaults_in_canonical_form(name):
    menu, recipe = read(name)
    assert recipe == rails.render_recipe(menu.defaults()) and rails.parse_recipe(recipe, menu) == menu.defaults()


@pytest.mark.parametrize("name", BUDGETS)
def test_the_defaults_meet_the_constraints(name):
    menu, _ = read(name)
    assert rails.violations(menu.defaults(), menu, rails.Limits(BUDGETS[name])) == []


@pytest.mark.parametrize("name", BUDGETS)
def test_every_knob_has_a_doc_and_one_change_is_allowed(name):
    menu, _ = read(name)
    assert menu.max_changes == 1 and all(knob.doc for knob in menu.knobs.values())


def test_both_presets_have_the_same_knobs():
    first, second = (read(name)[0].knobs for name in BUDGETS)
    assert list(first) == list(second)


@pytest.mark.parametrize(("name", "warmup"), [("gpt-354m", 50), ("cpu-nano", 80)])
def test_the_longest_warmup_fits_the_default_batch(name, warmup, propose):
    menu, _ = read(name)
    assert rails.gate(propose("lr_warmup", warmup), menu.defaults(), menu, (), rails.Limits(BUDGETS[name])).passed


def test_five_steps_must_be_left_after_warmup(propose):
    menu, _ = read("cpu-nano")
    recipe = {**menu.defaults(), "batch_size": 16}
    verdict = rails.gate(propose("seq_len", 512), recipe, menu, (), rails.Limits(BUDGETS["cpu-nano"]))
    assert verdict.rail == "cross" and "budget_steps = 24" in verdict.reason


@pytest.mark.parametrize(("name", "millions"), [("gpt-354m", 354.6), ("cpu-nano", 1.08)])
def test_the_presets_have_their_stated_size(name, millions):
    menu, _ = read(name)
    params = rails.predict(menu.defaults(), rails.Limits(vocab_size=VOCABULARIES[name])).params
    assert params / 1e6 == pytest.approx(millions, abs=0.05)
