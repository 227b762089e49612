"""Every command in the README and in docs/ exists with the options it is shown with, and every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from autoresearch.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "trajectories" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {
    match.strip()
    for page in PAGES
    for match in re.findall(r"(?:^|`)(autoresearch [a-z][^`\n#|]*)", page.read_text(), re.MULTILINE)
}


def test_the_pages_show_commands() -> None:
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_command_in_the_docs_exists_as_shown(command: str) -> None:
    group = typer.main.get_command(app)
    _, name, *arguments = shlex.split(command)
    found = group.get_command(group.make_context("autoresearch", ["doctor"]), name)  # type: ignore[attr-defined]
    assert found is not None, name
    options = {option for parameter in found.params for option in parameter.opts}
    assert {word for word in arguments if word.startswith("--")} <= options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_in_the_docs_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
