"""From a script to a running study by the command line: what is made, what may be edited, what is refused in a line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from command_line import Command
from scripts import SCRIPT, adopted, git, repository
from studies import assert_git_and_database_agree, change, query, run_study
from studies import git as in_study

from autoresearch.errors import UserError
from autoresearch.study.folder import StudyFolder, continue_study
from autoresearch.study.settle import settle_script
from rails import RailsError

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
# A bowl whose lowest point is at X = 3, with some luck in it; it imports what lies beside it.
BOWL = """\
import random
import beside
X = 1.0  # where to look
SEED = 7
random.seed(SEED)
assert beside.HERE
open("ran.txt", "a").write("x")
print(f"loss: {(X - 3) ** 2 + random.gauss(0, 0.01):.6f}")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return repository(tmp_path / "own")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def edit(study: StudyFolder, before: str, after: str) -> None:
    menu = study.workspace.path / "menu.toml"
    text = menu.read_text("utf-8")
    assert before in text
    menu.write_text(text.replace(before, after), "utf-8")


def test_adopting_makes_a_study_and_says_what_was_found(command: Command, script: Path, home: Path) -> None:
    said = command("adopt", str(script), "mine")
    assert said.code == 0, said.err
    assert "LR" in said.out and "a float from 0.0001 to 0.01, in factors" in said.out
    assert "line 11: SEED: a seed" in said.out
    assert "score: val_bpb, line 12 prints it; lower is better, by its name" in said.out
    assert f"menu: {home}/mine/recipe/menu.toml: edit it now" in said.out
    assert said.out.rstrip().endswith("next: autoresearch run mine --trials 20")
    study = StudyFolder(home, "mine")
    own = study.settings.trainer
    assert own is not None and (own.folder, own.script, own.recipe) == (str(script.parent), "train.py", "constants")
    assert study.script is not None and study.script.text == SCRIPT
    assert study.script.commit == git(script.parent, "rev-parse", "HEAD").strip()
    assert in_study(study, "show", "incumbent:train.py") == SCRIPT
    assert_git_and_database_agree_from_the_start(study)


def assert_git_and_database_agree_from_the_start(study: StudyFolder) -> None:
    assert query(study, "SELECT incumbent_commit FROM studies")[0][0] == in_study(study, "rev-parse", "HEAD").strip()
    assert in_study(study, "status", "--porcelain") == ""


def test_the_script_is_not_run_for_it(command: Command, tmp_path: Path) -> None:
    script = tmp_path / "danger.py"
    script.write_text(
        f"import os\nLR = 0.1\nopen({str(tmp_path / 'ran')!r}, 'w')\nos._exit(3)\nprint(f'loss: {{LR}}')\n"
    )
    assert command("adopt", str(script)).code == 0
    assert not (tmp_path / "ran").exists()


def test_a_night_over_an_adopted_script_ends_with_a_commit_in_its_repository(
    command: Command, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an edited menu, real processes, and the script's neighbour on the path."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    script = repository(tmp_path / "own", BOWL)
    (script.parent / "beside.py").write_text("HERE = True\n")
    assert command("adopt", str(script), "mine").code == 0
    study = StudyFolder(home, "mine")
    edit(study, "low = 0.25", "low = 0.5\n# my own idea\n")
    settings = study.path / "study.toml"
    settings.write_text(settings.read_text().replace("confirmation_runs = 5", "confirmation_runs = 0"))
    assert command("propose", "mine", "--knob", "x", "--value", "3.0").code == 0
    said = command("run", "mine", "--trials", "1")
    assert said.code == 0, said.err
    assert "taken over as they are now" in said.out and "keep" in said.out
    study = StudyFolder(home, "mine")
    assert "# my own idea" in in_study(study, "show", "incumbent:menu.toml")
    assert "X = 3.0  # where to look" in in_study(study, "show", "incumbent:train.py")
    assert_git_and_database_agree(study)
    assert (script.parent / "ran.txt").exists() and script.read_text() == BOWL
    assert "commit" in command("apply", "mine").out
    assert git(script.parent, "show", "autoresearch/mine:train.py") == BOWL.replace("X = 1.0", "X = 3.0")
    assert "has it already" in command("apply", "mine").out


def test_until_the_first_run_an_edited_menu_is_taken_over(script: Path, home: Path) -> None:
    study = adopted(home, script)
    edit(study, "low = 0.0001", "low = 0.0005")
    edit(study, "[knobs.d_ff]", "[knobs.d_ff]  # mine")
    assert settle_script(study) is not None
    assert settle_script(study) is None
    assert study.menu.knobs["lr"].low == StudyFolder(home, "one").menu.knobs["lr"].low == 0.0005
    assert_git_and_database_agree_from_the_start(study)
    run_study(study, [change("lr", 0.0002), change("lr", 0.004)])
    assert query(study, "SELECT state, rail FROM trials WHERE number = 1") == [("blocked", "range")]
    assert_git_and_database_agree(study)


def test_a_knob_whose_table_is_deleted_stays_as_the_script_has_it(script: Path, home: Path) -> None:
    study = adopted(home, script)
    menu = study.workspace.path / "menu.toml"
    head, _, rest = menu.read_text().partition("[knobs.weight_decay]")
    menu.write_text(head + rest[rest.index("[knobs.") :])
    settle_script(study)
    assert "weight_decay" not in study.menu.knobs
    assert query(study, "SELECT recipe LIKE '%weight_decay%' FROM trials") == [(0,)]
    assert "WEIGHT_DECAY = 0.0" in in_study(study, "show", "incumbent:train.py")


def test_until_the_first_run_an_edited_script_is_taken_over(script: Path, home: Path) -> None:
    study = adopted(home, script)
    script.write_text(SCRIPT.replace("# what stays", "print('more')"))
    assert settle_script(study) is not None
    assert in_study(study, "show", "incumbent:train.py") == script.read_text()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("default = 0.001", "default = 0.002", "but line 2 of train.py says LR = 0.001"),
        ("[knobs.lr]", "[knobs.learning]", 'no constant LEARNING at its top for knob learning; did you mean "'),
        ("[knobs.lr]", "[knobs.lr", "no valid TOML"),
        ("low = 0.0001", "low = 1.0", "the range is empty"),
    ],
)
def test_a_menu_that_does_not_fit_is_refused_and_the_study_stands(
    script: Path, home: Path, before: str, after: str, said: str
) -> None:
    study = adopted(home, script)
    edit(study, before, after)
    with pytest.raises((UserError, RailsError), match=said):
        settle_script(study)
    assert StudyFolder(home, "one").menu.knobs["lr"].default == 0.001
    edit(study, after, before)
    assert settle_script(study) is None


def test_after_the_first_run_script_and_menu_are_settled(script: Path, home: Path) -> None:
    study = adopted(home, script)
    run_study(study, [change("lr", 0.004)])
    script.write_text(SCRIPT + "# later\n")
    told = settle_script(study)
    assert told is not None and "goes on with it as it was" in told
    assert study.script_at(study.menu.defaults()) == {"train.py": SCRIPT}


def test_what_git_has_lost_is_made_again_with_the_scripts(script: Path, home: Path) -> None:
    study = adopted(home, script)
    run_study(study, [change("lr", 0.004), change("lr", 0.0005)])
    for found in (study.workspace.path / ".git" / "objects").glob("??/*"):
        found.unlink()
    run_study(study, [])
    assert_git_and_database_agree(study)
    assert "LR = 0.004" in in_study(study, "show", "incumbent:train.py")
    assert "LR = 0.0005" in in_study(study, "show", "trial/0002:train.py")


def test_a_study_begun_from_it_goes_on_with_script_and_recipe(script: Path, home: Path) -> None:
    study = adopted(home, script)
    run_study(study, [change("lr", 0.004)])
    script.write_text("nothing of it is left")
    second = continue_study(home, "two", study, {})
    assert second.script == study.script
    assert "LR = 0.004" in in_study(second, "show", "incumbent:train.py")


def test_a_menu_of_ones_own_is_taken_instead(command: Command, script: Path, tmp_path: Path, home: Path) -> None:
    menu = tmp_path / "menu.toml"
    menu.write_text('[knobs.lr]\ntype = "float"\nlow = 1e-4\nhigh = 1.0\ndefault = 1e-3\n')
    assert command("adopt", str(script), "mine", "--menu", str(menu)).code == 0
    assert list(StudyFolder(home, "mine").menu.knobs) == ["lr"]
    menu.write_text('[knobs.width]\ntype = "int"\nlow = 1\nhigh = 2\ndefault = 1\n')
    assert (
        "no constant WIDTH at its top for knob width" in command("adopt", str(script), "other", "--menu", str(menu)).err
    )
    assert not (home / "other").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"LR = 0.1\ndef f(:\n", "train.py, line 2: this is no Python"),
        (b"LR = 0.1\n# \xff\xfe\n", "train.py, line 2: this is no UTF-8"),
        (b"\x7fELF\x02\x01\0\0\0", "this is no Python"),
        (b"", "no constant at its top level"),
        (b"import os\nprint('loss: 3')\n", "no constant at its top level"),
        (b"LR = 0.1\n", "prints no score"),
        (b"LR = 0.1\n" + b"#" * 2**20, "is larger than 1,048,576 bytes"),
    ],
)
def test_bad_input_is_one_clear_line(command: Command, tmp_path: Path, home: Path, content: bytes, said: str) -> None:
    script = tmp_path / "train.py"
    script.write_bytes(content)
    told = command("adopt", str(script), "mine")
    assert (told.code, told.out) == (2, "")
    assert said in told.err and told.err.count("\n") == 1
    assert not (home / "mine").exists()


def test_what_is_no_file_is_one_clear_line(command: Command, tmp_path: Path) -> None:
    assert "cannot be read: No such file" in command("adopt", str(tmp_path / "none.py")).err
    assert "is a folder" in command("adopt", str(tmp_path)).err
    script = repository(tmp_path / "own")
    assert command("adopt", str(script)).code == 0
    assert "exists already" in command("adopt", str(script)).err


def test_a_score_may_be_named(command: Command, tmp_path: Path, home: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("LR = 0.1\nimport evaluation\n")
    assert "higher is better" in command("adopt", str(script), "--score", "top_accuracy").out
    own = StudyFolder(home, "train").settings.trainer
    assert own is not None and (own.score, own.lower_is_better) == ("top_accuracy", False)


@pytest.mark.parametrize(("name", "score", "knobs"), [("letters", "val_bpb", 12), ("digits", "accuracy", 6)])
def test_the_examples_are_adopted_as_they_are(command: Command, home: Path, name: str, score: str, knobs: int) -> None:
    said = command("adopt", str(EXAMPLES / f"{name}.py"))
    assert said.code == 0, said.err
    study = StudyFolder(home, name)
    assert study.settings.metric.name == score and len(study.menu.knobs) == knobs
