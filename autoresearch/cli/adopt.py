"""Commands that make a study of a script, and write back to its repository what the study found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoresearch.cli.app import Home, Name, command, open_own


@command("autoresearch adopt train.py mine")
def adopt(
    script: Annotated[Path, typer.Argument(help="A Python script with its constants at the top.", show_default=False)],
    name: Annotated[str | None, typer.Argument(help="The study's name; default: the script's.")] = None,
    menu: Annotated[Path | None, typer.Option(help="A menu of your own, instead of one that is proposed.")] = None,
    score: Annotated[str | None, typer.Option(help="What the script prints: NAME in `NAME: 0.123`.")] = None,
    home: Home = None,
) -> None:
    """Make a study of a script, which is not run for it: its constants become knobs, its last line the score."""
    from autoresearch.adopt.make import adopt
    from autoresearch.adopt.view import show
    from autoresearch.study import folder
    from autoresearch.terminal.console import make_console

    show(adopt(folder.home(home), script, name, menu, score), make_console())


@command("autoresearch apply mine")
def apply(
    name: Name,
    branch: Annotated[str | None, typer.Option(help="Of the script's repository; default: autoresearch/NAME.")] = None,
    home: Home = None,
) -> None:
    """Commit the best recipe to a branch of the script's own repository, whose work tree is not touched."""
    from autoresearch.adopt.apply import apply

    found = apply(open_own(name, home), branch)
    if found.new:
        print(f"commit {found.commit[:12]} on branch {found.branch} of {found.repository}:\n\n{found.message}\n")
    else:
        print(f"branch {found.branch} of {found.repository} has it already, in commit {found.commit[:12]}")
    print(f"next: git -C {found.repository} merge {found.branch}")
