"""A corpus as a whole: split, kept apart, balanced, refused where it is too thin, and written."""

from __future__ import annotations

import builtins
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import published
import pytest
from command_line import Command
from pyarrow import parquet

from autoresearch.distill.corpus.balance import apart, balanced, shares
from autoresearch.distill.corpus.make import make_corpus
from autoresearch.distill.corpus.report import markdown
from autoresearch.distill.corpus.terms import Row, Terms
from autoresearch.errors import UserError
from autoresearch.exchange import import_study
from autoresearch.study.folder import StudyFolder

EXAMPLE = Path(__file__).parents[3] / "trajectories" / "example" / "trajectory.jsonl"
PAGE = Path(__file__).parents[3] / "docs" / "distill.md"
CHOICES: dict[str, list[float]] = {
    "lr": [round(0.0001 * 1.1**n, 7) for n in range(40)],
    "beta1": [round(0.5 + 0.01 * n, 2) for n in range(40)],
    "weight_decay": [round(0.01 * n, 2) for n in range(1, 40)],
    "grad_clip": [round(0.2 + 0.1 * n, 1) for n in range(40) if n != 8],
}


def row(trial: int, weight: float = 1.0, /, study: str = "one", **changes: Any) -> Row:
    text = json.dumps(changes)
    return Row(
        study, trial, trial, "gp", "keep", "rendered", "system", f"{study} {trial}", text, weight, changes,
        "parent", f"{study} {trial}",
    )  # fmt: skip


def varied(path: Path, monkeypatch: pytest.MonkeyPatch, n: int = 140, seed: int = 1) -> Path:
    """A trajectory of n changes no two of which are the same, some of them gains."""
    rng = random.Random(seed)
    all_of_them = [
        (knob, value) for knob, values in CHOICES.items() for value in values if value != published.KNOBS[knob]
    ]
    picked = rng.sample(all_of_them, n)
    iterations = [(*each, round(10.9 + rng.gauss(0, 0.2), 4), 7.4, 70.0, 1.0) for each in picked]
    monkeypatch.setattr(published, "ITERATIONS", iterations)
    return published.write(path)


@pytest.fixture
def theirs(tmp_path: Path) -> StudyFolder:
    return import_study(tmp_path / "home", "theirs", published.write(tmp_path / "published.jsonl"))


@pytest.fixture
def rich(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    return import_study(tmp_path / "home", "rich", varied(tmp_path / "rich.jsonl", monkeypatch))


def test_no_knobs_value_is_above_its_share() -> None:
    often = [row(n, lr=0.1) for n in range(10)]
    others = [row(10 + n, d_ff=n) for n in range(12)]
    left = balanced([*often, *others], 0.2)
    assert max(shares(left).values()) <= 0.2
    assert [each.trial for each in left] == [0, 1, 2, *range(10, 22)], "the latest repeats go, and no other row"
    assert balanced(others, 0.2) == others


def test_balance_goes_by_weight_and_keeps_what_earned_most() -> None:
    rows = [row(n, 0.1 + n / 10, lr=0.1) for n in range(4)] + [row(10 + n, 0.5, d_ff=n) for n in range(6)]
    left = balanced(rows, 0.2)
    assert max(shares(left).values()) <= 0.2 and {row.trial for row in left} > {3}
    light = [row(n, 0.01, lr=0.1) for n in range(50)] + [row(50 + n, 1.0, d_ff=n) for n in range(8)]
    assert balanced(light, 0.2) == light, "what weighs nothing outweighs nothing"


def test_a_value_keeps_one_row_where_there_are_too_few_to_balance() -> None:
    left = balanced([row(n, lr=0.1) for n in range(5)], 0.2)
    assert [each.trial for each in left] == [0]


def test_an_answer_of_several_knobs_counts_for_each() -> None:
    same = [row(n, lr=0.1, d_ff=n) for n in range(5)]
    assert shares(same)[("lr", 0.1)] == 1.0 and shares(same)[("d_ff", 0)] == 0.2


def test_what_is_held_out_too_is_taken_out_of_training_and_counted() -> None:
    held_out = [row(1, lr=0.1), row(2, lr=0.2)]
    same_text, same_change, other = row(1, lr=0.1), row(2, lr=0.2, study="two"), row(9, lr=0.3)
    same_change = Row(**{**vars(same_change), "recipe_key": "one 2"})
    left, leaks = apart([same_text, same_change, other], held_out)
    assert left == [other] and (leaks.same_text, leaks.same_change) == (1, 2)


def test_a_trajectory_that_was_imported_twice_counts_once(tmp_path: Path, rich: StudyFolder) -> None:
    again = import_study(tmp_path / "home", "again", tmp_path / "rich.jsonl")
    once, twice = (make_corpus(studies, Terms("imitate")) for studies in ([rich], [rich, again]))
    assert twice.report.train == once.report.train
    assert twice.report.left_out["there already"] == once.report.train.rows


def test_a_study_held_out_whole_leaks_nothing(tmp_path: Path, rich: StudyFolder) -> None:
    again = import_study(tmp_path / "home", "again", tmp_path / "rich.jsonl")
    report = make_corpus([rich, again], Terms("imitate", hold_out_studies=("again",))).report
    assert report.train.rows == 0 and report.leaks_found.same_text > 100
    assert (report.leaks_left.same_text, report.leaks_left.same_change) == (0, 0)
    assert report.train.most_frequent is None and report.too_thin


def test_a_rich_corpus_is_taken(command: Command, tmp_path: Path, rich: StudyFolder) -> None:
    out = tmp_path / "out"
    said = command("distill", "corpus", "rich", "--out", str(out), "--objective", "imitate")
    assert said.code == 0 and "112 rows to train on, 28 held out" in said.out and not said.err
    report = json.loads((out / "report.json").read_text())
    assert report["too_thin"] == [] and report["warnings"] == [] and report["train"]["pairs"] == 112
    tokens = report["train"]["supervised_tokens"]
    assert 0 < tokens["min"] <= tokens["median"] <= tokens["max"] < report["train"]["row_tokens"]["min"]


def test_a_published_search_that_repeats_itself_is_warned_of(theirs: StudyFolder) -> None:
    report = make_corpus([theirs], Terms("imitate")).report
    assert any("collapse: 5 of 5 keeps set d_model = 768" in warning for warning in report.warnings)
    assert any("9 of 40 choices set d_model = 1536" in warning for warning in report.warnings)
    assert report.left_out["not taken by the novelty rail"] > 30, "what was tried is no answer"
    weighted = make_corpus([theirs], Terms("outcome")).report
    assert weighted.train.most_frequent == "d_model = 768" and any(
        "d_model = 768 still" in thin for thin in weighted.too_thin
    )


def test_a_thin_corpus_is_refused_in_one_line_and_nothing_is_written(
    command: Command, tmp_path: Path, theirs: StudyFolder
) -> None:
    out = tmp_path / "out"
    said = command("distill", "corpus", "theirs", "--out", str(out))
    assert said.code == 2 and said.err.count("\n") == 1 and not out.exists()
    assert "13 rows to train on, 100 are the fewest: add studies or nights" in said.err and "--force" in said.err
    forced = command("distill", "corpus", "theirs", "--out", str(out), "--force")
    assert forced.code == 0 and "warning: too thin to teach" in forced.err and (out / "train.jsonl").exists()
    assert "**Too thin**" in (out / "report.md").read_text()


def test_mistakes_are_one_line(command: Command, tmp_path: Path, theirs: StudyFolder) -> None:
    arguments = ("distill", "corpus", "theirs", "--out", str(tmp_path / "out"), "--force")
    for more, what in (
        (("--objective", "imitates"), 'did you mean "imitate"'),
        (("--hold-out-study", "ours"), "is none of the studies given"),
    ):
        said = command(*arguments, *more)
        assert said.code == 2 and what in said.err and said.err.count("\n") == 1
    (tmp_path / "out").write_text("a file")
    assert "cannot be written" in command(*arguments).err
    assert "there is no study" in command("distill", "corpus", "nobody", "--out", "x").err


def test_the_same_studies_give_the_same_bytes(command: Command, tmp_path: Path) -> None:
    assert command("import", "example", str(EXAMPLE)).code == 0
    found: dict[str, list[bytes]] = {}
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        out = tmp_path / name
        assert (
            command("distill", "corpus", "example", "--out", str(out), "--augment", "2", "--seed", seed, "--force").code
            == 0
        )
        found[name] = [file.read_bytes() for file in sorted(out.iterdir())]
        assert len(found[name]) == 7
        report = json.loads((out / "report.json").read_text())
        both = (out / "train.jsonl").read_bytes() + (out / "held_out.jsonl").read_bytes()
        assert report["sha256"] == hashlib.sha256(both).hexdigest()
    assert found["a"] == found["b"] != found["c"]


def test_parquet_holds_what_jsonl_holds(command: Command, tmp_path: Path) -> None:
    assert command("import", "example", str(EXAMPLE)).code == 0
    assert (
        command("distill", "corpus", "example", "--out", str(tmp_path / "out"), "--augment", "1", "--force").code == 0
    )
    for name in ("train", "held_out"):
        lines = (tmp_path / "out" / f"{name}.jsonl").read_text("utf-8").splitlines()
        assert lines and parquet.read_table(tmp_path / "out" / f"{name}.parquet").to_pylist() == [
            *map(json.loads, lines)
        ]


def test_without_pyarrow_there_is_jsonl_and_no_parquet_of_an_earlier_corpus(
    command: Command, tmp_path: Path, theirs: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("distill", "corpus", "theirs", "--out", str(tmp_path / "out"), "--force")
    assert command(*arguments).code == 0 and (tmp_path / "out" / "train.parquet").exists()
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    assert command(*arguments, "--objective", "imitate").code == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "held_out.jsonl", "nights.json", "report.json", "report.md", "train.jsonl",
    ]  # fmt: skip


def test_an_unknown_objective_names_the_nearest() -> None:
    with pytest.raises(UserError, match="hindsight"):
        Terms("hindsite")


def test_the_pages_figures_for_the_example_are_the_reports(tmp_path: Path) -> None:
    example = import_study(tmp_path, "example", EXAMPLE)
    told = markdown(make_corpus([example], Terms()).report)
    table = told[told.index("| figure") : told.index("\n\nTokens")]
    assert table in PAGE.read_text("utf-8"), "docs/distill.md shows another report: put this one in\n" + table
