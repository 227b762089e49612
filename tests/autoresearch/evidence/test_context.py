"""Longer context is never taken for a better recipe unknowingly: both scores are kept and told, and neither decides."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import fields
from pathlib import Path
from statistics import fmean

import optuna
import published
import pytest
from rich.console import Console, RenderableType
from studies import BAD, GOOD, change, make_study, query, run_study

from autoresearch.decide import Noise
from autoresearch.evidence import Evidence
from autoresearch.evidence.context import context, in_both_windows, longer_contexts
from autoresearch.evidence.meters import measure
from autoresearch.evidence.sentences import warnings
from autoresearch.exchange import export_study, import_study
from autoresearch.morning.report.detail import detail
from autoresearch.morning.report.facts import facts
from autoresearch.morning.report.markdown import markdown
from autoresearch.study.folder import StudyFolder
from autoresearch.terminal.meters import meters_view
from autoresearch.terminal.trials import trial_view
from autoresearch.trial import Recipe, Trial
from trainer.protocol import RunRequest

LONGER, SHORTER, FASTER, WORSE = range(1, 5)
ANSWERS = [change("seq_len", 512), change("seq_len", 128), change("lr", GOOD), change("lr", BAD)]
NOISE = Noise(0.01, 0.0, 30.0)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """The stub gains 0.3 from a longer seq_len in its own windows and loses 0.05 in the baseline's."""
    folder = make_study(tmp_path_factory.mktemp("ran"))
    run_study(folder, ANSWERS, workers=1)
    return folder


@pytest.fixture(scope="module")
def evidence(ran: StudyFolder) -> Evidence:
    return Evidence(ran)


def shown(view: RenderableType) -> str:
    console = Console(width=400, file=io.StringIO(), highlight=False)
    console.print(view)
    return console.file.getvalue()  # type: ignore[attr-defined]


def mean(folder: StudyFolder, trial: int, column: str) -> float:
    return fmean(score for (score,) in query(folder, f"SELECT {column} FROM runs WHERE trial = {trial}"))


def test_decisions_do_not_read_the_score_at_the_fixed_window(ran: StudyFolder) -> None:
    assert [trial.decision for trial in ran.store.trials()] == [None, "keep", "discard", "keep", "discard"]
    assert mean(ran, LONGER, "val_bpb") < mean(ran, 0, "val_bpb") < mean(ran, LONGER, "window_bpb")
    assert not [field for field in fields(Trial) if "window" in field.name], "nor can a proposer"


def test_the_fixed_window_is_the_baselines_for_every_run_of_a_study(ran: StudyFolder) -> None:
    asked = {
        (request.recipe["seq_len"], request.score_window)
        for request in map(RunRequest.read, (ran.path / "runs").glob("*/request.json"))
    }
    assert asked == {(256, 256), (512, 256), (128, 256)}


def test_runs_in_the_baselines_own_windows_have_one_score_and_shorter_ones_none(ran: StudyFolder) -> None:
    assert query(ran, "SELECT COUNT(*) FROM runs WHERE trial = 0 AND window_bpb IS NOT val_bpb") == [(0,)]
    assert query(ran, f"SELECT COUNT(*) FROM runs WHERE trial = {SHORTER} AND window_bpb IS NOT NULL") == [(0,)]


def test_a_trial_with_longer_windows_says_both_scores_and_the_gain_at_equal_context(evidence: Evidence) -> None:
    said = context(evidence, evidence.trials[LONGER])
    own, fixed = (mean(evidence.folder, LONGER, column) for column in ("val_bpb", "window_bpb"))
    assert said.startswith(f"scored at the baseline's window of 256: {fixed:.4f} ± 0.")
    assert ", a gain over trial 0 there of -0.0" in said and f"; at its own 512: {own:.4f} ± 0." in said
    # Both of them have 512, so the next gain is one at equal context anyway.
    assert "a gain over trial 1 there of +0.16" in context(evidence, evidence.trials[FASTER])


def test_a_trial_with_shorter_windows_says_why_it_has_one_score(evidence: Evidence) -> None:
    said = "scored at its own window of 128, not at the baseline's 256, which it was not trained on"
    assert context(evidence, evidence.trials[SHORTER]) == said
    assert context(evidence, evidence.trials[0]) == ""


def test_what_was_made_before_the_score_was_measured_is_told_to_be_unknown() -> None:
    recipe: Recipe = {"seq_len": 512}
    said = in_both_windows(recipe, {"seq_len": 256}, {0: 2.5}, {}, {}, "trial 0", NOISE)
    assert said.endswith("not at the baseline's 256: part of its gain may be no more than longer context")
    assert in_both_windows(recipe, {"seq_len": 512}, {0: 2.5}, {0: 2.5}, {}, "trial 0", NOISE) == ""
    assert in_both_windows(recipe, {"seq_len": 256}, {}, {}, {}, "trial 0", NOISE) == "", "it has no score at all"
    assert in_both_windows({}, {"seq_len": 256}, {0: 2.5}, {}, {}, "trial 0", NOISE) == ""


def test_a_keep_that_took_longer_windows_and_the_incumbent_are_named_before_the_numbers_are_trusted(
    ran: StudyFolder, evidence: Evidence
) -> None:
    took, stands = longer_contexts(evidence)
    assert took.startswith(
        "Trial 1 has longer context than the baseline: it was scored at the baseline's window of 256: "
    )
    assert stands.startswith("Trial 3 has longer context than the baseline: it was scored at ")
    assert {took, stands} <= {*warnings(evidence, measure(evidence))}
    text, beginning = markdown(facts(ran)), took.partition("[")[0]
    assert text.index("Before you trust it") < text.index(beginning) < text.index("What stands")
    assert took in shown(meters_view(measure(evidence)))


def test_show_and_the_page_say_it_of_the_one_trial(ran: StudyFolder, evidence: Evidence) -> None:
    for trial in (LONGER, SHORTER):
        said = context(evidence, evidence.trials[trial])
        view = trial_view(evidence, evidence.trials[trial], evidence.runs[trial], ran.store.proposal(trial), "")
        assert said in shown(view) and said in detail(ran, trial).summary
    assert "window" not in shown(trial_view(evidence, evidence.trials[0], evidence.runs[0], None, ""))


def test_exports_carry_it(ran: StudyFolder, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(str(export_study(ran, "csv")))))
    assert float(rows[LONGER]["window_bpb"]) == mean(ran, LONGER, "window_bpb") and rows[SHORTER]["window_bpb"] == ""
    export_study(ran, "optuna", tmp_path / "optuna.db")
    trials = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/optuna.db").get_trials()
    assert trials[LONGER].user_attrs["window_bpb"] == mean(ran, LONGER, "window_bpb")
    assert "window_bpb" not in trials[SHORTER].user_attrs
    for form, name in (("jsonl", "out.jsonl"), ("tsv17", "out.tsv")):
        export_study(ran, form, tmp_path / name)
        back = import_study(tmp_path, form, tmp_path / name)
        scores = "SELECT trial, seed, window_bpb FROM runs ORDER BY trial, seed"
        assert query(back, scores) == query(ran, scores)
        assert context(Evidence(back), Evidence(back).trials[LONGER]).startswith("scored at the baseline's window")


def test_a_strangers_windows_are_not_guessed(tmp_path: Path) -> None:
    head = {"baseline_val_bpb": 2.0, "baseline_cfg": {"lr": 1, "seq_len": 256}}
    line = {"stage": "evaluated", "proposal": {"knob": "seq_len", "new_value": 512}, "val_bpb": 1.9, "decision": "keep"}
    (tmp_path / "t.jsonl").write_text(f"{json.dumps(head)}\n{json.dumps(line)}\n")
    theirs = Evidence(import_study(tmp_path, "theirs", tmp_path / "t.jsonl"))
    assert theirs.trials[1].recipe["seq_len"] == 512 and [*longer_contexts(theirs)] == []
    night = Evidence(import_study(tmp_path, "night", published.write(tmp_path / "night.jsonl")))
    assert [context(night, trial) for trial in night.trials if context(night, trial)] == []
