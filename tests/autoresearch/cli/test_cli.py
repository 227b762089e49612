"""The command line as a person uses it: what it prints, what it refuses, and how."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import pytest
from command_line import Command
from studies import GOOD, MACHINE, change, make_study, run_study

import autoresearch
from autoresearch.study.folder import StudyFolder
from autoresearch.study.lock import RunnerLock

ROOT = Path(__file__).parents[3]


@pytest.fixture
def ran(tmp_path: Path) -> StudyFolder:
    """A study with a kept, a failed and a blocked trial."""
    folder = make_study(tmp_path / "home")
    hostile = json.dumps({"knob": "lr", "new_value": 9.0, "reason": "\x1b[2J[red]<script>alert(1)</script>\u202e"})
    forecast = json.dumps({**json.loads(change("lr", GOOD)), "expected_delta": -0.15})
    run_study(folder, [forecast, change("beta1", 0.55), hostile], workers=1)
    return folder


def test_init_makes_a_study_and_refuses_a_second_of_that_name(command: Command, tmp_path: Path) -> None:
    made = command("init", "mine", "--preset", "cpu-nano", "--proposer", "random", "--workers", "3", "--seed", "7")
    assert made.code == 0 and "next: autoresearch run mine" in made.out
    settings = (tmp_path / "home" / "mine" / "study.toml").read_text()
    assert 'name = "random"' in settings and "most = 3" in settings and "seed = 7" in settings
    assert "# auto, cpu, cuda or cuda:N" in settings, "comments are for people"
    again = command("init", "mine")
    assert again.code == 2 and "exists already" in again.err


def test_init_begins_from_another_studys_incumbent(command: Command, ran: StudyFolder) -> None:
    made = command("init", "next", "--from", "one", "--seed", "5")
    assert made.code == 0 and "with the recipe of one's trial 1; next: autoresearch run next" in made.out
    begun = StudyFolder(ran.path.parent, "next")
    assert begun.store.trials()[0].recipe["lr"] == GOOD and begun.settings.seed == 5
    assert begun.settings.preset == ran.settings.preset


def test_the_version_is_the_packages_own(command: Command) -> None:
    assert command("--version") == (0, f"autoresearch {autoresearch.__version__}\n", "")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "autoresearch.__version__"}


def test_init_takes_data_from_a_relative_path(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'my "text"').mkdir()
    assert command("init", "mine", "--data", 'my "text"').code == 0
    assert StudyFolder(tmp_path / "home", "mine").settings.data.source == str(tmp_path / 'my "text"')


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["status", "nobody"], "there is no study 'nobody'"),
        (["run", "../../etc"], "is no name for a study"),
        (["init", "mine", "--preset", "gpt-5"], "choose one of cpu-nano, cpu-nano-wide, gpt-354m"),
        (["init", "mine", "--data", "no/such/folder"], "there is no such file or folder"),
        (["init", "mine", "--proposer", "oracle"], "proposer.name"),
        (["init", "mine", "--from", "nobody"], "there is no study 'nobody'"),
        (["init", "mine", "--from", "one", "--preset", "cpu-nano"], "brings its preset along"),
        (["init", "one", "--from", "one"], "exists already"),
        (["show", "one", "99"], "study one has no trial 99: its last is 3"),
        (["propose", "one", "--knob", "lr"], "give either --knob and --value, or --raw"),
        (["propose", "one", "--knob", "lr", "--value", "1", "--raw", "{}"], "give either"),
        (["run", "one", "--until", "25:99"], "no time of day"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    command: Command, ran: StudyFolder, arguments: list[str], complaint: str
) -> None:
    said = command(*arguments)
    assert said.code == 2
    assert complaint in said.err and said.err.startswith("error: ")
    assert said.err.count("\n") == 1 and "Traceback" not in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    "arguments", [["run", "one", "--trials", "0"], ["run", "one", "--trials", "x"], ["fly"], ["run"]]
)
def test_a_wrong_option_is_exit_code_2(command: Command, arguments: list[str]) -> None:
    assert command(*arguments).code == 2


def test_a_broken_setting_is_named_with_its_file(command: Command, ran: StudyFolder) -> None:
    path = ran.path / "study.toml"
    path.write_text(path.read_text().replace("max_runs = 12", "max_rnus = 12"))
    said = command("status", "one")
    assert said.code == 2
    assert f"{path}: unknown key decision.max_rnus; the nearest valid key is max_runs" in said.err


def test_every_command_has_help_with_an_example(command: Command) -> None:
    listed = re.findall(r"^│ ([a-z]+) ", command("--help").out, re.MULTILINE)
    assert set(listed) >= {
        "init", "prepare", "run", "daemon", "status", "trials", "show", "propose", "pause", "resume", "stop",
        "calibrate", "doctor",
    }  # fmt: skip
    for name in listed:
        assert f"autoresearch {name}" in command(name, "--help").out.split("Example:")[1], name


def test_status_tells_people_and_programs_the_same(command: Command, ran: StudyFolder) -> None:
    facts = json.loads(command("status", "one", "--json").out)
    assert facts["trials"] == {"blocked": 1, "failed": 1, "keep": 1}
    assert facts["incumbent"]["trial"] == 1 and facts["incumbent"]["n_runs"] >= 2
    assert facts["incumbent"]["val_bpb"] < facts["baseline"]["val_bpb"]
    assert facts["runner_pid"] is None
    shown = command("status", "one").out
    for standing in (facts["baseline"], facts["incumbent"]):
        assert f"{standing['val_bpb']:.4f} ± {standing['val_bpb_half_interval']:.4f}" in shown
    assert "1 blocked, 1 failed, 1 keep" in shown
    assert "(estimate)" in shown or "(rapl)" in shown


def test_trials_tells_people_and_programs_the_same(command: Command, ran: StudyFolder) -> None:
    rows = json.loads(command("trials", "one", "--json").out)
    assert [row["decision"] or row["state"] for row in rows] == ["complete", "keep", "failed", "blocked"]
    assert rows[1]["changes"] == {"lr": GOOD} and rows[2]["val_bpb"] is None
    lines = command("trials", "one").out.splitlines()
    assert re.search(
        r"1 +scripted +lr 0\.001 -> 0\.004 +2\.[78]\d+ ± 0\.\d+ +\d+ +\+0\.1\d+ \[\+0\.\d+, \+0\.\d+\] +keep", lines[2]
    )
    assert "failed: seed 1: diverged: loss is NaN" in lines[3] and "blocked range" in lines[4]


def test_show_has_the_diff_the_runs_and_no_live_control_characters(command: Command, ran: StudyFolder) -> None:
    kept = command("show", "one", "1").out
    assert "-lr = 0.001" in kept and "+lr = 0.004" in kept and "candidate" in kept
    assert re.search(r"expected +better by \+0\.1500 *\n", kept)
    blocked = command("show", "one", "3").out
    assert re.search(r"expected +- *\n", blocked), "its proposer gave none"
    assert "<script>" in blocked and "[red]" in blocked, "a model's text is shown as text"
    assert "\x1b" not in blocked and "\u202e" not in blocked


def test_what_a_model_would_have_been_shown_can_be_read_of_any_trial(command: Command, ran: StudyFolder) -> None:
    said = command("show", "one", "2", "--prompt").out
    assert said.splitlines()[0].startswith("You improve the recipe") and said.rstrip().endswith("Propose trial 2.")
    assert "- trial 1 on trial 0: lr 0.001 -> 0.004: 2." in said and "- trial 2" not in said
    refused = command("show", "one", "0", "--prompt")
    assert refused.code == 2 and "no proposed trial 0" in refused.err


def test_an_idea_is_queued_as_json_whatever_its_type(command: Command, ran: StudyFolder) -> None:
    assert command("propose", "one", "--knob", "precision", "--value", "fp32", "--reason", "exact").code == 0
    assert command("propose", "one", "--raw", "not json at all").code == 0
    assert command("propose", "one", "--knob", "d_ff", "--value", "256").code == 0
    run_study(ran, ["unused"] * 3, workers=1)
    trials = ran.store.trials()[4:]
    assert [(trial.proposer, trial.state) for trial in trials] == [
        ("queue", "complete"),
        ("queue", "blocked"),
        ("queue", "complete"),
    ]
    assert trials[0].changes == {"precision": "fp32"} and trials[2].changes == {"d_ff": 256}


def test_pause_resume_and_stop_are_written_down(command: Command, ran: StudyFolder) -> None:
    for name, control in (("pause", "pause"), ("resume", "run"), ("stop", "stop")):
        assert command(name, "one").code == 0
        assert ran.store.control == control
    assert [event["kind"] for event in ran.store.events(3)] == ["pause", "run", "stop"]


def test_a_second_runner_is_refused_and_names_the_first(command: Command, ran: StudyFolder) -> None:
    with RunnerLock(ran.path):
        said = command("run", "one", "--trials", "1")
        assert json.loads(command("status", "one", "--json").out)["runner_pid"] == os.getpid()
    assert said.code == 2 and f"is run by process {os.getpid()} already" in said.err


def test_doctor_finds_this_machine_fit(command: Command) -> None:
    said = command("doctor")
    assert "git: " in said.out and "torch: 2." in said.out and f"{MACHINE.kind}" in said.out
    assert (said.code == 0) == ("BAD" not in said.out)
