"""`daemon NAME --install`: a systemd user unit that is right to the letter, and never over somebody else's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from command_line import Command
from studies import make_study

from autoresearch.errors import UserError
from autoresearch.night.unit import install, unit
from autoresearch.study.folder import StudyFolder

ODD = 'studies of 100 % "mine" $HOME \\ é'


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return make_study(tmp_path / "home", "mine")


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "PATH": "/usr/bin:/bin"}


def unit_of(environment: Mapping[str, str]) -> Path:
    return Path(environment["XDG_CONFIG_HOME"]) / "systemd" / "user" / "autoresearch-mine.service"


def values(text: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def test_the_unit_runs_the_daemon_by_absolute_paths(folder: StudyFolder, environment: Mapping[str, str]) -> None:
    said = install(folder, environment)
    path = unit_of(environment)
    text = path.read_text()
    assert values(text, "Environment") == [
        f'"AUTORESEARCH_HOME={folder.path.parent}"',
        '"PATH=/usr/bin:/bin"',
    ]
    (start,) = values(text, "ExecStart")
    assert start.startswith(f'"{Path(sys.executable).parent}/') and start.endswith('"daemon" "mine"')
    assert values(text, "Restart") == ["on-failure"] and values(text, "RestartPreventExitStatus") == ["2"]
    assert values(text, "KillMode") == ["mixed"], "a signal to all would end the workers, and with them their runs"
    assert values(text, "OOMPolicy") == ["continue"], "a worker that took too much memory ends no night"
    assert said.startswith(f"{path}:\n") and all(line in said for line in text.splitlines())
    assert "systemctl --user enable --now autoresearch-mine.service" in said and "loginctl enable-linger" in said


def test_installing_twice_is_installing_once(folder: StudyFolder, environment: Mapping[str, str]) -> None:
    assert install(folder, environment) == install(folder, environment)
    assert [path.name for path in unit_of(environment).parent.iterdir()] == ["autoresearch-mine.service"]


def test_no_key_is_written_down(folder: StudyFolder, environment: Mapping[str, str]) -> None:
    said = install(folder, {**environment, "OPENAI_API_KEY": "sk-secret"})
    assert "sk-secret" not in said + unit_of(environment).read_text()
    assert "It does not know OPENAI_API_KEY of this shell" in said and "chmod 600" in said
    assert values(unit_of(environment).read_text(), "EnvironmentFile")[0].endswith("/config/autoresearch/environment")


@pytest.mark.parametrize("theirs", ["[Service]\nExecStart=/bin/true\n", b"\xff", None])
def test_a_unit_of_somebody_else_is_left_alone(
    folder: StudyFolder, environment: Mapping[str, str], theirs: str | bytes | None
) -> None:
    path = unit_of(environment)
    path.parent.mkdir(parents=True)
    if theirs is None:
        path.symlink_to("/dev/null")  # so it was masked
    else:
        path.write_bytes(theirs if isinstance(theirs, bytes) else theirs.encode())
    with pytest.raises(UserError, match="is there already and is not this study's"):
        install(folder, environment)
    assert path.is_symlink() if theirs is None else path.read_bytes()


def test_a_place_that_cannot_be_written_is_told(folder: StudyFolder, environment: Mapping[str, str]) -> None:
    Path(environment["XDG_CONFIG_HOME"]).write_text("no folder")
    with pytest.raises(UserError, match=r"mine\.service cannot be written \(Not a directory\)"):
        install(folder, environment)


def test_a_study_of_that_name_elsewhere_keeps_its_unit(
    folder: StudyFolder, environment: Mapping[str, str], tmp_path: Path
) -> None:
    install(make_study(tmp_path / "another", "mine"), environment)
    with pytest.raises(UserError, match="not this study's"):
        install(folder, environment)


def test_signs_that_mean_something_to_systemd_are_only_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / ODD
    folder = make_study(home, "mine")
    monkeypatch.chdir(home)
    program = "/opt/100 % $HOME/autoresearch"
    text = unit(folder, [program, "$x"], home / "environment", {"PATH": "/bin"})
    escaped = str(home).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    assert values(text, "Environment")[0] == f'"AUTORESEARCH_HOME={escaped}"'
    assert values(text, "ExecStart") == ['"/opt/100 %% $HOME/autoresearch" "$$x" "daemon" "mine"']
    assert values(text, "WorkingDirectory") == [f"-{str(home).replace('%', '%%')}"], "this one knows no quotes"


@pytest.mark.parametrize("name", ["line\nbreak", "\x1b[2J", "blank ", "back\\", 'a"b'])
def test_a_path_that_no_unit_can_hold_is_told(folder: StudyFolder, name: str) -> None:
    with pytest.raises(UserError, match="cannot stand in a systemd unit"):
        unit(folder, [f"/opt/{name}"], Path("/etc/environment"), {})


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("where", ["home", ODD])
def test_systemd_takes_the_unit(
    tmp_path: Path, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    folder = make_study(tmp_path / where, "mine")
    monkeypatch.chdir(folder.path)
    program = tmp_path / "100 % $HOME" / "autoresearch"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr("autoresearch.night.unit._command", lambda: [str(program)])
    install(folder, environment)
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", "--man=no", str(unit_of(environment))],
        env={**environment, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_command_installs_and_runs_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    make_study(tmp_path / "home", "mine")
    said = command("daemon", "mine", "--install")
    assert said.code == 0 and "ExecStart=" in said.out and "resting" not in said.out
    unit_of({"XDG_CONFIG_HOME": str(tmp_path / "config")}).write_text("theirs")
    said = command("daemon", "mine", "--install")
    assert said.code == 2 and said.err.startswith("error: ") and said.err.count("\n") == 1
