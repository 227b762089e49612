"""A base, a corpus and an adapter of seconds: a tiny Llama, some rows, and `distill train` that teaches it them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

KNOBS = ("lr", "beta1", "weight_decay", "grad_clip")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FEW = ("--epochs", "4", "--batch", "4", "--evaluate-every", "3", "--lr", "0.01", "--max-length", "256")


def row(n: int, weight: float = 1.0, answer: str | None = None, question: str | None = None) -> dict[str, Any]:
    knob = KNOBS[n % len(KNOBS)]
    told = {"knob": knob, "new_value": n % 3, "reason": f"{knob} was the best so far."}
    messages = [
        {"role": "system", "content": "Answer with one change."},
        {"role": "user", "content": question or f"trial {n}: {knob} earned most, by {n % 3}"},
        {"role": "assistant", "content": json.dumps(told) if answer is None else answer},
    ]
    return {"messages": messages, "weight": weight}


def write_rows(folder: Path, **files: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in rows))
    return folder


def write_base(folder: Path) -> Path:
    """A Llama of random weights and a tokenizer that is learned from the rows."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    marks = ["<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=marks, initial_alphabet=alphabet, show_progress=False)
    learned.train_from_iterator((json.dumps(row(n)) for n in range(24)), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=learned, eos_token="<|im_end|>", chat_template=CHATML)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=16_384, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        initializer_range=0.2,  # else a head that is not trained can say nothing clearly
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_corpus(folder: Path) -> Path:
    train = [row(n, 0.01 if n % 5 == 0 else 0.9) for n in range(24)]
    return write_rows(folder, train=train, held_out=[row(n, 0.9) for n in range(30, 34)])


def line(corpus: Path, base: Path, out: Path, *more: str) -> list[str]:
    return ["distill", "train", str(corpus), "--base", str(base), "--out", str(out), *FEW, *more]


def begin(arguments: list[str]) -> subprocess.Popen[str]:
    # The same bits are promised on the processor alone.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "autoresearch", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def finish(arguments: list[str]) -> str:
    with begin(arguments) as running:
        said, _ = running.communicate()
    assert running.returncode == 0, said
    return said


class Adapter:
    def __init__(self, corpus: Path, base: Path, out: Path) -> None:
        self.base, self.out, self.merged = base, out, out.with_name("adapter-merged")
        self.said = finish(line(corpus, base, out, "--merge"))
        self.result = json.loads((out / "training.json").read_text())
