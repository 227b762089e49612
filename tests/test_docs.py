"""What the pages show is so: commands exist with their options, links lead somewhere, what is generated is current."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main

from autoresearch.cli import app
from docs import commands

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "trajectories" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {
    match.strip()
    for page in PAGES
    for match in re.findall(r"(?:^|`)(autoresearch [a-z][^`\n#|]*)", page.read_text(), re.MULTILINE)
}


def known(group: Any, before: str = "") -> dict[str, Any]:
    """Each command as typed -> what it is, those of groups too, in the order of --help."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        found |= known(command, f"{name} ") if hasattr(command, "commands") else {f"{before}{name}": command}
    return found


KNOWN = known(typer.main.get_command(app))


def test_the_pages_show_commands() -> None:
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_command_in_the_docs_exists_as_shown(command: str) -> None:
    typed = command.split()[1:]
    name = next((name for name in KNOWN if typed[: len(name.split())] == name.split()), "")
    if not name and f"{typed[0]} all" in KNOWN:  # a group that goes without the name of its first command
        name, command = f"{typed[0]} all", command.replace(typed[0], f"{typed[0]} all", 1)
    assert name, command
    found, arguments = KNOWN[name], shlex.split(command)[1 + len(name.split()) :]
    options = {option for parameter in found.params for option in parameter.opts}
    assert {word for word in arguments if word.startswith("--")} <= options


def test_every_command_has_its_section_and_every_section_its_command() -> None:
    sections = re.findall(r"^## (.+)$", commands.PAGE.read_text("utf-8"), re.MULTILINE)
    assert sections == list(KNOWN)


def test_the_page_of_commands_is_what_the_application_says_now() -> None:
    assert commands.PAGE.read_text("utf-8") == commands.page(), "run ./run.sh fix"


def test_the_readmes_table_of_commands_is_what_the_application_says_now() -> None:
    readme = commands.README.read_text("utf-8")
    assert readme == commands.with_table(readme), "run ./run.sh fix"


def test_the_page_of_commands_has_all_that_help_knows() -> None:
    for command in commands.commands():
        found = KNOWN[command.name]
        names = [name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)]
        shown = " ".join(parameter.spelling for parameter in command.parameters)
        words = [word for word in re.split(r"[ /]", shown) if word not in commands.KINDS.values()]
        assert words == [name if name.startswith("--") else name.upper() for name in names]


def test_a_readme_without_its_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="commands: end"):
        commands.with_table(f"# autoresearch\n\n{commands.BEGIN}\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_of_run_sh_in_the_docs_exists(page: Path) -> None:
    usage = subprocess.run([ROOT / "run.sh", "--help"], capture_output=True, text=True, check=True).stdout
    exist = set(re.findall(r"\./run\.sh ([a-z]+)", usage))
    assert set(re.findall(r"\./run\.sh ([a-z]+)", page.read_text("utf-8"))) <= exist


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_in_the_docs_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
