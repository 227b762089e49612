"""The command that lets proposers race on what studies held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from autoresearch.cli.app import Home, app, open_study
from autoresearch.errors import UserError

EXAMPLE = "autoresearch race mine --proposers gp tpe random --out race"
OPTION = "--proposers"


class _OneOptionForMany(TyperCommand):
    """Words after --proposers are its names, up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if OPTION in args:
            at = args.index(OPTION) + 1
            end = next((n for n in range(at, len(args)) if args[n].startswith("-")), len(args))
            args = [*args[:at], *([",".join(args[at:end])] if end > at else []), *args[end:]]
        return super().parse_args(ctx, args)


@app.command("race", cls=_OneOptionForMany, epilog=f"Example: {EXAMPLE}")
def race(
    studies: Annotated[list[str], typer.Argument(help="Studies, imported ones too.", show_default=False)],
    proposers: Annotated[
        str,
        typer.Option(
            help="Two or more, after the studies: gp, tpe, random, llm, hybrid, llm:MODEL, lora:DIR, scratch:DIR."
        ),
    ],
    hold_out: Annotated[float, typer.Option(min=0.01, max=1, help="Share of each study's latest trials.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the samples and of the intervals.")] = 0,
    nights: Annotated[
        int | None,
        typer.Option(min=1, help="Whole searches too: nights of each on the search benchmark; default: none."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Of each of these nights.")] = 100,
    real: Annotated[
        int | None,
        typer.Option(min=1, help="Real runs of each, in studies that begin as the first did; default: none."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for race.json, race.md, pictures, and studies of real runs; default: none."),
    ] = None,
    home: Home = None,
) -> None:
    """Let proposers answer what was held out (validity, agreement with the teacher, gain, variety, cost) and search."""
    from autoresearch.distill.race.compete import race
    from autoresearch.distill.race.outcome import outcome, require_benchmark
    from autoresearch.distill.race.racers import Spec
    from autoresearch.distill.race.text import show, write
    from autoresearch.terminal.console import make_console
    from autoresearch.terminal.signals import outlive_terminal

    specs = list(dict.fromkeys(Spec.read(name) for name in proposers.replace(",", " ").split()))
    if not specs:
        raise UserError(f"{OPTION} names nobody: write it as {EXAMPLE}")
    folders = [open_study(name, home) for name in dict.fromkeys(studies)]
    if nights:
        require_benchmark()
    console = make_console()
    with console.status("reading") as status:
        held = race(folders, specs, hold_out, seed, status.update)
    if nights or real:
        with outlive_terminal():
            found = outcome(folders, specs, console, nights=nights or 0, runs=runs, real=real or 0, out=out)
        held = replace(held, outcome=found)
    show(held, console)
    if out is not None:
        write(held, out)
        print(f"{out}: race.json, race.md{', race.svg and race-outcome.svg' if held.outcome else ' and race.svg'}")
