"""Teaches a decoder from nothing in a child process: simulated nights, and what studies measured."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from autoresearch import words
from autoresearch.distill.corpus.nights import FILE, read_nights
from autoresearch.distill.teach.child import begin, finish, train_in_child
from autoresearch.distill.teach.messages import RESULT
from autoresearch.distill.teach.scratch_terms import ScratchRequest, ScratchResult
from autoresearch.proposer_name import SHIPPED
from autoresearch.proposers.scratch import HERE, WEIGHTS, read_config
from autoresearch.workers.energy import Energy
from rails import clean

CHILD = "autoresearch.distill.teach.scratch_worker"
NOTHING = Path("nothing")  # to go on from


@dataclass(frozen=True)
class TaughtDecoder:
    result: ScratchResult
    energy: Energy


def located(corpus: Path | None) -> tuple[str, str]:
    """Where a corpus is, and the sha256 of its nights; nothing for none. Raises UserError where it holds none."""
    if corpus is None:
        return "", ""
    read_nights(corpus)
    return str(corpus.resolve()), _sha256(corpus / FILE)


def begun(folder: Path) -> tuple[str, str]:
    """The same of a decoder to go on from, and of its weights; SHIPPED is that of the package."""
    if folder == NOTHING:
        return "", ""
    where = HERE if folder == SHIPPED else folder.resolve()
    read_config(where)
    return str(where), _sha256(where / WEIGHTS)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def teach_decoder(request: ScratchRequest, out: Path, console: Console) -> TaughtDecoder:
    """Writes a decoder that `scratch:OUT` proposes with. A training that was killed goes on where it last wrote down.

    Raises UserError where another decoder or training is there, or the child refuses or dies.
    """
    folder = begin(request, out, WEIGHTS)
    energy = train_in_child(CHILD, folder, console, {})
    result = ScratchResult(**json.loads((folder / RESULT).read_text("utf-8")))
    finish(folder, _card(request, result, energy))
    return TaughtDecoder(result, energy)


def _card(request: ScratchRequest, result: ScratchResult, energy: Energy) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    lines = [
        "# A proposer of changes to a training recipe",
        "",
        "A decoder taught by autoresearch; `--proposer scratch:FOLDER` proposes with it.",
        "",
        f"- Taught on: {_taught_on(request, result)}",
        *([f"- Gone on from: a decoder of sha256 {request.begun_sha256}"] if request.begun else []),
        f"- Loss on objectives drawn with another seed: {words.nats(result.loss)}",
        f"- Terms: {words.count(result.steps, 'step')} of {words.count(request.batch, 'night')}, seed {request.seed}",
        f"- Decoder: {result.parameters:,} parameters",
        f"- Took: {words.duration(result.seconds)}, {words.energy(energy.joules, [energy.source])}",
        f"- Made with: {versions}",
    ]
    return "\n".join(lines) + "\n"


def _taught_on(request: ScratchRequest, result: ScratchResult) -> str:
    drawn = "simulated nights on objectives drawn at random"
    if not result.studies:
        return drawn
    studies = ", ".join(clean(study, 80) for study in result.studies)
    known = f"{words.count(result.recipes, 'recipe')}; nights.json of sha256 {request.sha256}"
    return f"{drawn}, and on draws of what {studies} may be like by what was measured ({known})"
