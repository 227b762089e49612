"""run.sh: what its commands call; on machines that lack something one plain sentence, exit code 2, nothing made."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("bash", "dirname", "cat", "cksum", "df", "awk", "env", "grep")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what run.sh reads, and a PATH with the plainest tools only."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("run.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found
        (tools / name).symlink_to(found)
    return folder


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    tools = checkout.parent / "tools"
    command = [str(tools / "bash"), str(checkout / "run.sh"), *arguments]
    return subprocess.run(command, env={"PATH": str(tools)}, capture_output=True, text=True, cwd="/")


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize("command", [[], ["night"], ["test"], ["check"], ["fix"]])
def test_without_git_it_says_so(checkout: Path, command: list[str]) -> None:
    assert_refused(run(checkout, *command), "git is missing", "install it")
    assert not (checkout / ".venv").exists()


def test_without_a_new_enough_python_it_says_so(checkout: Path) -> None:
    tools = checkout.parent / "tools"
    script(tools / "git", "exit 0")
    assert_refused(run(checkout), "Python 3.11 or newer is missing")
    script(tools / "python3", "exit 1")  # what an older one answers when it is asked for its version
    assert_refused(run(checkout), "Python 3.11 or newer is missing")


def test_without_disk_space_it_says_so(checkout: Path) -> None:
    tools = checkout.parent / "tools"
    script(tools / "git", "exit 0")
    script(tools / "python3", "exit 0")
    (tools / "df").unlink()
    script(tools / "df", "echo Filesystem 1024-blocks Used Available; echo /dev/full 1 1 4194304")
    assert_refused(run(checkout), "less than 5 GB", "make room")
    assert not (checkout / ".venv").exists()


@pytest.fixture
def installed(checkout: Path) -> Path:
    """A checkout that is set up for development, with programs that only say how they were called."""
    for name in ("git", "python3"):
        script(checkout.parent / "tools" / name, "exit 0")
    programs = checkout / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "ruff", "mypy"):
        script(programs / name, f'echo {name} "$@"')
    sums = "cat pyproject.toml constraints.txt | cksum"
    found = subprocess.run(["bash", "-c", sums], cwd=checkout, capture_output=True, text=True, check=True).stdout
    (checkout / ".venv" / "installed[dev]").write_text(f"{found.strip()} {checkout}\n")
    return checkout


ALL_CORES = "--numprocesses logical --maxprocesses 16 --dist worksteal"


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        ([], ALL_CORES),
        (["tests/test_docs.py", "-x"], f"{ALL_CORES} tests/test_docs.py -x"),
        (["-m", "gpu"], "-m gpu"),
        (["-m", "not gpu"], f"{ALL_CORES} -m not gpu"),
        (["-n", "0", "--pdb"], "-n 0 --pdb"),
        (["-n4"], "-n4"),
    ],
)
def test_the_tests_run_on_all_cores_unless_told_otherwise(installed: Path, arguments: list[str], called: str) -> None:
    done = run(installed, "test", *arguments)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, f"python -m pytest {called}".strip(), "")


def test_check_changes_nothing_and_fix_writes(installed: Path) -> None:
    check = run(installed, "check").stdout.splitlines()
    pages = ["python -m docs.commands", "python -m docs.architecture"]
    assert check == ["ruff check .", "ruff format --check .", "mypy", *(f"{page} --check" for page in pages)]
    fix = run(installed, "fix").stdout.splitlines()
    assert fix == ["ruff check --fix-only .", "ruff format .", *pages]


def test_a_check_that_fails_is_the_end(installed: Path) -> None:
    script(installed / ".venv" / "bin" / "mypy", "exit 1")
    done = run(installed, "check")
    assert done.returncode == 1 and "docs.commands" not in done.stdout


def test_an_unknown_command_shows_what_there_is(checkout: Path) -> None:
    done = run(checkout, "fly")
    assert done.returncode == 2 and "./run.sh night" in done.stderr and "'fly'" in done.stderr


def test_help_needs_nothing_installed(checkout: Path) -> None:
    done = run(checkout, "--help")
    assert done.returncode == 0 and all(f"./run.sh {name}" in done.stdout for name in ("night", "test", "check", "fix"))
