"""study.toml of a study that exists: what may change, until when, and what is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from studies import make_study

from autoresearch.errors import UserError
from autoresearch.study.folder import StudyFolder


def edit(folder: StudyFolder, old: str, new: str) -> StudyFolder:
    path = folder.path / "study.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return StudyFolder(folder.path.parent, folder.name)


@pytest.fixture
def small(tmp_path: Path) -> StudyFolder:
    """A study on a text of its own, prepared."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Paragraph {n} of a text that is long enough to be split." * 4 for n in range(600)))
    folder = make_study(
        tmp_path / "home", data__source=str(text), data__vocab_size=300, data__val_bytes=9000, data__test_bytes=9000
    )
    folder.prepare_data()
    return folder


def test_before_the_first_run_another_text_is_prepared_anew(small: StudyFolder) -> None:
    first = small.prepare_data()
    changed = edit(small, "vocab_size = 300", "vocab_size = 310")
    second = changed.prepare_data()
    assert second != first and changed.store.study()["data_dir"] == str(second)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("tokens = 200_000", "steps = 60", "budget"),
        ("vocab_size = 300", "vocab_size = 310", "data"),
        ("seed = 0", "seed = 1", "seed"),
        ('compile = "auto"', "compile = true", "compile"),
        ("repeatable = true", "repeatable = false", "repeatable"),
        ('backend = "torch"', 'backend = "megatron"', "backend"),
    ],
)
def test_after_the_first_run_what_numbers_depend_on_is_fixed(
    small: StudyFolder, old: str, new: str, named: str
) -> None:
    small.store.queue_runs([(0, 0, "reference")])
    with pytest.raises(UserError, match=rf"study\.toml: {named} was .* start a new study"):
        edit(small, old, new).prepare_data()


def test_before_the_first_run_a_budget_that_the_baseline_does_not_fit_is_refused(small: StudyFolder) -> None:
    changed = edit(small, "tokens = 200_000", "tokens = 10")
    with pytest.raises(UserError, match=r"study\.toml: the baseline does not fit the budget: .*warmup") as told:
        changed.prepare_data()
    assert "\n" not in str(told.value)
    assert json.loads(small.store.study()["settings"])["budget"] == {"tokens": 200_000}, "nothing is settled"
    assert edit(small, "tokens = 10", "tokens = 100_000").prepare_data()
    assert json.loads(small.store.study()["settings"])["budget"] == {"tokens": 100_000}


def test_settings_are_read_again_whole_or_not_at_all(small: StudyFolder) -> None:
    assert small.reread_settings() == []
    path = small.path / "study.toml"
    edit(small, "price_per_kwh = 0.30", "price_per_kwh = 0.40")
    assert small.reread_settings() == ["energy"] and small.settings.energy.price_per_kwh == 0.4
    text = path.read_text()
    for broken in (text + "[", text.replace("tokens = 200_000", "tokens = 10"), text + "\nnonsense = 1"):
        path.write_text(broken)
        with pytest.raises(UserError, match=r"study\.toml"):
            small.reread_settings()
        assert small.settings.energy.price_per_kwh == 0.4
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"study\.toml cannot be read: Is a directory"):
        small.reread_settings()


def test_after_the_first_run_other_settings_may_change(small: StudyFolder) -> None:
    small.store.queue_runs([(0, 0, "reference")])
    changed = edit(small, "price_per_kwh = 0.30", "price_per_kwh = 0.40")
    assert changed.prepare_data() == small.prepare_data()


def test_a_study_made_before_there_was_a_setting_had_its_default(small: StudyFolder) -> None:
    made_with = json.loads(small.store.study()["settings"])
    del made_with["compile"], made_with["data_parallel"], made_with["repeatable"]
    small.store.settle(json.dumps(made_with), forget_data=False)
    small.store.queue_runs([(0, 0, "reference")])
    assert small.prepare_data()
    with pytest.raises(UserError, match=r"data_parallel was 1 when"):
        edit(small, "data_parallel = 1", "data_parallel = 2").prepare_data()


def test_a_text_that_has_changed_and_is_no_longer_prepared_is_refused(small: StudyFolder) -> None:
    prepared = small.prepare_data()
    shutil.rmtree(prepared)
    source = Path(small.settings.data.source)
    source.write_text(source.read_text() + "\n\nOne more paragraph, with words of its own." * 50)
    with pytest.raises(UserError, match="no longer gives the text that study one was measured on"):
        small.prepare_data()
