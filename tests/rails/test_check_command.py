"""`python -m rails check` as a person or a program runs it, and what the package needs to run: Python alone."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rails import Value, render_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, menu_text: str, recipe: dict[str, Value]) -> Path:
    (tmp_path / "menu.toml").write_text(menu_text)
    (tmp_path / "recipe.toml").write_text(render_recipe(recipe))
    return tmp_path


def check(folder: Path, stdin: bytes = b"", *more: str | Path) -> subprocess.CompletedProcess[bytes]:
    command = [
        sys.executable,
        "-m",
        "rails",
        "check",
        "--recipe",
        folder / "recipe.toml",
        "--menu",
        folder / "menu.toml",
        *more,
    ]
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, timeout=60)


def test_each_line_gets_one_verdict_in_order(folder: Path, propose: Callable[..., str]) -> None:
    lines = [
        json.dumps(propose("lr", 0.002)).encode(),
        json.dumps(propose("nope", 1)).encode(),
        propose("lr", 0.002).encode(),
        b"not json",
        b"",
        b'"\xff\xfe"',
        b"9" * 6000,
        b"[" * 100_000,
        json.dumps("\ud800").encode(),
        b"\xef\xbb\xbf" + json.dumps(propose("lr", 0.002)).encode(),
        json.dumps(propose("n_head", 5)).encode() + b"\r",
        json.dumps(propose("tied", False)).encode(),
    ]
    ran = check(folder, b"\n".join(lines))
    assert ran.returncode == 0 and ran.stderr == b""
    verdicts = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [verdict["rail"] for verdict in verdicts] == [None, "menu", *["schema"] * 8, "cross", None]
    assert verdicts[0]["changes"] == {"lr": 0.002} and verdicts[0]["passed"] is True
    assert set(verdicts[0]) == {"passed", "rail", "reason", "changes", "hypothesis", "expected_delta"}
    assert "line 4 is not one JSON string" in verdicts[3]["reason"]


def test_no_input_gives_no_verdict(folder: Path) -> None:
    ran = check(folder)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def test_a_study_gives_its_budget(folder: Path, menu_text: str, propose: Callable[..., str]) -> None:
    (folder / "menu.toml").write_text(menu_text + '[[constraints]]\nexpr = "budget_steps - n_head >= 5"\n')
    (folder / "study.toml").write_text("[budget]\nsteps = 12\n[decision]\nconfidence = 0.9\n")
    lines = b"\n".join(json.dumps(propose("n_head", heads)).encode() for heads in (2, 8))
    assert [json.loads(line)["rail"] for line in check(folder, lines).stdout.splitlines()] == ["cross", "cross"]
    ran = check(folder, lines, "--study", folder / "study.toml")
    assert [json.loads(line)["rail"] for line in ran.stdout.splitlines()] == [None, "cross"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("menu.toml", b"", "no knobs"),
        ("menu.toml", b"\xff", "no UTF-8"),
        ("menu.toml", None, "No such file"),
        ("recipe.toml", b"lr = 1e-3\n", "knob d_model is missing"),
        ("recipe.toml", b"lr = ", "no valid TOML"),
        ("study.toml", b"", "no table [budget]"),
        ("study.toml", b"budget = 3", "no table [budget]"),
        ("study.toml", b"[budget]\nhours = 3", "exactly one of tokens, steps, seconds and flops"),
        ("study.toml", None, "No such file"),
    ],
)
def test_a_bad_file_gets_one_line_and_exit_code_2(folder: Path, name: str, content: bytes | None, words: str) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    ran = check(folder, b"", *(("--study", path) if name == "study.toml" else ()))
    message = ran.stderr.decode()
    assert ran.returncode == 2 and ran.stdout == b""
    assert message.startswith("error: ") and message.count("\n") == 1 and words in message and name in message


@pytest.mark.parametrize("arguments", [[], ["judge"], ["check"], ["check", "--recipe", "r", "--menu", "m", "--loud"]])
def test_bad_arguments_get_one_line_and_exit_code_2(arguments: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "rails", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 2 and ran.stdout == ""
    assert ran.stderr.startswith("error: ") and ran.stderr.count("\n") == 1


def test_rails_need_the_standard_library_alone() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import rails, rails.__main__
foreign = {{name.partition(".")[0] for name in sys.modules}} - sys.stdlib_module_names - {{"rails", "__main__"}}
assert not foreign, foreign
"""
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=60)
