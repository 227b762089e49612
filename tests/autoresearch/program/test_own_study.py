"""A study over a program of one's own: made, run, judged, committed and told, as one over the GPT is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Command
from programs import ARGUMENTS, CONSTANTS, MENU, PYTHON, make_own_study, run_own_study, script
from studies import MACHINE, assert_git_and_database_agree, change, git, query

from autoresearch.config import PRESETS, Settings, WorkerSettings, parse_settings
from autoresearch.errors import BaselineFails, UserError
from autoresearch.evidence import Evidence
from autoresearch.evidence.meters import meters_of
from autoresearch.evidence.sentences import improved, warnings
from autoresearch.evidence.status import status
from autoresearch.proposers.prompt import whole_prompt
from autoresearch.proposers.reflector import instructions
from autoresearch.study import history
from autoresearch.study.folder import StudyFolder, continue_study
from rails import recipe_key

ACCURACY = ARGUMENTS + 'print("accuracy:", 50 - score)\n'
BETTER, WORSE = change("lr", 0.1), change("lr", 0.001)


@pytest.fixture
def accuracy(tmp_path: Path) -> StudyFolder:
    """Higher is better; best at lr 0.1."""
    script(tmp_path, ACCURACY)
    trainer = {
        "command": f"{PYTHON} train.py", "folder": str(tmp_path), "score": "accuracy", "unit": "%",
        "lower_is_better": False,
    }  # fmt: skip
    return make_own_study(tmp_path / "home", trainer, decision__confirmation_runs=2)


def test_what_is_better_is_kept_and_what_is_worse_is_not_also_where_higher_is_better(accuracy: StudyFolder) -> None:
    told = run_own_study(accuracy, [WORSE, BETTER])
    assert [trial.outcome for trial in accuracy.store.trials()] == ["baseline", "discard", "keep"]
    assert_git_and_database_agree(accuracy)
    assert told == []
    best = accuracy.store.trial(2)
    assert best is not None and best.val_bpb is not None and -50 < best.val_bpb < -49.9, "kept negated"
    assert best.improvement is not None and best.improvement > 0.9, "a gain is positive"
    assert {run.test_bpb for run in accuracy.store.runs()} == {None}
    merge, *_ = git(accuracy, "log", "--format=%s", "incumbent").splitlines()
    assert "accuracy 49.9" in merge and "%, better by +" in merge and "val_bpb" not in merge
    assert "accuracy: 49.9" in git(accuracy, "tag", "-l", "--format=%(contents)", "trial/0002")


def test_what_git_lost_is_made_again_with_the_studys_own_words(accuracy: StudyFolder) -> None:
    run_own_study(accuracy, [BETTER])
    wanted = git(accuracy, "rev-parse", "trial/0001", "incumbent")
    git(accuracy, "tag", "-d", "trial/0001")
    run_own_study(accuracy, [])
    assert git(accuracy, "rev-parse", "trial/0001", "incumbent") == wanted


def test_the_sentences_promise_no_test_text(accuracy: StudyFolder) -> None:
    run_own_study(accuracy, [BETTER])
    evidence = Evidence(accuracy)
    said = improved(evidence)
    assert "is better than the baseline by 1.0" in said and " % (2.0 % of the baseline's), in 2 fresh runs" in said
    said += " ".join(warnings(evidence, meters_of(accuracy)))
    for foreign in ("bits per byte", "val_bpb", "test text", "text that decides"):
        assert foreign not in said
    assert "There is no test score: all gains are in the accuracy that decided." in said
    assert status(accuracy).metric.name == "accuracy"


def test_a_failed_recipe_blocks_itself_and_nothing_else(tmp_path: Path) -> None:
    script(tmp_path, ARGUMENTS + 'if LR > 0.5: raise MemoryError("too large")\nprint("val_bpb:", score)\n')
    study = make_own_study(tmp_path / "home", {"command": f"{PYTHON} train.py", "folder": str(tmp_path)})
    run_own_study(study, [change("lr", 0.6), change("lr", 0.6), change("lr", 0.1)])
    failed, again, other = study.store.trials()[1:]
    assert failed.state == "failed" and "out_of_memory: it ended with exit code 1: " in failed.reason
    assert (again.state, again.rail) == ("blocked", "novelty")
    assert other.decision == "keep"
    limits = history.now(study, MACHINE, 0).limits
    assert (limits.vocab_size, limits.precisions) == (None, None), "nothing is predicted from a shape that is not there"


def test_a_baseline_that_fails_ends_the_night_with_its_last_lines(tmp_path: Path) -> None:
    script(tmp_path, "raise SystemExit('no data in ./data')")
    study = make_own_study(tmp_path / "home", {"command": f"{PYTHON} train.py", "folder": str(tmp_path)})
    with pytest.raises(BaselineFails, match=r"it ended with exit code 1: no data in \./data"):
        run_own_study(study, [BETTER])


def test_a_program_that_ignores_its_seed_is_told_of_once(tmp_path: Path) -> None:
    script(tmp_path, CONSTANTS.replace("SEED =", "MY_OWN =").replace("SEED % 7", "1"))
    trainer = {"command": f"{PYTHON} train.py", "folder": str(tmp_path), "recipe": "constants", "script": "train.py"}
    study = make_own_study(tmp_path / "home", trainer, decision__baseline_runs=3)
    said = run_own_study(study, [WORSE, BETTER])
    assert len(said) == 1 and "agree to the last digit: the seed is ignored" in said[0]
    assert said[0] in status(study).trouble
    assert study.store.trials()[2].decision == "keep", "a night goes on all the same"
    assert said[0] in warnings(Evidence(study), meters_of(study))


def test_a_program_that_writes_beside_its_script_is_told_of_once(tmp_path: Path) -> None:
    place = tmp_path / "code"
    place.mkdir()
    script(place, ARGUMENTS + 'print("val_bpb:", score)\nopen(f"checkpoint-{LR}.bin", "w").close()\n')
    study = make_own_study(tmp_path / "home", {"command": f"{PYTHON} train.py", "folder": str(place)})
    said = run_own_study(study, [BETTER])
    assert len(said) == 1 and "while trial 0 seed 0 was under way something changed" in said[0]
    assert "checkpoint-0.01.bin" in said[0]
    assert ("program", said[0]) in query(study, "SELECT kind, message FROM events")


def test_scores_of_nothing_but_zeros_end_no_night(tmp_path: Path) -> None:
    study = make_own_study(tmp_path / "home", {"command": "echo val_bpb: 0", "recipe": "file"})
    run_own_study(study, [BETTER])
    assert study.store.trials()[1].decision == "discard"
    assert "Nothing beat the baseline, 0.0000" in improved(Evidence(study))


def test_a_score_that_explodes_does_not_blind_the_study(tmp_path: Path) -> None:
    script(tmp_path, ARGUMENTS + 'print("val_bpb:", 1e12 if LR > 0.5 else score)\n')
    study = make_own_study(tmp_path / "home", {"command": f"{PYTHON} train.py", "folder": str(tmp_path)})
    run_own_study(study, [change("lr", 0.9), BETTER])
    assert [trial.outcome for trial in study.store.trials()] == ["baseline", "discard", "keep"]


def test_a_study_goes_on_from_anothers_best_recipe(accuracy: StudyFolder) -> None:
    run_own_study(accuracy, [BETTER])
    after = continue_study(accuracy.path.parent, "next", accuracy, {})
    assert after.settings.trainer == accuracy.settings.trainer
    baseline = after.store.trial(0)
    assert baseline is not None and baseline.recipe["lr"] == 0.1


def test_the_program_cannot_change_once_there_are_runs(accuracy: StudyFolder) -> None:
    run_own_study(accuracy, [])
    path = accuracy.path / "study.toml"
    path.write_text(path.read_text().replace('score = "accuracy"', 'score = "loss"'))
    with pytest.raises(UserError, match=r"trainer was .* when this study's first run was made"):
        accuracy.reread_settings()


def test_the_shipped_settings_are_the_defaults() -> None:
    settings = parse_settings((PRESETS / "own.toml").read_text(), "own.toml")
    default = Settings(preset="own", budget=settings.budget, workers=WorkerSettings(most=1))
    assert {name for name in Settings.model_fields if getattr(settings, name) != getattr(default, name)} == {"decision"}
    assert settings.decision.model_copy(update={"prior_deviation": 0.007}) == default.decision


# --- the command line ---


def init(command: Command, folder: Path, *arguments: str, text: str = CONSTANTS, menu: str = MENU) -> Any:
    script(folder, text)
    (folder / "menu.toml").write_text(menu)
    given = ["--menu", str(folder / "menu.toml"), "--folder", str(folder), *arguments]
    if "--command" not in arguments:
        given += ["--command", f"{PYTHON} train.py"]
    return command("init", "mine", *given)


def test_a_strangers_script_is_a_running_study_in_two_commands(command: Command, tmp_path: Path) -> None:
    assert init(command, tmp_path, "--recipe", "constants", "--unit", "nats").code == 0
    ran = command("run", "mine", "--trials", "1")
    assert ran.code == 0, ran.err
    assert "trial 0 seed 0: val_bpb 1.0400 nats" in ran.out
    assert "bits per byte" not in ran.out
    shown = command("status", "mine").out
    assert "trial 0: val_bpb 1.04" in shown and "memory and time of a run are not predicted" in shown
    assert json.loads(command("status", "mine", "--json").out)["metric"]["unit"] == "nats"
    assert "nothing to prepare" in command("prepare", "mine").out
    assert "test_bpb" not in command("show", "mine", "0").out
    assert command("report", "mine").code == command("trials", "mine").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--command", "no-such-program"], "there is no program 'no-such-program' in "),
        (["--command", "'unclosed"], "command: it cannot be split as a shell would"),
        (["--command", ""], "command: it must name a program"),
        (["--recipe", "wish"], "trainer.recipe: "),
        (["--recipe", "constants", "--script", "other.py"], "other.py cannot be read: No such file"),
        (["--recipe", "constants", "--command", "sh -c true"], "needs --script"),
        (["--recipe", "constants", "--command", "true x.py", "--script", "train.py"], "does not name script train.py"),
        (["--script", "train.py"], 'script is for recipe = "constants"'),
        (["--score-pattern", "a(b)(c)"], "it must have exactly one group"),
        (["--score-pattern", "("], "it is no regular expression"),
        (["--score-file", "../x.json"], "it must be the name of a file in the run's folder"),
        (["--score-file", "x.json", "--score-pattern", "(x)"], "cannot both hold"),
        (["--score", ""], "score must have a name"),
        (["--score", "a\nb"], "letters, digits and signs like"),
        (["--folder", "/nowhere/at/all"], "there is no such folder"),
        (["--data", "stdlib"], "--data is not for: leave it out"),
        (["--menu", "nowhere.toml"], "nowhere.toml cannot be read as a menu: No such file"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_made(
    command: Command, tmp_path: Path, arguments: list[str], said: str
) -> None:
    refused = init(command, tmp_path, *arguments)
    assert refused.code == 2 and said in refused.err, refused.err
    assert len(refused.err.splitlines()) == 1
    assert not (tmp_path / "home" / "mine").exists()


def test_a_knob_that_the_script_does_not_have_is_refused(command: Command, tmp_path: Path) -> None:
    refused = init(command, tmp_path, "--recipe", "constants", text=CONSTANTS.replace("LR =", "LEARNING_RATE ="))
    assert refused.code == 2 and "has no constant LR at its top for knob lr" in refused.err


def test_a_knob_must_not_hide_what_every_run_is_told(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "the menu's knob seed has the name" in init(command, tmp_path, menu=MENU.replace("depth", "seed")).err
    refused = init(command, tmp_path, "--recipe", "environment", menu=MENU.replace("depth", "path"))
    assert "knob path would take the place of this machine's variable PATH" in refused.err


def test_options_of_a_program_need_a_program(command: Command, tmp_path: Path) -> None:
    assert "--unit is for a program of your own" in command("init", "mine", "--unit", "%").err
    assert "--command needs --menu" in command("init", "mine", "--command", "true").err


def test_an_adapter_is_a_study_too(tmp_path: Path) -> None:
    text = """
import math
from autoresearch.adapter import serve

def train(recipe, seed, budget, report):
    report(1, 2.0)
    return abs(math.log10(recipe["lr"] / 0.1)) + 0.001 * (seed % 7)

serve(train)
"""
    script(tmp_path, text)
    trainer = {"command": f"{PYTHON} train.py", "folder": str(tmp_path), "recipe": "adapter"}
    study = make_own_study(tmp_path / "home", trainer, workers=2)
    assert run_own_study(study, [WORSE, BETTER]) == []
    assert [trial.outcome for trial in study.store.trials()] == ["baseline", "discard", "keep"]
    assert recipe_key(study.store.trials()[2].recipe) == study.store.trials()[2].recipe_key


def test_a_model_is_told_what_counts_and_which_way(accuracy: StudyFolder) -> None:
    run_own_study(accuracy, [WORSE, BETTER])
    shown = history.at(accuracy, 2)
    said = whole_prompt(shown) + instructions(shown)
    for wanted in ("Higher accuracy is better.", "in %, negative when better (-1:\n1 higher)", ": 48.9"):
        assert wanted in said, said
    for foreign in ("val_bpb", "bits per byte", "GPT", "-48.9"):
        assert foreign not in said
    assert shown.tried[recipe_key(accuracy.store.trials()[0].recipe)].startswith("trial 0 (baseline, accuracy 48.9")
