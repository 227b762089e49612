"""What a study over a program of one's own says of its scores: name, sign and unit, wherever anybody reads them."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import Command, Said, run
from programs import ARGUMENTS, MENU, PYTHON, make_own_study, run_own_study, script
from studies import change

from autoresearch import words
from autoresearch.distill.race.compete import one_metric
from autoresearch.errors import UserError
from autoresearch.evidence import Evidence
from autoresearch.exchange import export_study, import_study
from autoresearch.metric import Metric
from autoresearch.morning.report.page import write_report
from autoresearch.morning.trackers import measured
from autoresearch.study.folder import StudyFolder

OURS = re.compile(r"val_bpb|test_bpb|window_bpb|\bbpb\b|bits per byte|nats per token|test text|text that decides", re.I)
ANSWERS = [change("lr", 0.001), change("lr", 0.1), change("lr", 9.0), change("depth", 2), change("kind", "fancy one")]
PROGRESS = (
    'print("progress:", json.dumps({"step": 1, "loss": 1e-5})); print("progress: {\\"step\\": 2, \\"loss\\": 9e-6}")\n'
)


@dataclass(frozen=True)
class Case:
    """A metric, and how the program makes its score of SCORE, which is 1.03 for the baseline and 0.03 for the best."""

    name: str
    unit: str
    higher: bool
    formula: str
    baseline: str  # the score as it is read
    axis: str

    @property
    def sign(self) -> int:
        return -1 if self.higher else 1


CASES = [
    Case("val_loss", "", False, "1e-5 * (1 + 0.01 * score)", "1.010", "val_loss, less is better"),
    Case("accuracy", "%", True, "95 - 10 * score", "84.5", "accuracy (%), more is better"),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def night(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, StudyFolder]:
    case, place = request.param, tmp_path_factory.mktemp(request.param.name)
    script(place, f'{ARGUMENTS}{PROGRESS}print("{case.name}:", {case.formula})\n')
    trainer: dict[str, Any] = {
        "command": f"{PYTHON} train.py", "folder": str(place), "score": case.name, "unit": case.unit,
        "lower_is_better": not case.higher,
    }  # fmt: skip
    study = make_own_study(place / "home", trainer, MENU, decision__confirmation_runs=2)
    run_own_study(study, ANSWERS)
    return case, study


@pytest.fixture
def command(
    night: tuple[Case, StudyFolder], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    monkeypatch.setenv("AUTORESEARCH_HOME", str(night[1].path.parent))

    def said(*arguments: str) -> Said:
        return run(monkeypatch, capsys, *arguments)

    return said


def test_nothing_that_anybody_reads_speaks_of_bits_per_byte(
    night: tuple[Case, StudyFolder], command: Command, tmp_path: Path
) -> None:
    case, study = night
    said = {asked: command(*asked.split()) for asked in (
        "status own", "status own --json", "trials own", "trials own --json", "show own 0", "show own 2",
        "show own 2 --prompt", "inspect own", "inspect own --json", "export own --format jsonl",
        "export own --format tsv17", "export own --format csv", "export own --format results-tsv",
    )}  # fmt: skip
    assert {asked: each.err for asked, each in said.items() if each.code} == {}
    texts = {asked: each.out for asked, each in said.items()}
    export_study(study, "optuna", tmp_path / "optuna.db")
    texts["optuna"] = (tmp_path / "optuna.db").read_bytes().decode("latin-1")
    texts["page"], texts["packed"] = _page(write_report(study))
    texts["markdown"] = (study.path / "report" / "report.md").read_text("utf-8")
    evidence = Evidence(study)
    texts["trackers"] = " ".join(measured(evidence, evidence.incumbent).values(evidence.metric))
    assert {asked: found for asked, text in texts.items() if (found := OURS.findall(text))} == {}
    unnamed = {asked for asked, text in texts.items() if case.name not in text}
    assert unnamed <= {"page", "inspect own"}, "the one names it once it is drawn, the other where there is no unit"


def _page(path: Path) -> tuple[str, str]:
    """Without the library that draws; and what is packed in it."""
    text = path.read_text("utf-8")
    packed = re.findall(r'type="application/octet-stream">([^<]+)<', text)
    assert len(packed) == 2
    script = max(re.findall(r"<script>(.*?)</script>", text, re.S), key=len)
    return text.replace(script, ""), " ".join(gzip.decompress(base64.b64decode(each)).decode() for each in packed)


def test_scores_have_the_persons_sign_and_as_many_digits_as_their_size_asks_for(
    night: tuple[Case, StudyFolder], command: Command
) -> None:
    case, study = night
    baseline, best = study.store.trial(0), study.store.trial(2)
    assert baseline and best and baseline.val_bpb and best.val_bpb
    assert best.val_bpb < baseline.val_bpb, "kept so that lower is better"
    table = command("trials", "own").out
    assert f"{case.name} ± 95 %" in table and f" {case.baseline}" in table and f" -{case.baseline}" not in table
    scores = re.findall(r" (\d[\d.e-]*) ± ([\d.e-]+)", table)
    assert len(scores) >= 4 and all(float(half) > 0 for _, half in scores), "no interval is rounded away"
    rows = json.loads(command("trials", "own", "--json").out)
    assert rows[2][case.name] == case.sign * best.val_bpb and rows[2]["improvement"] == best.improvement
    status = json.loads(command("status", "own", "--json").out)
    assert status["metric"]["name"] == case.name and status["metric"]["higher_is_better"] is case.higher
    assert status["incumbent"][case.name] * case.sign < status["baseline"][case.name] * case.sign
    meters = json.loads(command("inspect", "own", "--json").out)
    assert meters["best_observed"] > 0 and meters["gain"] > 0
    told = command("inspect", "own").out
    assert f"luck in the {'highest' if case.higher else 'lowest'} number" in told


def test_the_page_has_the_persons_numbers_and_says_what_confirms_them(night: tuple[Case, StudyFolder]) -> None:
    case, study = night
    facts = json.loads(_page(write_report(study))[1].partition('{"lines"')[0])
    assert facts["metric"]["best"] == case.axis and facts["metric"]["sign"] == case.sign
    assert [column["name"] for column in facts["standings"]["columns"]] == [
        "recipe", "trial", f"{case.name} ± 95 %", "runs",
    ]  # fmt: skip
    first, best = facts["trials"][0], facts["trials"][2]
    assert case.sign * (first["value"] - best["value"]) > 0 and first["low"] < first["value"] < first["high"]
    assert "in 2 fresh runs of each" in " ".join(facts["headline"])
    assert any("Fresh runs alone confirm one." in warning for warning in facts["warnings"])
    assert facts["curves"][0]["points"][0] == [1, 1e-5], "a small loss is not rounded away"


@pytest.mark.parametrize("format", ["jsonl", "tsv17"])
def test_a_trajectory_that_comes_back_has_its_metric(
    night: tuple[Case, StudyFolder], format: str, tmp_path: Path
) -> None:
    _, study = night
    file = export_study(study, format, tmp_path / f"trajectory.{format}")
    assert isinstance(file, Path)
    theirs = import_study(tmp_path / "theirs", "theirs", file)
    assert (theirs.metric, theirs.settings.trainer and theirs.settings.trainer.words) == (
        study.metric, ["(run elsewhere)"],
    )  # fmt: skip
    there, here = theirs.store.trials(), study.store.trials()
    assert [trial.val_bpb for trial in there] == [trial.val_bpb for trial in here]
    assert [trial.outcome for trial in there] == [trial.outcome for trial in here]
    mine, other = Evidence(study), Evidence(theirs)
    assert mine.gain() == other.gain() and other.incumbent.number == mine.incumbent.number
    assert export_study(theirs, format) == file.read_text("utf-8"), "to the byte"


def test_tables_for_other_programs_have_the_metrics_name_and_direction(
    night: tuple[Case, StudyFolder], tmp_path: Path
) -> None:
    import optuna

    case, study = night
    best = study.store.trial(2)
    assert best and best.val_bpb
    value = case.sign * best.val_bpb
    rows = list(csv.DictReader(io.StringIO(str(export_study(study, "csv")))))
    assert float(rows[2][case.name]) == value
    lines = list(csv.DictReader(io.StringIO(str(export_study(study, "results-tsv"))), delimiter="\t"))
    assert float(lines[2][case.name]) == pytest.approx(value, rel=1e-5)
    export_study(study, "optuna", tmp_path / "optuna.db")
    found = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/optuna.db")
    assert found.metric_names == [case.name] and found.direction.name == ("MAXIMIZE" if case.higher else "MINIMIZE")
    assert found.trials[2].value == value


def test_forecasts_are_asked_for_in_the_size_of_the_score(night: tuple[Case, StudyFolder]) -> None:
    from autoresearch.proposers.prompt import answer_schema
    from autoresearch.study import history

    case, study = night
    bound = {"val_loss": 1e-4, "accuracy": 100.0}[case.name]
    known = history.at(study, 3)
    assert _deltas(answer_schema(known))[0]["maximum"] == pytest.approx(bound)
    assert max(_deltas(answer_schema(known, grid=True))[0]["enum"]) == pytest.approx(0.2 * bound)


def _deltas(schema: Any) -> list[dict[str, Any]]:
    return [*_walk(schema)]


def _walk(schema: Any) -> Iterator[dict[str, Any]]:
    for name, part in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if name == "expected_delta":
            yield part
        elif isinstance(part, dict | list):
            yield from _walk(part)


@pytest.mark.parametrize(
    ("baseline", "score", "half", "gain", "wanted"),
    [
        (0.93213, 0.9401, 0.0024, 0.00797, "0.94010 ± 0.00240, +0.00797"),
        (-93.213, -94.01, 0.24, 0.797, "94.010 ± 0.240, +0.797"),
        (12345.6, 12001.2, 86.4, 1344.4, "12001 ± 86, +1344"),
        (1.0345e-5, 9.87e-6, 2.4e-8, 4.75e-7, "9.870e-06 ± 2.4e-08, +4.75e-07"),
        (0.0, 0.25, 0.0024, 0.5, "0.25000 ± 0.0024000, +0.50000"),
    ],
)
def test_digits_follow_the_size_of_the_baseline(
    baseline: float, score: float, half: float, gain: float, wanted: str
) -> None:
    metric = Metric.other("it", "", higher_is_better=baseline < 0).sized(baseline)
    assert f"{words.plus_minus(score, half, metric)}, {words.gain(gain, metric=metric)}" == wanted


def test_studies_of_unlike_metrics_do_not_race(night: tuple[Case, StudyFolder], tmp_path: Path) -> None:
    case, study = night
    other = {"command": f"{PYTHON} train.py", "folder": str(study.path), "score": "seconds_of_a_run"}
    with pytest.raises(UserError, match=f"study own is scored by {case.name}, other by seconds_of_a_run: what was"):
        one_metric([study, make_own_study(tmp_path, other, name="other")])


def test_a_score_has_no_name_that_other_numbers_have(tmp_path: Path) -> None:
    script(tmp_path, ARGUMENTS)
    trainer = {"command": f"{PYTHON} train.py", "folder": str(tmp_path), "score": "energy_joules"}
    with pytest.raises(UserError, match="energy_joules is told of every trial besides; give the score another name"):
        make_own_study(tmp_path / "home", trainer)
