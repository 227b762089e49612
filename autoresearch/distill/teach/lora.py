"""Teaches a base a corpus in a child process: shows how it stands, meters what it takes, makes an adapter's folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from autoresearch.distill.teach.card import card
from autoresearch.distill.teach.child import begin, finish, train_in_child
from autoresearch.distill.teach.lora_terms import MERGED, LoraRequest, LoraResult, read_result
from autoresearch.distill.teach.messages import RESULT
from autoresearch.errors import UserError
from autoresearch.workers.energy import Energy

CHILD = "autoresearch.distill.teach.lora_worker"


@dataclass(frozen=True)
class Taught:
    result: LoraResult
    energy: Energy


def sha256(corpus: Path) -> str:
    """Of both files of a corpus, as its report has it. Raises UserError where one cannot be read."""
    try:
        return hashlib.sha256(
            b"".join((corpus / f"{name}.jsonl").read_bytes() for name in ("train", "held_out"))
        ).hexdigest()
    except OSError:
        raise UserError(
            f"{corpus} holds no train.jsonl and held_out.jsonl: make a corpus with `autoresearch distill corpus`"
        ) from None


def teach(request: LoraRequest, out: Path, console: Console) -> Taught:
    """Writes an adapter as PEFT, vLLM and NIM load it into `out`, with `request.merge` a whole model beside it.

    A training that was killed goes on where it last wrote down. Raises UserError where the extra is missing, another
    adapter or training is there, or the child refuses or dies.
    """
    if missing := [package for package in ("transformers", "peft") if find_spec(package) is None]:
        raise UserError(f"{' and '.join(missing)} not installed: run `pip install -e '.[distill]'`")
    merged = out.with_name(f"{out.name}-merged")
    if request.merge and merged.exists():
        raise UserError(f"{merged} is there already: remove it, or name another folder with --out")
    folder = begin(request, out, "adapter_config.json")
    # Without a hub each file that is no part of the folder would be asked for, for most of a minute.
    offline = {"HF_HUB_OFFLINE": "1"} if Path(request.base).is_dir() else {}
    energy = train_in_child(CHILD, folder, console, offline)
    taught = Taught(read_result(folder / RESULT), energy)
    if request.merge:
        (folder / MERGED).replace(merged)
    finish(folder, card(request, taught.result, taught.energy))
    return taught
