"""study.toml: what a person gets wrong is said in one line with the file, the key and what to write instead."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from autoresearch.config import PRESETS, DecisionRule, Settings, load_settings, parse_clock
from autoresearch.errors import UserError
from autoresearch.study.preset import load_preset, preset_names

NANO = (PRESETS / "cpu-nano" / "study.toml").read_text("utf-8")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "study.toml"


def problem(file: Path, old: str, new: str) -> str:
    """What is said of the preset's study.toml with one line changed; the file's name, which comes first, left out."""
    assert NANO.count(old) == 1
    file.write_text(NANO.replace(old, new))
    with pytest.raises(UserError) as error:
        load_settings(file)
    said = str(error.value)
    assert said.startswith(f"{file}") and "\n" not in said
    return said.removeprefix(f"{file}").removeprefix(": ")


@pytest.mark.parametrize(
    "old, new, key, nearest",
    [
        ("seed = 0", "sede = 0", "sede", "seed"),
        ("[limits]", "[limit]", "limit", "limits"),
        ("confidence = 0.99", "confidense = 0.99", "decision.confidense", "confidence"),
        ('start = "22:00"', 'begin = "22:00"\nstart = "22:00"', "schedule.begin", ""),
        ("tokens = 200_000", "token = 200_000", "token", "tokens"),
        ("max_retries = 3", "max_retries = 3\nlimits.hours = 3", "proposer.limits", ""),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(file: Path, old: str, new: str, key: str, nearest: str) -> None:
    said = problem(file, old, new)
    assert f"unknown key {key}; the nearest valid key is {nearest}" in said


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("seed = 0", "seed = '0'", "seed: .*integer.*'0'"),
        ("seed = 0", "seed = true", "seed: .*integer.*True"),
        ("seed = 0", "seed = 0.0", "seed: .*integer.*0.0"),
        ("seed = 0", "seed = -1", "seed: .*greater than or equal to 0.*-1"),
        ("confidence = 0.99", "confidence = '0.99'", "decision.confidence: .*number.*'0.99'"),
        ("confidence = 0.99", "confidence = 1.0", "decision.confidence: .*less than 1"),
        ("confidence = 0.99", "confidence = nan", "decision.confidence: .*finite"),
        ("price_per_kwh = 0.30", "price_per_kwh = inf", "energy.price_per_kwh: .*finite"),
        ("price_per_kwh = 0.30", "price_per_kwh = -0.1", "energy.price_per_kwh: .*0"),
        ("max_runs = 12", "max_runs = 1", "decision.max_runs: .*2"),
        ('source = "stdlib"', "source = 3", "data.source: .*string"),
        ('reference = "incumbent"', 'reference = "best"', "decision.reference: .*'incumbent' or 'baseline'.*'best'"),
        ('name = "auto"', 'name = "gpt"', "proposer.name: .*'random'.*'gpt'"),
        ('backend = "torch"', 'backend = "jax"', "backend: .*'torch'.*'jax'"),
        ('device = "auto"', 'device = "tpu"', "device: .*cuda.*'tpu'"),
        ("run_seconds = 600", "run_seconds = 0", "limits.run_seconds: .*greater than 0"),
        ('preset = "cpu-nano"', "", "preset is missing"),
        ("[schedule]", "[[schedule]]", "schedule: .*dictionary"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_should_be(file: Path, old: str, new: str, words: str) -> None:
    assert re.match(words, problem(file, old, new))


@pytest.mark.parametrize(
    "budget, words",
    [
        ("tokens = 200_000\nsteps = 60", "budget: give exactly one of tokens, steps, seconds or flops"),
        ("", "budget: give exactly one of tokens, steps, seconds or flops"),
        ("tokens = 2e5", "budget: tokens must be a whole number"),
        ("steps = 60.5", "budget: steps must be a whole number"),
        ("tokens = 0", "budget: tokens must be a number above 0"),
        ("seconds = -1", "budget: seconds must be a number above 0"),
        ("tokens = true", "budget: tokens must be a number above 0"),
        ("tokens = '200_000'", "budget: tokens must be a number above 0"),
        ("seconds = inf", "budget.seconds: .*finite"),
        ("flops = 0", "budget: flops must be a number above 0"),
        ("flops = '2.4e15'", "budget: flops must be a number above 0"),
        ("flops = inf", "budget.flops: .*finite"),
        ("flop = 2.4e15", "budget: unknown key flop; the nearest valid key is flops"),
        ("flops = 2.4e15\ntokens = 9", "budget: give exactly one of tokens, steps, seconds or flops"),
        ("seconds = nan", "budget.seconds: .*finite"),
    ],
)
def test_a_budget_is_one_whole_amount(file: Path, budget: str, words: str) -> None:
    assert re.match(words, problem(file, "tokens = 200_000", budget))


def test_a_budget_reaches_the_trainer_in_its_own_type(file: Path) -> None:
    for text, budget in {
        "tokens = 5_000": {"tokens": 5000},
        "seconds = 90": {"seconds": 90.0},
        "flops = 2.4e15": {"flops": 2.4e15},
        "flops = 2_400_000_000_000_000": {"flops": 2.4e15},
    }.items():
        file.write_text(NANO.replace("tokens = 200_000", text))
        found = load_settings(file).whole_budget
        assert found == budget
        assert [type(amount) for amount in found.values()] == [type(amount) for amount in budget.values()]


@pytest.mark.parametrize("clock", ["24:00", "7", "07:60", "7am", "07:00:00", "", "-1:00", " 07:00", "07:00\n"])
def test_a_time_of_day_is_hours_and_minutes(clock: str) -> None:
    with pytest.raises(ValueError, match="HH:MM"):
        parse_clock(clock)


def test_a_bad_time_of_day_is_found_when_the_settings_load(file: Path) -> None:
    said = problem(file, 'start = "22:00"', 'start = "25:00"')
    assert "schedule.start: '25:00' is no time of day: write it as HH:MM" in said
    assert "schedule.stop" in problem(file, 'stop = "07:00"', "stop = 07:00:00")


def test_two_settings_that_do_not_fit_together_are_said_plainly(file: Path) -> None:
    assert problem(file, "reference_max = 24", "reference_max = 2").startswith("decision.reference_max is below")


def test_what_is_no_toml_is_said_with_the_line(file: Path) -> None:
    said = problem(file, "seed = 0", "seed = = 0")
    assert "is not valid TOML" in said and f"line {NANO[: NANO.index('seed = 0')].count(chr(10)) + 1}" in said


def test_what_is_no_text_is_said_to_be_no_toml(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"study\.toml is not valid TOML"):
        load_settings(file)


def test_a_missing_file_names_the_command_that_makes_it(file: Path) -> None:
    with pytest.raises(UserError, match=r"study\.toml is missing.*autoresearch init"):
        load_settings(file)


def test_settings_cannot_change_while_a_night_reads_them(file: Path) -> None:
    settings = load_settings(PRESETS / "cpu-nano" / "study.toml")
    with pytest.raises(ValidationError):
        settings.decision.confidence = 0.5  # type: ignore[misc]


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


# What a preset says otherwise than the defaults, because of the size of its runs.
OF_ITS_OWN = {
    "cpu-nano": {"decision.prior_deviation", "limits.run_seconds"},
    "gpt-354m": {"decision.prior_deviation", "data.source", "data.vocab_size", "data.val_bytes", "data.test_bytes"}
    | {"data.max_bytes"},
}


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_says_what_holds_without_it_except_for_its_size(name: str) -> None:
    # A person who deletes a line from study.toml must not get another study by it.
    settings = load_preset(name).settings
    assert settings.preset == name
    said, default = flat(settings.model_dump()), flat(Settings(preset=name, budget=settings.whole_budget).model_dump())
    assert {key for key in said if said[key] != default[key]} == OF_ITS_OWN[name.removesuffix("-wide")]


@pytest.mark.parametrize("name", preset_names())
def test_every_line_that_a_preset_has_commented_out_works(name: str, file: Path) -> None:
    text = load_preset(name).settings_text
    told, count = re.subn(r"(?m)^# (\w+ = )", r"\1", text)
    assert count >= 8
    file.write_text(told)
    before, after = (flat(settings.model_dump()) for settings in (load_preset(name).settings, load_settings(file)))
    assert sum(before[key] != after[key] for key in after) == count


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_names_every_setting_there_is(name: str) -> None:
    text = load_preset(name).settings_text
    settings = Settings(preset=name, budget={"steps": 1}).model_dump(exclude={"budget", "trainer"})
    keys = {key.rpartition(".")[2] for key in flat(settings)}
    assert {key for key in keys if not re.search(rf"(?m)^(# )?{key} = ", text)} == set()


def test_the_defaults_are_those_that_the_measured_error_rates_belong_to() -> None:
    rule = DecisionRule()
    assert (rule.confidence, rule.min_improvement, rule.max_runs, rule.reference) == (0.99, 0.0, 12, "incumbent")
