"""Writes docs/commands.md and README's table of commands from the application: python -m docs.commands [--check]."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo, CommandInfo

from autoresearch.cli import app

DOCS = Path(__file__).parent
PAGE, README = DOCS / "commands.md", DOCS.parent / "README.md"
BEGIN, END = "<!-- commands: written by ./run.sh fix -->", "<!-- commands: end -->"
HEAD = """\
# Commands

Every command of `autoresearch` with all that it takes, written from the application itself by `./run.sh fix`.
`autoresearch COMMAND --help` says the same; `autoresearch --version` prints the version.

"""
KINDS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True)
class Parameter:
    """One argument or option, as the page shows it."""

    spelling: str
    default: str
    help: str
    is_argument: bool

    @property
    def row(self) -> str:
        return _row(f"`{self.spelling}`", self.default and f"`{self.default}`", self.help)


@dataclass(frozen=True)
class Command:
    """One command, read from the function that it calls: what a terminal's width or a library's style do to `--help`
    does not show here."""

    name: str
    help: str
    example: str
    parameters: list[Parameter]

    @property
    def section(self) -> str:
        arguments = [parameter.spelling for parameter in self.parameters if parameter.is_argument]
        lines = [
            f"## {self.name}",
            "",
            self.help,
            "",
            "```",
            " ".join(["autoresearch", self.name, *arguments, "[OPTIONS]"]),
            "```",
            "",
            f"Example: `{self.example}`",
            "",
            _row("takes", "default", "what it is"),
            "|---|---|---|",
            *(parameter.row for parameter in self.parameters),
        ]
        return "\n".join(lines) + "\n"


def commands() -> list[Command]:
    """In the order in which `autoresearch --help` shows them."""
    found = []
    for name, info in _registered():
        assert info.epilog and info.callback and info.callback.__doc__, "a command lacks help or example"
        help = inspect.cleandoc(info.callback.__doc__).replace("\\[", "[")  # the terminal's markup needs the backslash
        example = info.epilog.removeprefix("Example: ")
        found.append(Command(name, " ".join(help.split()), example, list(_parameters(info.callback))))
    return found


def _registered() -> Iterator[tuple[str, CommandInfo]]:
    """Each command by all of its name; those of a group follow the others."""
    for info in app.registered_commands:
        yield str(info.name), info
    for group in app.registered_groups:
        assert group.typer_instance
        for info in group.typer_instance.registered_commands:
            yield f"{group.name} {info.name}", info


def page() -> str:
    """All of docs/commands.md."""
    return HEAD + "\n".join(command.section for command in commands())


def table() -> str:
    """README's part between the markers, markers included."""
    rows = [_row(f"`{command.example}`", command.help) for command in commands()]
    return "\n".join([BEGIN, _row("command", "what it does"), "|---|---|", *rows, END])


def with_table(readme: str) -> str:
    """The README's text with the table as it must be now. ValueError where it has not the two markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md needs the lines {BEGIN} and {END}, and what is between them will be written")
    return before + table() + after


def _parameters(callback: Any) -> Iterator[Parameter]:
    hints = get_type_hints(callback, include_extras=True)
    for name, parameter in inspect.signature(callback).parameters.items():
        annotated, info = get_args(hints[name])[:2]
        kind = next(kind for kind in get_args(annotated) or (annotated,) if kind is not type(None))
        kind = next(iter(get_args(kind)), kind)  # of a list: what it holds
        help = f"{info.help} {_limits(info)}".strip()
        if isinstance(info, ArgumentInfo):
            yield Parameter(name.upper(), "", help, True)
            continue
        assert isinstance(info, type(typer.Option()))
        # In Annotated there is no default to give, and Typer finds the first name in its place.
        names = [name for name in (info.default, *(info.param_decls or ())) if name is not ...]
        spelling = " ".join(names or [f"--{name.replace('_', '-')}"])
        if kind is not bool:
            spelling += f" {KINDS[kind]}"
        default = "" if parameter.default in (None, False, parameter.empty) else str(parameter.default)
        help += " Must be given." if parameter.default is parameter.empty else ""
        yield Parameter(spelling, default, help, False)


def _limits(info: Any) -> str:
    match info.min, info.max:
        case None, None:
            return ""
        case low, None:
            return f"{low} or more."
        case low, high:
            return f"From {low} to {high}."
    raise AssertionError(info)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main(arguments: list[str]) -> int:
    """Writes both; with --check only says which is out of date. Returns the exit code."""
    wanted = {PAGE: page(), README: with_table(README.read_text("utf-8"))}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path.name} is not what the application says now: run ./run.sh fix", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
