"""A study whose runs may spend so many FLOPs: made, judged, run, sent away and promoted like any other."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from studies import GOOD, MACHINE, change, query, run_study

from autoresearch.config import PRESETS
from autoresearch.errors import UserError
from autoresearch.evidence.longer_runs import scaled
from autoresearch.exchange import import_study
from autoresearch.exchange.jsonl_write import write_jsonl
from autoresearch.proposers.classic import RandomProposer
from autoresearch.study.folder import StudyFolder, create_study
from autoresearch.study.history import at, now
from rails import gate
from rails.predict import Shape

FLOPS = 1.6e12  # about what 200,000 tokens take the baseline


def study_of(home: Path, monkeypatch: pytest.MonkeyPatch, budget: str, tmp_path: Path) -> StudyFolder:
    """A study whose preset has another budget."""
    shipped = PRESETS / "cpu-nano"
    there = tmp_path / "presets" / "cpu-nano"
    there.mkdir(parents=True)
    (there / "menu.toml").write_text((shipped / "menu.toml").read_text())
    (there / "study.toml").write_text((shipped / "study.toml").read_text().replace("tokens = 200_000", budget))
    monkeypatch.setattr("autoresearch.study.preset.PRESETS", there.parent)
    return create_study(home, "one", "cpu-nano", MACHINE, {})


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    return study_of(tmp_path / "home", monkeypatch, "flops = 1.6e12", tmp_path)


def test_the_budget_reaches_the_runs_as_it_stands(made: StudyFolder) -> None:
    assert tomllib.loads((made.path / "study.toml").read_text())["budget"] == {"flops": FLOPS}
    run_study(made, [change("lr", GOOD)], workers=1)
    requests = [json.loads(path.read_text()) for path in made.path.glob("runs/*/request.json")]
    assert requests and all(request["budget"] == {"flops": FLOPS} for request in requests)
    assert query(made, "SELECT state FROM trials") == [("complete",), ("complete",)]


def test_rails_count_the_steps_that_it_buys_each_recipe(made: StudyFolder) -> None:
    history = now(made, MACHINE, 0)
    shape = Shape.of({**history.recipe, "n_layer": 8, "d_model": 256, "d_ff": 1024, "batch_size": 16}, 2048, "cpu")
    assert shape is not None
    few = int(FLOPS // (shape.flops_per_token * shape.tokens_per_step))
    wide = {"n_layer": 8, "d_model": 256, "d_ff": 1024}
    verdict = gate(change("batch_size", 16), history.recipe | wide, history.menu, (), history.limits)
    assert verdict.rail == "cross" and f"budget_steps = {few}" in verdict.reason
    assert gate(RandomProposer().propose(history).raw, history.recipe, history.menu, (), history.limits).passed


def test_a_budget_that_the_baseline_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"does not fit the study's budget: .*budget_steps = 12"):
        study_of(tmp_path / "home", monkeypatch, "flops = 2e11", tmp_path)


def test_the_budget_of_a_trial_travels_with_it(made: StudyFolder, tmp_path: Path) -> None:
    run_study(made, [change("lr", GOOD)], workers=1)
    away = tmp_path / "night.jsonl"
    away.write_text(write_jsonl(made))
    there = import_study(tmp_path / "away", "theirs", away)
    assert there.settings.whole_budget == made.settings.whole_budget == {"flops": FLOPS}
    assert at(there, 1).limits.budget == at(made, 1).limits.budget == {"flops": FLOPS}


def test_a_longer_run_gets_so_many_times_the_flops() -> None:
    assert scaled({"flops": FLOPS}, 16) == {"flops": 16 * FLOPS}
    assert scaled({"tokens": 200_001}, 2.5) == {"tokens": 500_002}


def test_the_rails_count_with_the_vocabulary_of_the_text_that_was_prepared(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Paragraph {n} of a text that says little." * 4 for n in range(600)))
    settings: dict[str, str | int] = {"data.source": str(text), "data.val_bytes": 9000, "data.test_bytes": 9000}
    folder = create_study(tmp_path / "home", "small", "cpu-nano", MACHINE, settings)
    assert folder.vocab_size == 2048, "as study.toml asks, until the text is there"
    manifest = json.loads((folder.prepare_data() / "manifest.json").read_text())
    assert now(folder, MACHINE, 0).limits.vocab_size == folder.vocab_size == manifest["vocab_size"] < 2048
