"""run.sh on machines that lack something: one plain sentence, exit code 2, nothing made."""

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


@pytest.mark.parametrize("command", [[], ["night"], ["test"]])
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


def test_an_unknown_command_shows_what_there_is(checkout: Path) -> None:
    done = run(checkout, "fly")
    assert done.returncode == 2 and "./run.sh night" in done.stderr and "'fly'" in done.stderr


def test_help_needs_nothing_installed(checkout: Path) -> None:
    done = run(checkout, "--help")
    assert done.returncode == 0 and "./run.sh test" in done.stdout
