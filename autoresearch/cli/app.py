"""The command line itself: the app, the options that commands share, and how a study is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoresearch import __version__

if TYPE_CHECKING:
    from autoresearch.study.folder import StudyFolder
    from autoresearch.workers.machine import Machine


app = typer.Typer(
    name="autoresearch",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Leave it running at night: small, measured changes to a GPT training recipe, kept only on evidence.\n\n"
    "Example: autoresearch init mine --preset cpu-nano && autoresearch run mine --trials 20",
)

Name = Annotated[str, typer.Argument(help="The study's name.", show_default=False)]
Home = Annotated[
    Path | None, typer.Option("--home", help="Where studies live; default AUTORESEARCH_HOME, else ./trajectories.")
]
Preset = Annotated[
    str | None, typer.Option(help="gpt-354m or cpu-nano, or one with -wide; default: what fits the machine.")
]
AsJson = Annotated[bool, typer.Option("--json", help="The same facts as JSON, in base units.")]
Trials = Annotated[int | None, typer.Option("--trials", min=1, help="End after so many trials.")]
Hours = Annotated[float | None, typer.Option("--hours", min=0, help="End after so many hours.")]
Until = Annotated[str | None, typer.Option("--until", help="End at this local time, HH:MM.")]


def _show_version(asked: bool) -> None:
    if asked:
        print(f"autoresearch {__version__}")
        raise typer.Exit


@app.callback()
def _version(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


def command(example: str, group: typer.Typer = app) -> Callable[[Any], Any]:
    """Registers a command, or one of a group, named as in its example, with which its help ends."""
    name = example.split()[1 if group is app else 2]
    return group.command(name, epilog=f"Example: {example}")


def open_study(name: str, home: Path | None) -> StudyFolder:
    from autoresearch.study import folder

    return folder.StudyFolder(folder.home(home), name)


def open_own(name: str, home: Path | None) -> StudyFolder:
    """A study that can be run and steered: no imported one."""
    study = open_study(name, home)
    study.require_own()
    return study


def fitting_preset(machine: Machine) -> str:
    return "gpt-354m" if machine.kind == "cuda" else "cpu-nano"
