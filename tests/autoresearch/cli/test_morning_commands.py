"""The commands of the morning as a person uses them: report, inspect, import, export, promote, plan."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import published
import pytest
from command_line import Command
from studies import GOOD, change, make_study, run_study

from autoresearch.study.folder import StudyFolder


@pytest.fixture
def ran(tmp_path: Path) -> StudyFolder:
    folder = make_study(tmp_path / "home")
    run_study(folder, [change("lr", GOOD), change("beta1", 0.55), change("d_ff", 1024)], workers=1)
    return folder


def test_a_report_is_one_file_and_its_text(command: Command, ran: StudyFolder) -> None:
    said = command("report", "one")
    page = Path(said.out.strip())
    assert said.code == 0 and page == ran.path / "report" / "index.html"
    text = page.read_text(encoding="utf-8")
    assert "src=" not in text.partition("<script")[0] and "https://" not in text.partition("<script")[0]
    markdown = command("report", "one", "--markdown").out
    assert "1 was kept (lr 0.001" in markdown and "±" in markdown and "This is a recipe, not a usable model" in markdown


def test_a_report_before_the_first_run_says_so(command: Command, tmp_path: Path) -> None:
    make_study(tmp_path / "home")
    assert command("report", "one").code == 0
    assert "not measured yet" in command("report", "one", "--markdown").out


def test_inspect_says_the_same_to_people_and_to_programs(command: Command, ran: StudyFolder) -> None:
    meters = json.loads(command("inspect", "one", "--json").out)
    assert meters["knobs_touched"] == 3 and meters["failed"] == 1 and meters["kept"] == 1
    text = command("inspect", "one").out
    assert re.search("knobs turned +3 of 13 +never turned: n_layer", text) and "researching" in text


def test_a_published_night_comes_in_and_leaves_as_it_came(command: Command, tmp_path: Path) -> None:
    file = published.write(tmp_path / "trajectory.jsonl")
    file.write_text(file.read_text() + '{"iter": 51, "sta')  # the night was killed while it wrote
    said = command("import", "theirs", str(file))
    assert said.code == 0 and "50 trials" in said.out and "warning" in said.err
    assert command("export", "theirs", "--format", "jsonl").out == file.read_text()
    markdown = command("report", "theirs", "--markdown").out
    assert "the luckiest of 7 runs" in markdown and "both kept and discarded" in markdown and "flailing" in markdown
    for words in ("run theirs", "pause theirs", "promote theirs", "propose theirs --knob lr --value 0.001"):
        refused = command(*words.split())
        assert refused.code == 2 and "was imported" in refused.err, words
    assert "there is no format" in command("export", "theirs", "--format", "xml").err


def test_what_the_docs_show_of_a_published_night_is_what_inspect_says(command: Command, tmp_path: Path) -> None:
    command("import", "theirs", str(published.write(tmp_path / "trajectory.jsonl")))
    said = {line.rstrip() for line in command("inspect", "theirs").out.splitlines()}
    page = (Path(__file__).parents[3] / "docs" / "morning.md").read_text("utf-8")
    sample = next(block for block in page.split("```") if block.lstrip().startswith("flailing:"))
    assert len(sample.split()) > 100 and set(sample.strip().splitlines()) <= said


def test_a_trajectory_leaves_for_a_spreadsheet(command: Command, ran: StudyFolder, tmp_path: Path) -> None:
    out = tmp_path / "trials.csv"
    said = command("export", "one", "--format", "csv", "--out", str(out))
    assert said.out.strip() == str(out)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["decision"] for row in rows] == ["", "keep", "", "discard"]
    assert float(rows[1]["recipe_lr"]) == GOOD


def test_a_plan_names_every_assumption(command: Command, ran: StudyFolder) -> None:
    said = command("plan", "one", "--hardware", "h100-sxm", "--gpus", "8")
    assert said.code == 0 and "assumption" in said.out and "Hoffmann" in said.out and "Booking blind" in said.out
    assert json.loads(command("plan", "one", "--json").out)
    wrong = command("plan", "one", "--hardware", "h100-sxn")
    assert wrong.code == 2 and "h100-sxm" in wrong.err


def test_promote_refuses_a_study_without_numbers(command: Command, tmp_path: Path) -> None:
    make_study(tmp_path / "home")
    said = command("promote", "one")
    assert said.code == 2 and "`autoresearch run one` comes first" in said.err


def test_the_example_that_we_ship_can_be_looked_at(command: Command) -> None:
    example = Path(__file__).parents[3] / "trajectories" / "example" / "trajectory.jsonl"
    assert "42 trials" in command("import", "example", str(example)).out
    meters = json.loads(command("inspect", "example", "--json").out)
    assert (meters["knobs_touched"], meters["kept"], meters["verdict"]) == (13, 5, "researching")
    assert "5 were kept" in command("report", "example", "--markdown").out
