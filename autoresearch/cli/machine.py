"""Commands about the machine: is it fit, and how fast is it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoresearch.cli.app import Home, Preset, command, fitting_preset
from autoresearch.errors import UserError

if TYPE_CHECKING:
    from autoresearch.workers.doctor import Finding

# Within which a language model tells what it can do.
LOOK_SECONDS = 15.0


@command("autoresearch sweep --batch 2,4,8 --seq 256,512 --precision bf16")
def sweep(
    preset: Preset = None,
    batch: Annotated[str | None, typer.Option(help="Batch sizes, as 2,4,8; default: the preset's.")] = None,
    seq: Annotated[str | None, typer.Option(help="Sequence lengths, as 1024,2048; default: the preset's.")] = None,
    precision: Annotated[str | None, typer.Option(help="As bf16,fp8; default: the preset's.")] = None,
    steps: Annotated[int, typer.Option(min=2, help="Steps of a run; the first is not timed.")] = 20,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Times to measure each point; default 1, with --data 3.")
    ] = None,
    data: Annotated[
        bool, typer.Option("--data", help="Also on real text, in turns: what does reading it cost?")
    ] = False,
    source: Annotated[str | None, typer.Option(help="With --data: other text than the preset's, as for init.")] = None,
    compile: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="torch.compile; default: on a GPU.")
    ] = None,
    repeatable: Annotated[
        bool | None,
        typer.Option("--repeatable/--no-repeatable", help="One seed, one number; default: the preset's."),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="torch or megatron; default: the preset's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default: sweeps/ in --home.")] = None,
    home: Home = None,
) -> None:
    """Measure speed, memory and power over batch size, sequence length and precision. Needs no study."""
    from autoresearch.study import folder
    from autoresearch.sweep.command import make_grid, sweep
    from autoresearch.terminal.console import make_console
    from autoresearch.workers.machine import look

    machine = look(compile="auto" if compile is None else compile)
    asked = {"batch": batch, "seq": seq, "precision": precision, "source": source, "backend": backend}
    grid = make_grid(
        preset or fitting_preset(machine), machine, **asked, steps=steps, rounds=rounds, data=data, compile=compile,
        repeatable=repeatable,
    )  # fmt: skip
    sweep(grid, folder.home(home), out, make_console())


@command("autoresearch doctor")
def doctor(
    cluster: Annotated[
        str | None, typer.Option(help="Look at a Ray cluster too, by its address: auto, HOST:PORT or ray://HOST:10001.")
    ] = None,
    home: Home = None,
) -> None:
    """Look this machine over: Python, git, disk, torch, GPU, energy counters, language model; and a cluster."""
    from autoresearch.study import folder
    from autoresearch.workers.doctor import examine, examine_cluster

    offered = examine_cluster(cluster) if cluster is not None else []
    findings = [*examine(folder.home(home)), language_model(), *offered]
    for finding in findings:
        print(f"{'ok  ' if finding.fine else 'BAD '} {finding.what}: {finding.found}")
    if not all(finding.fine for finding in findings):
        raise UserError("mend what is marked BAD above, then run `autoresearch doctor` again")


def language_model() -> Finding:
    """The model that the environment names, and what its endpoint can do now. A night goes on without an answer."""
    from autoresearch.config import ProposerSettings
    from autoresearch.proposers import make_proposer
    from autoresearch.proposers.completion import NoAnswer
    from autoresearch.proposers.hybrid import HybridProposer
    from autoresearch.proposers.llm import LlmProposer
    from autoresearch.workers.doctor import Finding

    what = "language model"
    try:
        proposer = make_proposer(ProposerSettings(timeout_seconds=LOOK_SECONDS, max_retries=0))
    except UserError as error:
        return Finding(what, str(error), False)
    if not isinstance(proposer, HybridProposer) or not isinstance(proposer.model, LlmProposer):
        unset = "set OPENAI_BASE_URL, OPENAI_API_KEY, AUTORESEARCH_MODEL"
        return Finding(what, f"none configured; {proposer.name} proposes ({unset})")
    forms = proposer.model.forms
    try:
        return Finding(what, f"{forms.whose}: {forms.look()}")
    except NoAnswer as error:
        return Finding(what, f"{forms.whose}: does not answer ({error}); until it does, the optimizer proposes")
