"""A study as flat tables and as an Optuna storage: read back by the readers those formats are for."""

from __future__ import annotations

import builtins
import csv
import io
from pathlib import Path
from typing import Any

import optuna
import pytest
from pyarrow import parquet
from studies import GOOD, change, make_study, run_study

from autoresearch.errors import UserError
from autoresearch.exchange import EXPORTS, FORMATS, export_study, import_study
from autoresearch.study.folder import StudyFolder


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Trials: 1 kept, 2 failed, 3 blocked, 4 discarded."""
    folder = make_study(tmp_path_factory.mktemp("home"))
    formula = '=HYPERLINK("http://x")\t\x1b[2J\n\u202e'
    answers = [change("lr", GOOD, formula), change("beta1", 0.55), change("lr", 9.0), change("weight_decay", 0.1)]
    run_study(folder, answers, workers=1)
    return folder


def test_results_tsv_is_what_karpathys_readers_expect(ran: StudyFolder) -> None:
    text = str(export_study(ran, "results-tsv"))
    head, *lines = list(csv.reader(io.StringIO(text), delimiter="\t"))
    assert head == ["commit", "val_bpb", "memory_gb", "status", "description"]
    baseline, kept, failed, discarded = lines
    trials = ran.store.trials()
    assert baseline == [str(trials[0].commit)[:7], f"{trials[0].val_bpb:.6f}", "0.2", "keep", "baseline"]
    assert kept[3] == "keep" and kept[4] == 'lr 0.001 -> 0.004: =HYPERLINK("http://x")'
    assert failed[1:4] == ["0.000000", "0.0", "crash"]
    assert discarded[3] == "discard"


def test_csv_has_a_row_a_trial_and_runs_no_formula(ran: StudyFolder) -> None:
    rows = list(csv.DictReader(io.StringIO(str(export_study(ran, "csv")))))
    assert [row["number"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert float(rows[1]["recipe_lr"]) == GOOD and rows[3]["recipe_lr"] == ""
    assert rows[1]["hypothesis"] == '\'=HYPERLINK("http://x")'
    assert float(rows[4]["improvement"]) < 0, "a number keeps its sign"
    assert int(rows[1]["runs"]) == len(ran.store.runs(1)) > 1
    assert float(rows[1]["runs_tokens"]) == 200_000 * int(rows[1]["runs"])


def test_parquet_has_the_same_columns_typed(ran: StudyFolder, tmp_path: Path) -> None:
    out = tmp_path / "study.parquet"
    assert export_study(ran, "parquet", out) == out
    table = parquet.read_table(out)
    rows: list[dict[str, Any]] = table.to_pylist()
    assert table.column_names == next(csv.reader(io.StringIO(str(export_study(ran, "csv")))))
    assert [row["val_bpb"] for row in rows] == [trial.val_bpb for trial in ran.store.trials()]
    assert rows[1]["recipe_lr"] == GOOD and rows[2]["decision"] is None
    assert rows[1]["hypothesis"] == '=HYPERLINK("http://x")', "no spreadsheet reads this"


def test_knobs_that_change_their_type_still_make_a_column(tmp_path: Path) -> None:
    head = '{"baseline_val_bpb": 2.0, "baseline_cfg": {"lr": 1, "kind": "a"}}\n'
    lines = (
        '{"stage": "evaluated", "proposal": {"knob": "lr", "new_value": 0.5}, "val_bpb": 1.9, "decision": "keep"}\n'
        '{"stage": "evaluated", "proposal": {"knob": "kind", "new_value": 7}, "val_bpb": 1.8, "decision": "keep"}\n'
    )
    (tmp_path / "t.jsonl").write_text(head + lines)
    folder = import_study(tmp_path, "theirs", tmp_path / "t.jsonl")
    export_study(folder, "parquet", tmp_path / "t.parquet")
    table = parquet.read_table(tmp_path / "t.parquet").to_pydict()
    assert table["recipe_lr"] == [1.0, 0.5, 1.0] and table["recipe_kind"] == ["a", "a", "7"]


def test_without_pyarrow_parquet_says_what_to_install(
    ran: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install -e '\.\[data\]'"):
        export_study(ran, "parquet", tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


def test_optuna_opens_the_storage(ran: StudyFolder, tmp_path: Path) -> None:
    out = tmp_path / "optuna.db"
    export_study(ran, "optuna", out)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{out}")
    baseline, kept, failed, discarded = study.get_trials()
    trials = ran.store.trials()
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert kept.value is not None and kept.value == trials[1].val_bpb and study.best_value <= kept.value
    assert kept.params == trials[1].recipe and baseline.params == trials[0].recipe
    assert kept.distributions["lr"] == optuna.distributions.FloatDistribution(1e-4, 3e-2, log=True)
    assert failed.state == optuna.trial.TrialState.FAIL and failed.value is None
    assert [t.user_attrs["trial"] for t in (baseline, kept, failed, discarded)] == [0, 1, 2, 4]
    assert kept.user_attrs["decision"] == "keep" and kept.user_attrs["energy_source"] == "estimate"
    assert kept.user_attrs["hypothesis"] == '=HYPERLINK("http://x")'
    assert kept.intermediate_values == {1: 7.6, 25: 5.0}
    assert kept.duration is not None and kept.duration.total_seconds() >= 0
    study.ask()  # and a sampler may go on from there


def test_optuna_takes_values_that_the_menu_has_not(tmp_path: Path) -> None:
    head = '{"baseline_val_bpb": 2.0, "baseline_cfg": {"lr": 1, "kind": "a", "seed": 3}}\n'
    (tmp_path / "t.jsonl").write_text(head)
    folder = import_study(tmp_path, "theirs", tmp_path / "t.jsonl")
    export_study(folder, "optuna", tmp_path / "o.db")
    (trial,) = optuna.load_study(study_name="theirs", storage=f"sqlite:///{tmp_path}/o.db").trials
    assert trial.params == {"lr": 1, "kind": "a"} and trial.user_attrs["recipe_seed"] == 3


def test_an_unknown_format_names_the_nearest(ran: StudyFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'no format .parket.; did you mean "parquet"\?'):
        export_study(ran, "parket")
    with pytest.raises(UserError, match=r'did you mean "jsonl"\?'):
        import_study(tmp_path, "x", tmp_path / "none", "json")
    with pytest.raises(UserError, match="choose jsonl, tsv17"):
        import_study(tmp_path, "x", tmp_path / "none", "csv")


def test_what_cannot_be_read_or_written_is_said_in_one_line(ran: StudyFolder, tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_text("Shall I compare thee\n")
    (tmp_path / "noise").write_bytes(b"\xff\xfe\x00")
    for name, complaint in (("poem.txt", "no format that can be"), ("noise", "no UTF-8"), ("none", "cannot be read")):
        with pytest.raises(UserError, match=complaint):
            import_study(tmp_path, "x", tmp_path / name)
    for format in ("parquet", "optuna"):
        with pytest.raises(UserError, match="say where to write it with --out FILE"):
            export_study(ran, format)
    with pytest.raises(UserError, match="name a file in a folder that exists"):
        export_study(ran, "csv", tmp_path / "no" / "such.csv")


def test_every_export_replaces_its_file_whole(ran: StudyFolder, tmp_path: Path) -> None:
    for format in EXPORTS:
        out = tmp_path / "same"
        out.write_text("what was there before")
        export_study(ran, format, out)
        assert b"before" not in out.read_bytes()
        assert FORMATS[format].description
    assert [path.name for path in tmp_path.iterdir()] == ["same"]
