"""Trajectories of others, in the published format, become studies; what is not understood is not lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from studies import query

from autoresearch import cli
from autoresearch.errors import UserError
from autoresearch.exchange import export_study, import_study
from autoresearch.study.folder import StudyFolder

KNOBS = {
    "n_layer": 24, "n_head": 16, "d_model": 1024, "d_ff": 4096, "lr": 0.0003, "lr_warmup": 5, "grad_clip": 1.0,
    "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.95, "batch_size": 16, "seq_len": 1024, "precision": "fp8",
}  # fmt: skip
CFG = {**KNOBS, "vocab_size": 50257, "steps": 60, "val_chunk_tokens": 16384, "seed": 0}
HEAD = {"_meta": "log", "baseline_val_bpb": 10.95, "baseline_cfg": CFG, "accept_delta_frac": 0.005}
END = {"stage": "loop_complete", "iters_requested": 4, "best_val_bpb": 10.8}


def evaluated(i: int, knob: str, value: Any, val_bpb: float, cfg: dict[str, Any] = CFG, **more: Any) -> dict[str, Any]:
    frac = (10.95 - val_bpb) / 10.95
    return {
        "iter": i, "ts": f"2026-04-25 18:{i:02d}:40", "stage": "evaluated", "verdict_ok": True,
        "proposal": {"knob": knob, "new_value": value, "reason": "smaller may help"},
        "diff": "--- a/cfg.py\n+++ b/cfg.py\n", "candidate_cfg": {**cfg, knob: value},
        "eval_metrics": {"ok": True, "params_m": 354.6, "train_steps": 60, "train_loss_first": 10.9,
                         "train_loss_last": 7.4, "val_bpb": val_bpb, "val_n_batches": 1, "mean_step_ms": 1196.36,
                         "train_wall_s": 20.5, "val_wall_s": 0.5, "peak_gpu_mem_gib": 24.31},
        "val_bpb": val_bpb, "baseline_val_bpb": 10.95, "improvement_frac": round(frac, 4),
        "decision": "keep" if frac >= 0.005 else "revert", "is_new_best": True, "nim_latency_s": 1.5,
        "iter_wall_s": 24.0, **more,
    }  # fmt: skip


BLOCKED = {
    "iter": 2, "ts": "2026-04-25 18:02:40", "stage": "blocked", "verdict_ok": False, "rail": "R3_range",
    "reason": "\x1b[31mlr too high\u202e", "proposal": {"knob": "lr", "new_value": 5, "reason": "<b>more</b>"},
    "raw": "{\"knob\": \"lr\" \ud800", "nim_latency_s": 1.1, "iter_wall_s": 1.2,
}  # fmt: skip
UNREADABLE = {**BLOCKED, "iter": 5, "rail": "R1_schema", "proposal": None, "raw": "Sure! Let us"}
FAILED = {
    **evaluated(6, "d_model", 2048, 0.0), "stage": "eval_failed", "decision": "revert (eval crash)", "val_bpb": None,
    "eval_metrics": {"ok": False, "oom": True, "error": "CUDA out of\nmemory"},
}  # fmt: skip
NO_ANSWER = {"iter": 3, "ts": "2026-04-25 18:03:00", "stage": "nim_error", "nim_error": "timeout", "iter_wall_s": 60}
PAUSED = {"iter": 4, "ts": "2026-04-25 18:03:30", "stage": "paused", "reason": "flag", "completed_iters": 3}
PUBLISHED = [
    HEAD, evaluated(1, "d_model", 768, 10.87, future_key=[1, {"a": None}]), BLOCKED, NO_ANSWER, PAUSED,
    evaluated(4, "d_model", 1536, 10.94), UNREADABLE, FAILED, evaluated(7, "d_model", 768, 10.93),
    evaluated(8, "d_model", 768, 10.85), END,
]  # fmt: skip


def text_of(*objects: Any) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in objects)


def bring(home: Path, text: str, name: str = "theirs", **options: Any) -> StudyFolder:
    home.mkdir(exist_ok=True)
    file = home / "trajectory.jsonl"
    file.write_bytes(text.encode())
    return import_study(home, name, file, **options)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return bring(tmp_path_factory.mktemp("home"), text_of(*PUBLISHED))


def test_every_proposal_is_a_trial_and_nothing_else_is(theirs: StudyFolder) -> None:
    assert query(theirs, "SELECT number, state, decision, val_bpb, rail FROM trials") == [
        (0, "complete", None, 10.95, None),
        (1, "complete", "keep", 10.87, None),
        (2, "blocked", None, None, "R3_range"),
        (3, "complete", "discard", 10.94, None),
        (4, "blocked", None, None, "R1_schema"),
        (5, "failed", None, None, None),
        (6, "complete", "discard", 10.93, None),
        (7, "complete", "keep", 10.85, None),
    ]
    assert theirs.store.study()["incumbent"] == 7


def test_measurements_are_in_base_units_and_times_in_utc(theirs: StudyFolder) -> None:
    sql = (
        "SELECT seed, purpose, params, steps, tokens, train_seconds, eval_seconds, total_seconds, peak_memory_bytes, "
        "curve, started_at, finished_at, energy_joules FROM runs WHERE trial = 1"
    )
    assert query(theirs, sql) == [
        (0, "candidate", 354_600_000, 60, 60 * 16 * 1024, 20.5, 0.5, 21.0, round(24.31 * 2**30),
         "[[1, 10.9], [60, 7.4]]", "2026-04-25T18:01:16.000Z", "2026-04-25T18:01:40.000Z", None),
    ]  # fmt: skip
    assert query(theirs, "SELECT failure, message FROM runs WHERE trial = 5") == [
        ("out_of_memory", "CUDA out of memory")
    ]
    assert query(theirs, "SELECT COUNT(*) FROM runs WHERE trial IN (2, 4)") == [(0,)]


def test_a_loop_that_never_moves_its_baseline_has_no_other_parents(theirs: StudyFolder) -> None:
    # 1536 on top of the kept 768 is the baseline with 1536 too: only the whole file tells which it was.
    assert query(theirs, "SELECT DISTINCT parent FROM trials WHERE number > 0") == [(0,)]
    assert query(theirs, "SELECT reference, round(improvement, 4), improvement_low FROM trials WHERE number = 1") == [
        (0, 0.08, None)
    ]


def test_a_recipe_on_top_of_a_kept_one_descends_from_it(tmp_path: Path) -> None:
    moved = {**CFG, "d_model": 768}
    folder = bring(
        tmp_path,
        text_of(HEAD, evaluated(1, "d_model", 768, 10.8), evaluated(2, "lr", 0.01, 10.9, moved),
                evaluated(3, "beta1", 0.8, 10.7, moved), evaluated(4, "lr", 0.001, 10.9)),
    )  # fmt: skip
    assert query(folder, "SELECT parent FROM trials WHERE number > 0") == [(0,), (1,), (1,), (0,)]
    assert folder.store.study()["incumbent"] == 3


def test_a_value_spelled_as_text_does_not_make_it_another_loop(tmp_path: Path) -> None:
    spelled = evaluated(1, "d_model", 768, 10.8)
    spelled["proposal"] = {**spelled["proposal"], "new_value": "768"}
    folder = bring(tmp_path, text_of(HEAD, spelled, evaluated(2, "d_model", 1536, 10.9)))
    assert query(folder, "SELECT parent FROM trials WHERE number > 0") == [(0,), (0,)]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["status"], "2 blocked, 2 discard, 1 failed, 2 keep"),
        (["trials"], "blocked R3_range"),
        (["show", "1"], "+d_model = 768"),
        (["show", "2"], "lr 0.0003 -> 5"),
        (["inspect", "--json"], '"d_model"'),
    ],
)
def test_the_commands_that_look_work_on_an_import(
    theirs: StudyFolder,
    arguments: list[str],
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AUTORESEARCH_HOME", str(theirs.path.parent))
    monkeypatch.setattr(sys, "argv", ["autoresearch", arguments[0], "theirs", *arguments[1:]])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr().out
    assert end.value.code == 0 and shown in said and not set(said) & set("\x1b\u202e")


def test_answers_are_kept_word_for_word_and_shown_text_is_harmless(theirs: StudyFolder) -> None:
    answers = query(theirs, "SELECT trial, proposer, raw, prompt, latency_seconds, passed FROM proposals")
    assert answers[0][:2] == (1, "llm") and json.loads(answers[0][2])["new_value"] == 768
    assert answers[0][3:] == (None, 1.5, 1)
    assert answers[1] == (2, "llm", '{"knob": "lr" ?', None, 1.1, 0)
    assert query(theirs, "SELECT reason, hypothesis, changes FROM trials WHERE number = 2") == [
        ("lr too high", "<b>more</b>", '{"lr": 5}')
    ]


def test_it_leaves_as_it_came_to_the_byte(tmp_path: Path) -> None:
    text = "\ufeff" + text_of(*PUBLISHED).replace('"iter": 4,', '"iter":  4,').replace("}\n{", "}\r\n\n{", 2)
    said: list[str] = []
    folder = bring(tmp_path, text + '{"iter": 9, "ts": "2026-0', warn=said.append)
    assert export_study(folder, "jsonl") == text + '{"iter": 9, "ts": "2026-0'
    assert said == ["trajectory.jsonl, line 14: the last line is unfinished and was skipped"]
    assert "future_key" in str(export_study(folder, "jsonl")) and "nim_error" in str(export_study(folder, "jsonl"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "begins with an object"),
        ("[1, 2]\n", "begins with an object"),
        (text_of(HEAD) + "{broken\n" + text_of(END), "trajectory.jsonl, line 2: this is no JSON object"),
        (text_of(HEAD) + "17\n" + text_of(END), "line 2"),
        (text_of(HEAD) + "[" * 100_000 + "\n" + text_of(END), "line 2"),
        (text_of({**HEAD, "study": {"settings": {"budget": {"miles": 3}}}}), "budget: unknown key miles"),
        (text_of({**HEAD, "study": {"settings": {"seed": [None]}}}), "settings"),
    ],
)
def test_a_broken_file_is_one_line_that_names_the_place(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=r"^[^\n]*$") as refused:
        bring(tmp_path, text, format="jsonl")
    assert complaint in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["trajectory.jsonl"], "all or nothing"


def test_values_of_the_wrong_kind_are_not_believed(tmp_path: Path) -> None:
    wild: list[Any] = [None, True, -1, 1e400, float("nan"), 10**40, "x", [], {}, [[1]], {"a": {}}, "\ud800"]
    records = []
    for value in wild:
        records.append({name: value for name in evaluated(1, "lr", 1, 1.0)} | {"stage": "evaluated"})
        inner = evaluated(2, "lr", value, 10.9)
        inner["eval_metrics"] = dict.fromkeys(inner["eval_metrics"], value)
        own = {"trial": dict.fromkeys(("parent", "reference", "state", "changes", "val_bpb", "n_runs"), value)}
        records += [inner, {**inner, **own, "runs": [{"seed": value, "curve": value, "state": "complete"}, value]}]
    folder = bring(tmp_path, text_of(HEAD, *records))
    assert query(folder, "SELECT COUNT(*) FROM trials WHERE state = 'complete' AND val_bpb IS NULL") == [(0,)]
    assert len(folder.store.trials()) == 1 + len(records)
    for format in ("csv", "tsv17", "results-tsv"):
        assert export_study(folder, format)


def test_the_menu_is_the_presets_opened_as_far_as_the_values_reach(tmp_path: Path, theirs: StudyFolder) -> None:
    assert list(theirs.menu.knobs) == list(KNOBS)
    assert theirs.menu.knobs["lr"].high == 1e-2
    wide = bring(tmp_path, text_of(HEAD, evaluated(1, "lr", 0.5, 10.9), evaluated(2, "d_model", 640, 10.9)))
    assert wide.menu.knobs["lr"].high == 0.5 and 640 in wide.menu.knobs["d_model"].choices
    assert wide.menu.knobs["d_model"].default == 1024


def test_a_menu_is_inferred_where_no_preset_fits_and_a_given_one_wins(tmp_path: Path) -> None:
    cfg = {"rank": 8, "alpha": 16.0, "gate": True, "seed": 0, "steps": 5, "nested": {"a": 1}, "Odd Name": 1}
    line = evaluated(1, "rank", 4, 10.9, cfg)
    folder = bring(tmp_path, text_of({**HEAD, "baseline_cfg": cfg}, line))
    assert list(folder.menu.knobs) == ["rank", "alpha", "gate"]
    assert folder.menu.knobs["rank"].choices == (4, 8)
    assert folder.settings.budget == {"steps": 5} and folder.settings.decision.reference == "baseline"
    menu = tmp_path / "menu.toml"
    menu.write_text('[knobs.rank]\ntype = "int"\nlow = 1\nhigh = 64\ndefault = 8\n')
    given = bring(tmp_path, text_of({**HEAD, "baseline_cfg": cfg}, line), "given", menu=menu)
    assert given.menu.knobs["rank"].high == 64


def test_an_import_takes_no_place_that_is_taken(tmp_path: Path, theirs: StudyFolder) -> None:
    with pytest.raises(UserError, match="exists already"):
        bring(theirs.path.parent, text_of(*PUBLISHED))
    with pytest.raises(UserError, match="no name for a study"):
        bring(tmp_path, text_of(*PUBLISHED), "../out")
