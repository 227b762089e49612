"""Commands of the distillation: what studies have learned, made into something to teach a smaller proposer with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoresearch import words
from autoresearch.cli.app import Home, command, open_study
from autoresearch.cli.one_go import SCRATCH, group
from autoresearch.distill.teach.lora_terms import LoraRequest
from autoresearch.distill.teach.scratch_terms import BATCH, EVALUATE_EVERY, STEPS
from autoresearch.errors import UserError
from rails import clean

EXAMPLE = "autoresearch distill corpus mine --out corpus"
DEFAULT_BASE = "Qwen/Qwen2.5-3B-Instruct"


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

    from autoresearch.distill.corpus.make import make_corpus
    from autoresearch.distill.corpus.terms import Terms
    from autoresearch.distill.corpus.write import write_corpus

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


@command("autoresearch distill train corpus --out adapter", group)
def train(
    out: Annotated[Path, typer.Option(help="The folder of what is taught; one that was begun is gone on with.")],
    corpus: Annotated[
        Path | None,
        typer.Argument(help="What `distill corpus` wrote; scratch does without.", show_default=False),
    ] = None,
    base: Annotated[
        str, typer.Option(help="What is taught: a folder, a name on Hugging Face's hub, or scratch: a small decoder.")
    ] = DEFAULT_BASE,
    begin_from: Annotated[
        Path,
        typer.Option("--from", help="Of scratch: a decoder to go on from, shipped for the package's, or nothing."),
    ] = Path("nothing"),
    steps: Annotated[int, typer.Option(min=1, help="Of scratch.")] = STEPS,
    epochs: Annotated[int, typer.Option(min=1, help="Times through the corpus, at most.")] = LoraRequest.epochs,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Rows of a step (16), one in memory at a time; scratch: nights (64)."),
    ] = None,
    lr: Annotated[
        float, typer.Option(min=1e-8, max=1, help="Learning rate, constant after ten steps.")
    ] = LoraRequest.lr,
    max_length: Annotated[
        int, typer.Option(min=1, help="Tokens of a row; a longer one is refused, never cut.")
    ] = LoraRequest.max_length,
    evaluate_every: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between looks at what is held out (20; scratch: 100); a kill loses no more."),
    ] = None,
    patience: Annotated[
        int, typer.Option(min=1, help="Looks without a lower held-out loss, then it ends.")
    ] = LoraRequest.patience,
    seed: Annotated[int, typer.Option(min=0, help="Of the adapter, its dropout and the order of rows.")] = 0,
    merge: Annotated[bool, typer.Option("--merge", help="Write the base with it too, to OUT-merged.")] = False,
) -> None:
    """Teach a model a corpus: a LoRA that PEFT, vLLM and NIM load as it is (extra distill), or, from nothing, a small
    decoder that proposes offline."""
    if base == SCRATCH:
        _train_scratch(corpus, out, begin_from, steps, batch or BATCH, evaluate_every or EVALUATE_EVERY, seed)
        return
    if corpus is None:
        raise UserError("name a corpus, as `autoresearch distill corpus` makes one; only --base scratch does without")
    import sys

    from autoresearch.distill.teach.lora import sha256, teach
    from autoresearch.terminal.console import make_console

    request = LoraRequest(
        corpus=str(corpus.resolve()),
        sha256=sha256(corpus),
        base=str(Path(base).resolve()) if Path(base).is_dir() else base,
        epochs=epochs,
        batch=batch or LoraRequest.batch,
        lr=lr,
        max_length=max_length,
        patience=patience,
        evaluate_every=evaluate_every or LoraRequest.evaluate_every,
        seed=seed,
        merge=merge,
    )
    taught = teach(request, out, make_console())
    result, of_base = taught.result, taught.result.base_answers
    if result.loss >= result.base_loss:
        print("warning: on what was held out it is no better than its own base: do not use it", file=sys.stderr)
    print(
        f"{out}: held-out loss {words.nats(result.loss)} (base {words.nats(result.base_loss)}), "
        f"{result.answers.matched} of {words.count(of_base.asked, 'answer')} matched (base {of_base.matched}), "
        f"{words.energy(taught.energy.joules, [taught.energy.source])}; next: read {out / 'README.md'}"
    )


def _train_scratch(
    corpus: Path | None, out: Path, begin_from: Path, steps: int, batch: int, evaluate_every: int, seed: int
) -> None:
    from autoresearch.distill.teach.scratch import begun, located, teach_decoder
    from autoresearch.distill.teach.scratch_terms import ScratchRequest
    from autoresearch.terminal.console import make_console

    request = ScratchRequest(*located(corpus), *begun(begin_from), steps, batch, evaluate_every, seed)
    taught = teach_decoder(request, out, make_console())
    print(
        f"{out}: loss {words.nats(taught.result.loss)} on objectives that it was not taught, "
        f"{words.energy(taught.energy.joules, [taught.energy.source])}; next: autoresearch race NAME --proposers "
        f"scratch:{out} gp"
    )
