"""The shipped presets: recipe, menu and settings agree, and a wide one trains what its narrow one does."""

import pytest

import rails
from autoresearch.study.preset import load_preset, preset_names
from trainer.recipe import CHOICES, Recipe

NARROW = [name for name in preset_names() if not name.endswith("-wide")]


@pytest.mark.parametrize("name", preset_names())
def test_the_defaults_meet_the_constraints(name: str) -> None:
    preset = load_preset(name)
    assert rails.violations(preset.recipe, preset.menu, rails.Limits(preset.settings.whole_budget)) == []


@pytest.mark.parametrize("name", preset_names())
def test_every_knob_has_a_doc_and_three_may_change_at_once(name: str) -> None:
    menu = load_preset(name).menu
    assert menu.max_changes == 13 and all(knob.doc for knob in menu.knobs.values())


def test_all_sizes_have_the_same_knobs() -> None:
    for variant in ("", "-wide"):
        knobs = {name: list(load_preset(name + variant).menu.knobs) for name in NARROW}
        assert all(names == knobs["cpu-nano"] for names in knobs.values())


@pytest.mark.parametrize("name", NARROW)
def test_a_wide_preset_starts_from_the_very_recipe_of_its_narrow_one(name: str) -> None:
    narrow, wide = load_preset(name).recipe, load_preset(f"{name}-wide").recipe
    assert wide.items() > narrow.items()
    assert Recipe.from_mapping(wide) == Recipe.from_mapping(narrow)


def test_a_wide_menu_has_every_knob_and_every_word_that_the_trainer_knows() -> None:
    menu = load_preset("gpt-354m-wide").menu
    assert set(menu.knobs) == set(Recipe.__dataclass_fields__)
    words = {name: set(menu.knobs[name].choices) for name in CHOICES if name != "precision"}
    assert words == {name: set(choices) for name, choices in CHOICES.items() if name != "precision"}


@pytest.mark.parametrize("name", preset_names())
def test_the_trainer_takes_every_value_that_the_menu_offers(name: str) -> None:
    preset = load_preset(name)
    for knob in preset.menu.knobs.values():
        for value in knob.choices or (knob.low or 0, knob.high or 0):
            recipe = {**preset.recipe, knob.name: value}
            if not rails.violations(recipe, preset.menu, rails.Limits(preset.settings.whole_budget)):
                Recipe.from_mapping(recipe)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_kv_head": 8}, "key and value heads divide"),
        ({"position": "rope", "n_head": 8, "d_model": 24}, "rope turns pairs"),
    ],
)
def test_what_the_trainer_would_refuse_breaks_a_constraint(change: dict[str, rails.Value], said: str) -> None:
    preset = load_preset("cpu-nano-wide")
    recipe = {**preset.recipe, **change}
    with pytest.raises(ValueError, match=r"n_kv_head|even number"):
        Recipe.from_mapping(recipe)
    broken = rails.violations(recipe, preset.menu, rails.Limits(preset.settings.whole_budget))
    assert len(broken) == 1 and said in broken[0]


@pytest.mark.parametrize(("name", "warmup"), [("gpt-354m", 50), ("cpu-nano", 80)])
def test_the_longest_warmup_fits_the_default_batch(name: str, warmup: int) -> None:
    preset = load_preset(name)
    limits = rails.Limits(preset.settings.whole_budget)
    raw = f'{{"knob": "lr_warmup", "new_value": {warmup}, "reason": "longer"}}'
    assert rails.gate(raw, preset.recipe, preset.menu, (), limits).passed


def test_five_steps_must_be_left_after_warmup() -> None:
    preset = load_preset("cpu-nano")
    recipe = {**preset.recipe, "batch_size": 16}
    raw = '{"knob": "seq_len", "new_value": 512, "reason": "more context"}'
    verdict = rails.gate(raw, recipe, preset.menu, (), rails.Limits(preset.settings.whole_budget))
    assert verdict.rail == "cross" and "budget_steps = 24" in verdict.reason


def test_the_large_presets_budget_buys_sixty_steps_of_its_baseline() -> None:
    for name in ("gpt-354m", "gpt-354m-wide"):
        preset = load_preset(name)
        assert preset.settings.whole_budget == {"tokens": 983_040}
        assert rails.budget_steps(preset.recipe, rails.Limits(preset.settings.whole_budget)) == 60


@pytest.mark.parametrize("name", preset_names())
def test_no_preset_bounds_compute_by_itself_and_all_take_a_bound(name: str) -> None:
    preset = load_preset(name)
    assert preset.menu.max_compute_ratio is None
    bound = rails.load_menu(f"max_compute_ratio = 1.5\n{preset.menu_text}")
    assert (bound.knobs, bound.max_compute_ratio) == (preset.menu.knobs, 1.5)


@pytest.mark.parametrize(("name", "millions"), [("gpt-354m", 354.6), ("cpu-nano", 1.08)])
def test_the_presets_have_their_stated_size(name: str, millions: float) -> None:
    preset = load_preset(name)
    run = rails.predict(preset.recipe, rails.Limits(vocab_size=preset.settings.data.vocab_size))
    assert run is not None and run.params / 1e6 == pytest.approx(millions, abs=0.05)
