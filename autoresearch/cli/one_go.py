"""The group of the distillation, and what it does with studies alone: all in one go, and who proposes next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from autoresearch.cli.app import Home, app, open_study
from autoresearch.distill.teach.scratch_terms import STEPS, STEPS_ON
from autoresearch.proposer_name import SHIPPED

SCRATCH = "scratch"


class _FallsBack(TyperGroup):
    """Its command `all` is meant where the first word is no other one."""

    FALLBACK = "all"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [self.FALLBACK, *args]
        return super().parse_args(ctx, args)


group = typer.Typer(
    cls=_FallsBack,
    no_args_is_help=True,
    subcommand_metavar="STUDY... | COMMAND ...",
    help="Teach a smaller proposer what studies have learned; `distill STUDY...` is `distill all STUDY...`.",
    epilog="Example: autoresearch distill mine",
)
app.add_typer(group, name="distill")


@group.command(_FallsBack.FALLBACK, epilog="Example: autoresearch distill mine")
def distill(
    studies: Annotated[list[str], typer.Argument(help="Studies, imported ones too.", show_default=False)],
    base: Annotated[
        str, typer.Option(help="scratch, a small decoder; or what gets a LoRA: a folder, a name on Hugging Face's hub.")
    ] = SCRATCH,
    begin_from: Annotated[
        Path,
        typer.Option("--from", help="Of scratch: a decoder to go on from, shipped for the package's, or nothing."),
    ] = SHIPPED,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for corpus, student and race; default: distilled/STUDY where studies live."),
    ] = None,
    hold_out: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of each study's latest trials, not taught but raced on.")
    ] = 0.2,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help=f"Of scratch; default: {STEPS_ON}, from nothing {STEPS}.", show_default=False),
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="As `distill train` has it.")] = None,
    nights: Annotated[
        int | None,
        typer.Option(min=0, help="Whole searches of each; default: 8 where the search benchmark is there, else none."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Of each of these nights.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of corpus, training and race.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Teach a language model although the corpus is too thin.")
    ] = False,
    home: Home = None,
) -> None:
    """Corpus, training and race in one go; then the line that starts the next night, with the student only if it won.

    What is there already is not done again. A study named all, corpus or train: `distill all NAME`."""
    from autoresearch.distill.one_go import OneGo, distill
    from autoresearch.distill.successor import line
    from autoresearch.study import folder
    from autoresearch.terminal.console import make_console

    folders = [open_study(name, home) for name in dict.fromkeys(studies)]
    terms = OneGo(base, begin_from, hold_out, steps, batch, nights, runs, seed, force)
    place = out or folder.home(home) / "distilled" / folders[0].name
    found = distill(folders, terms, place, make_console())
    print(f"{found.why}\nnext: {line(found, folders[0], home)}")
