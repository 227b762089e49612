"""Commands of the morning: the report, the meters, trajectories that travel, and what a longer budget says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoresearch import words
from autoresearch.cli.app import AsJson, Home, Name, command, open_study

File = Annotated[Path, typer.Argument(help="The file to read.", show_default=False)]


@command("autoresearch report mine")
def report(
    name: Name,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print it as Markdown instead.")] = False,
    home: Home = None,
) -> None:
    """Write the report: report/index.html, one file that needs no network, and report/report.md."""
    from autoresearch.morning.report.page import write_report

    study = open_study(name, home)
    try:
        path = write_report(study)
        print(path.with_name("report.md").read_text(encoding="utf-8") if markdown else path)
    except OSError:
        if not markdown:
            raise
        from autoresearch.morning.report.facts import facts
        from autoresearch.morning.report.markdown import markdown as as_markdown

        print(as_markdown(facts(study)))  # what may not be written may still be read


@command("autoresearch serve mine --port 8642")
def serve(
    name: Name,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8642,
    host: Annotated[str, typer.Option(help="Other than this machine only: then a token is asked for.")] = "127.0.0.1",
    home: Home = None,
) -> None:
    """The report as a live page, with pause and resume, and the database for questions in SQL (read-only)."""
    from autoresearch.morning.serve import serve
    from autoresearch.study import folder

    serve(folder.home(home), name, host=host, port=port)


@command("autoresearch inspect mine --json")
def inspect(name: Name, as_json: AsJson = False, home: Home = None) -> None:
    """What the search explored, how often it repeated itself, and how much of its best number is luck."""
    from autoresearch.evidence.meters import meters_of
    from autoresearch.facts import to_json, told
    from autoresearch.terminal.console import make_console
    from autoresearch.terminal.meters import meters_view

    meters = meters_of(open_study(name, home))
    if as_json:
        print(to_json(told(meters, meters.metric), indent=1))
    else:
        make_console().print(meters_view(meters))


@command("autoresearch import theirs trajectory.jsonl --format jsonl")
def import_trajectory(
    name: Name,
    file: File,
    format: Annotated[str | None, typer.Option(help="jsonl or tsv17; default: what the file looks like.")] = None,
    menu: Annotated[Path | None, typer.Option(help="menu.toml of that search; default: inferred.")] = None,
    home: Home = None,
) -> None:
    """Make a study of somebody's trajectory, for `inspect`, `report` and `show`."""
    import sys

    from autoresearch.exchange import import_study
    from autoresearch.study import folder

    def warn(text: str) -> None:
        print(f"warning: {text}", file=sys.stderr)

    made = import_study(folder.home(home), name, file, format, menu, warn)
    trials = words.count(len(made.store.trials()) - 1, "trial")
    print(f"study {name} made in {made.path}, {trials}; next: autoresearch inspect {name}")


@command("autoresearch export mine --format results-tsv")
def export(
    name: Name,
    format: Annotated[str, typer.Option(help="jsonl, tsv17, results-tsv, csv, parquet or optuna.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; default: standard output.")] = None,
    home: Home = None,
) -> None:
    """Give a trajectory away in a format that other tools read."""
    import sys

    from autoresearch.exchange import export_study

    made = export_study(open_study(name, home), format, out)
    if isinstance(made, Path):
        print(made)
    else:
        sys.stdout.write(made)


@command("autoresearch promote mine --top 3 --budget-factor 16 --seeds 3")
def promote(
    name: Name,
    top: Annotated[int, typer.Option(min=1, max=32, help="Recipes to try, besides the baseline.")] = 3,
    budget_factor: Annotated[float, typer.Option(min=1.01, help="Times the study's budget.")] = 16.0,
    seeds: Annotated[int, typer.Option(min=2, max=64, help="Fresh seeds for each.")] = 3,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Train the best recipes for longer, on fresh seeds: does the ranking hold before anyone pays for a big run?"""
    from autoresearch.evidence.longer_runs import longer_runs
    from autoresearch.facts import to_json, told
    from autoresearch.morning.promote import promote
    from autoresearch.study.lock import RunnerLock
    from autoresearch.terminal.console import make_console, say
    from autoresearch.terminal.longer_runs import longer_runs_view

    study, console = open_study(name, home), make_console()
    with RunnerLock(study.path):
        ended = promote(study, console, top=top, budget_factor=budget_factor, seeds=seeds)
    found = longer_runs(study)
    if as_json:
        print(to_json(told(found, study.metric), indent=1))
    else:
        console.print(longer_runs_view(found, study.metric))
        say(console, f"Ended: {ended}.")


@command("autoresearch plan mine --hardware h100-sxm --gpus 8")
def plan(
    name: Name,
    hardware: Annotated[str, typer.Option(help="A machine of the hardware file, such as h100-sxm.")] = "h100-sxm",
    gpus: Annotated[int, typer.Option(min=1, help="How many of them.")] = 1,
    tokens: Annotated[float | None, typer.Option(min=1, help="To train on; default: 20 for each parameter.")] = None,
    owned: Annotated[bool, typer.Option("--owned", help="Count electricity, not rent.")] = False,
    hardware_file: Annotated[
        Path | None, typer.Option(help="Your own prices; default: autoresearch/hardware.toml.")
    ] = None,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Tokens, hours, kWh and money of a full pretrain of the best recipe, every assumption printed."""
    from autoresearch.facts import to_json
    from autoresearch.morning.plan import make_plan
    from autoresearch.terminal.console import make_console
    from autoresearch.terminal.plan import plan_view

    study = open_study(name, home)
    made = make_plan(study, hardware, tokens=tokens, gpus=gpus, owned=owned, table=hardware_file)
    if as_json:
        print(to_json(made, indent=1))
    else:
        make_console().print(plan_view(made))
