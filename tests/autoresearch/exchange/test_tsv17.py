"""The lineage table of 17 columns: readable by others, and back again with all that it can hold."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from pathlib import Path

import pytest
from studies import GOOD, NOT_TAKEN, change, make_study, query, rows, run_study

from autoresearch.errors import UserError
from autoresearch.exchange import export_study, import_study
from autoresearch.exchange.tsv17 import COLUMNS, STATES
from autoresearch.study.folder import StudyFolder

HOSTILE = change("lr", 9.0, '=cmd()\x1b[2J\t\r\n\u202e"quoted"')
# Word for word the answer is not in the table, nor are curves and versions.
NOT_HELD = NOT_TAKEN | {"raw", "curve", "versions", "message"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = make_study(tmp_path_factory.mktemp("home"))
    answers = [change("lr", GOOD), change("beta1", 0.55), HOSTILE, "no JSON", change("weight_decay", 0.1)]
    run_study(folder, answers, workers=1)
    return folder


def table_of(folder: StudyFolder) -> list[dict[str, str]]:
    """As LineageStore reads it: csv.DictReader with tabs; an empty cell is None, numbers are floats."""
    text = export_study(folder, "tsv17")
    assert isinstance(text, str)
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t"))


def test_a_lineage_store_finds_what_it_expects(ran: StudyFolder) -> None:
    table = table_of(ran)
    assert tuple(table[0]) == COLUMNS
    assert [row["exp_id"] for row in table] == ["000", "0001", "0002", "0003", "0004", "0005"]
    assert [row["status"] for row in table] == [
        "baseline", "keep", "crash", "preflight_crash", "preflight_crash", "discard",
    ]  # fmt: skip
    assert [row["parent_exp"] for row in table] == ["", "000", "0001", "0001", "0001", "0001"]
    baseline, kept, crashed = (table[i] for i in (0, 1, 2))
    assert kept["core_metric"] == kept["val_bpb"] and crashed["val_bpb"] == crashed["delta_vs_best"] == ""
    assert float(kept["delta_vs_best"]) == float(kept["val_bpb"]) - float(baseline["val_bpb"]) < 0
    assert float(kept["train_s"]) == len(ran.store.runs(1)) * 1.0
    assert {row["status"] for row in table} <= set(STATES)


def test_hostile_text_stays_in_its_cell(ran: StudyFolder) -> None:
    text = str(export_study(ran, "tsv17"))
    assert len(text.splitlines()) == 7 and not set(text) & set("\x1b\r\u202e")
    assert table_of(ran)[3]["hypothesis"] == '=cmd() "quoted"'


@pytest.mark.parametrize(("table", "order"), [("trials", "number"), ("runs", "trial, seed"), ("proposals", "trial")])
def test_a_study_of_ours_comes_back_field_by_field(ran: StudyFolder, tmp_path: Path, table: str, order: str) -> None:
    export_study(ran, "tsv17", tmp_path / "results.tsv")
    back = import_study(tmp_path / "home", "back", tmp_path)  # the folder, as LineageStore is given it
    before, after = rows(ran, table, order, NOT_HELD), rows(back, table, order, NOT_HELD)
    assert len(before) == len(after) > 0
    for was, now in zip(before, after, strict=True):
        assert {name: v for name, v in now.items() if v != was[name]} == {}
    assert back.store.study()["incumbent"] == ran.store.study()["incumbent"] == 1
    assert export_study(back, "tsv17") == (tmp_path / "results.tsv").read_text("utf-8")


def foreign(*lines: dict[str, str]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, delimiter="\t", lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


FOREIGN = foreign(
    {"exp_id": "0001", "timestamp": "2026-05-01T03:00:00Z", "specialist": "arch", "parent_exp": "000",
     "hypothesis": "two\nlines of\ttext", "expected_delta": "-0.01 to 0", "status": "keep", "val_bpb": "1.19",
     "core_metric": "1.19", "train_s": "598.5", "total_s": "900", "notes": "by hand"},
    {"exp_id": "000", "specialist": "seed", "status": "baseline", "val_bpb": "1.2", "core_metric": "1.2"},
    {"exp_id": "0002", "specialist": "optim", "parent_exp": "0001", "expected_delta": "-0.02", "status": "discard",
     "core_metric": "1.25"},
    {"exp_id": "0003", "specialist": "optim", "parent_exp": "0001", "status": "size_blocked"},
    {"exp_id": "0004", "specialist": "optim", "parent_exp": "0009", "status": "eval_budget_overrun", "val_bpb": "1.1"},
    {"exp_id": "0005", "specialist": "optim", "parent_exp": "0005", "status": "harness_abort"},
    {"exp_id": "0006", "specialist": "optim", "parent_exp": "0001", "status": "keep", "val_bpb": "nan"},
)  # fmt: skip


def test_the_table_of_somebody_else_becomes_a_study(tmp_path: Path) -> None:
    (tmp_path / "runs.tsv").write_text(FOREIGN, "utf-8")
    folder = import_study(tmp_path, "theirs", tmp_path / "runs.tsv")
    assert query(folder, "SELECT number, parent, proposer, state, decision, val_bpb, recipe_key FROM trials") == [
        (0, None, "seed", "complete", None, 1.2, None),
        (1, 0, "arch", "complete", "keep", 1.19, None),
        (2, 1, "optim", "complete", "discard", 1.25, None),
        (3, 1, "optim", "blocked", None, None, None),
        (4, 0, "optim", "timed_out", None, None, None),
        (5, 0, "optim", "abandoned", None, None, None),
        (6, 1, "optim", "failed", None, None, None),
    ]
    sql = "SELECT hypothesis, expected_delta, started_at FROM trials WHERE number IN (1, 2)"
    assert query(folder, sql) == [
        ("two lines of text", None, "2026-05-01T03:00:00.000Z"), ("", -0.02, "2026-05-01T03:00:00.000Z"),
    ]  # fmt: skip
    assert query(folder, "SELECT train_seconds, total_seconds FROM runs WHERE trial = 1") == [(598.5, 900.0)]
    assert folder.store.study()["incumbent"] == 1
    assert export_study(folder, "tsv17") == FOREIGN


@pytest.mark.parametrize("ending", ["", "\n\n", "\r\n"])
def test_line_ends_and_blank_lines_come_back_to_the_byte(tmp_path: Path, ending: str) -> None:
    text = (FOREIGN.replace("\n0003", "\n\n0003").rstrip("\n") + ending).encode()
    (tmp_path / "runs.tsv").write_bytes(text)
    import_study(tmp_path, "theirs", tmp_path / "runs.tsv")
    export_study(StudyFolder(tmp_path, "theirs"), "tsv17", tmp_path / "again.tsv")
    assert (tmp_path / "again.tsv").read_bytes() == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (foreign({"exp_id": "0001", "status": "keeep"}), "line 2: status 'keeep' is none of"),
        (foreign() + "\t".join("x" * 18) + "\n", "line 2: this row has 18 cells"),
        (foreign() + "a\rb\n", "line 2: this is no row of a table"),
        ("commit\tval_bpb\n", "the head must name the 17 columns"),
    ],
)
def test_a_broken_table_is_one_line_that_names_the_place(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "runs.tsv").write_bytes(text.encode())
    with pytest.raises(UserError, match=r"^[^\n]*$") as refused:
        import_study(tmp_path, "theirs", tmp_path / "runs.tsv", "tsv17")
    assert complaint in str(refused.value)


def test_a_trial_that_is_left_out_shifts_no_reference(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("lr", GOOD), change("beta1", 0.8)], workers=1)
    with sqlite3.connect(folder.path / "study.db") as database:
        database.execute("UPDATE trials SET state = 'running', decision = NULL, val_bpb = NULL WHERE number = 1")
        database.execute("UPDATE trials SET parent = 0, reference = 0 WHERE number = 2")
    export_study(folder, "tsv17", tmp_path / "out.tsv")
    back = import_study(tmp_path, "back", tmp_path / "out.tsv")
    assert query(back, "SELECT number, parent, reference, changes FROM trials WHERE number > 0") == [
        (1, 0, 0, json.dumps({"beta1": 0.8}))
    ]
