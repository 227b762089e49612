"""Commands of the distillation: what studies have learned, made into something to teach a smaller proposer with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoresearch import words
from autoresearch.cli.app import Home, app, command, open_study
from autoresearch.errors import UserError
from rails import clean

EXAMPLE = "autoresearch distill corpus mine --out corpus"

group = typer.Typer(
    no_args_is_help=True, help="Teach a smaller proposer what studies have learned.", epilog=f"Example: {EXAMPLE}"
)
app.add_typer(group, name="distill")


@command(EXAMPLE, group)
def corpus(
    studies: Annotated[list[str], typer.Argument(help="Studies, imported ones too.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to write; files of an earlier corpus are replaced.")],
    objective: Annotated[str, typer.Option(help="What is taught: imitate, outcome or hindsight.")] = "outcome",
    hold_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of each study's latest trials that is held out.")
    ] = 0.2,
    hold_out_study: Annotated[
        list[str] | None, typer.Option(help="A study of these that is held out whole; may be repeated.")
    ] = None,
    most_frequent: Annotated[
        float, typer.Option(min=0.01, max=1, help="The largest share of one knob's one value among the answers.")
    ] = 0.2,
    augment: Annotated[int, typer.Option(min=0, max=100, help="Variants of each row to train on, in other words.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the variants.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Write it although it is too thin to teach.")] = False,
    home: Home = None,
) -> None:
    """Make training data out of studies: chat rows, one a trial, split by time, weighed by what was measured."""
    import sys

    from autoresearch.distill.corpus import make_corpus
    from autoresearch.distill.terms import Terms
    from autoresearch.distill.write import write_corpus

    names, held_out = list(dict.fromkeys(studies)), tuple(dict.fromkeys(hold_out_study or ()))
    if strangers := [clean(name, 80) for name in held_out if name not in names]:
        raise UserError(
            f"--hold-out-study {strangers[0]} is none of the studies given: add it to them, or leave it out"
        )
    terms = Terms(objective, hold_out, held_out, most_frequent, augment, seed)
    made = make_corpus([open_study(name, home) for name in names], terms)
    report = made.report
    if report.too_thin and not force:
        raise UserError(f"this corpus is too thin to teach: {'; '.join(report.too_thin)}; or write it with --force")
    for warning in [*report.warnings, *(f"too thin to teach: {reason}" for reason in report.too_thin)]:
        print(f"warning: {warning}", file=sys.stderr)
    write_corpus(made, out)
    train, rest = words.count(report.train.rows_with_variants, "row"), report.held_out.rows
    print(f"{out}: {train} to train on, {rest} held out, sha256 {report.sha256[:12]}; next: read {out / 'report.md'}")
