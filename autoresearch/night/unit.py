"""The daemon as a systemd user service: started with the machine, again after a failure, without any terminal."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoresearch.errors import UserError
from autoresearch.study.folder import StudyFolder

# What a person's shell knows and a service does not. Their values are never written down here.
SECRETS = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "AUTORESEARCH_MODEL")


def install(folder: StudyFolder, environment: Mapping[str, str] = os.environ) -> str:
    """Writes the unit and returns what to tell the person: where it is, what is in it, how it is switched on.

    Raises UserError where a unit of that name belongs to something else, or a path cannot stand in a unit.
    """
    places = _config_home(environment)
    path = places / "systemd" / "user" / f"autoresearch-{folder.name}.service"
    secrets = places / "autoresearch" / "environment"
    text = unit(folder, _command(), secrets, environment)
    if os.path.lexists(path) and not _is_own(path, text):
        raise UserError(f"{path} is there already and is not this study's: move it away, then install again")
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): mend its rights, or set XDG_CONFIG_HOME"
        ) from None
    known = [name for name in SECRETS if environment.get(name)]
    lines = [
        f"{path}:",
        "",
        *(f"  {line}".rstrip() for line in text.splitlines()),
        "",
        "Switch it on, also without anybody logged in:",
        "  systemctl --user daemon-reload",
        f"  systemctl --user enable --now {path.name}",
        "  loginctl enable-linger",
        f"See what it says: journalctl --user -u {path.name} -f",
        f"Switch it off: systemctl --user disable --now {path.name}",
    ]
    if known:
        lines.append(f"It does not know {' and '.join(known)} of this shell: write NAME=value lines into {secrets}")
        lines.append(f"  mkdir -p {secrets.parent} && touch {secrets} && chmod 600 {secrets}")
    if not shutil.which("systemctl"):
        lines.append("This machine has no systemctl: there, start the daemon in tmux, or with nohup (docs/night.md).")
    return "\n".join(lines)


def unit(folder: StudyFolder, command: Sequence[str], secrets: Path, environment: Mapping[str, str]) -> str:
    """The unit's text. `command`: what starts the command line; `secrets`: a file of variables that may be missing."""
    home, here = folder.path.parent, Path.cwd()
    program, *arguments = command
    for given in (*command, str(home), str(here), str(secrets), environment.get("PATH", "")):
        # a program's name may not even be quoted in there
        bad = given.endswith("\\") or given != given.strip() or (given == program and set(given) & set("'\"\\"))
        if bad or not given.isprintable():
            raise UserError(f"{given!r} cannot stand in a systemd unit: rename it, or install from elsewhere")
    start = [_quoted(program), *(_quoted(it).replace("$", "$$") for it in [*arguments, "daemon", folder.name])]
    return f"""{_mark(folder)}
[Unit]
Description={_percent(f"autoresearch, nights of study {folder.name}")}

[Service]
# git and the rest are found where they were found when this was installed
Environment={_quoted(f"AUTORESEARCH_HOME={home}")}
Environment={_quoted(f"PATH={environment.get('PATH', os.defpath)}")}
# keys and addresses, NAME=value a line; readable by you alone
EnvironmentFile=-{_percent(str(secrets))}
WorkingDirectory=-{_percent(str(here))}
ExecStart={" ".join(start)}
# 2: what only a person can mend
Restart=on-failure
RestartPreventExitStatus=2
RestartSec=60
# the first signal is for the daemon alone, which finishes the runs in flight; a run cut off is done again
KillMode=mixed
TimeoutStopSec=10min
# a worker that took too much memory is a failed run, not the end of the night
OOMPolicy=continue

[Install]
WantedBy=default.target
"""


def _mark(folder: StudyFolder) -> str:
    return f"# Written by `autoresearch daemon {folder.name} --install` for {folder.path}"


def _is_own(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0] == text.partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        return False


def _command() -> list[str]:
    """What starts this command line again, by absolute paths."""
    script = Path(sys.executable).with_name("autoresearch")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "autoresearch"]


def _config_home(environment: Mapping[str, str]) -> Path:
    given = Path(environment.get("XDG_CONFIG_HOME") or "")
    try:  # a relative one is to be ignored, says its specification
        return given if given.is_absolute() else Path("~/.config").expanduser()
    except RuntimeError:
        raise UserError("there is no home directory for a systemd unit: set XDG_CONFIG_HOME") from None


def _percent(text: str) -> str:
    """systemd puts values for %h and the like."""
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """One word of a systemd unit, whatever is in it."""
    escaped = _percent(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
