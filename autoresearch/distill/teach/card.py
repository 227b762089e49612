"""The card of an adapter: of what it was made, what it cost, and whether it is better than its own base."""

from __future__ import annotations

import json

from autoresearch import words
from autoresearch.distill.teach.lora_terms import Answers, LoraRequest, LoraResult
from autoresearch.workers.energy import Energy

TEMPLATES = {"tokenizer": "that of the tokenizer", "ours": "ours, since the tokenizer has none"}


def card(request: LoraRequest, result: LoraResult, energy: Energy) -> str:
    """README.md, as Hugging Face reads it."""
    base, tuned = result.base_answers, result.answers
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    supervised = words.count(result.supervised_tokens, "token")
    lines = [
        "---",
        f"base_model: {json.dumps(request.base)}",
        "library_name: peft",
        "pipeline_tag: text-generation",
        "tags: [lora, autoresearch]",
        "---",
        "",
        "# A proposer of changes to a training recipe",
        "",
        f"A LoRA of `{request.base.replace('`', '')}`, taught by autoresearch.",
        "",
        "| on what was held out | its base | this |",
        "|---|---|---|",
        f"| loss, nats per token of the answer, by weight | {words.nats(result.base_loss)} "
        f"| {words.nats(result.loss)} |",
        f"| answers that can be read | {_share(base.readable, base)} | {_share(tuned.readable, tuned)} |",
        f"| answers matched | {_share(base.matched, base)} | {_share(tuned.matched, tuned)} |",
        "",
        "Its base is the same model untrained, asked the same, greedily and without a schema. Matched: the same knobs "
        "to the same values; the reason may differ.",
        "",
        f"- Corpus: sha256 {request.sha256}, {words.count(result.rows, 'row')} to train on with {supervised} to learn, "
        f"the longest of {result.longest_row:,} tokens",
        f"- Steps: {result.step} of {result.steps}, of {words.count(request.batch, 'row')}; the best on what was held "
        f"out was {result.best_step}",
        f"- Terms: lr {request.lr:g}, at most {words.count(request.epochs, 'epoch')}, patience {request.patience}, an "
        f"evaluation each {words.count(request.evaluate_every, 'step')}, seed {request.seed}",
        f"- Adapter: {result.trained_parameters:,} parameters",
        f"- Took: {words.duration(result.seconds)} on {result.device}, {words.energy(energy.joules, [energy.source])}",
        f"- Chat template: {TEMPLATES[result.template]}",
        f"- Made with: {versions}",
    ]
    return "\n".join(lines) + "\n"


def _share(n: int, among: Answers) -> str:
    return f"{n} of {among.asked}"
