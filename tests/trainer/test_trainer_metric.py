"""The metric: bits per byte of a text, every byte scored once."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from worker_process import RECIPE

from trainer.backends.torch_gpt import TorchBackend
from trainer.data import Dataset, prepare
from trainer.metric import EVALUATION_TOKENS, bits_per_byte, nats_per_token
from trainer.recipe import Recipe

CPU = torch.device("cpu")
ENDOFTEXT = 0


def score(nats_of: Any, tokens: list[int], text_bytes: int, seq_len: int, **options: Any) -> float:
    return bits_per_byte(nats_of, np.array(tokens, np.uint16), text_bytes, ENDOFTEXT, seq_len, CPU, **options)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_batch_size_does_not_move_a_bit(dataset: Dataset, precision: str) -> None:
    val = dataset.manifest.splits["val"]
    weights = TorchBackend().build(Recipe(**RECIPE), 512, CPU, seed=0).state_dict()
    scores = set()
    for batch_size in (1, 4, 32):
        recipe = Recipe(**(RECIPE | {"batch_size": batch_size, "precision": precision}))
        model = TorchBackend().build(recipe, 512, CPU, seed=9)
        model.load_state_dict(weights)
        scores.add(bits_per_byte(model, dataset.val, val.bytes, dataset.manifest.endoftext, recipe.seq_len, CPU))
    assert len(scores) == 1


def test_the_number_of_windows_at_a_time_moves_only_rounding(dataset: Dataset) -> None:
    model = TorchBackend().build(Recipe(**RECIPE), 512, CPU, seed=0)
    text_bytes, endoftext = dataset.manifest.splits["val"].bytes, dataset.manifest.endoftext
    scores = [
        bits_per_byte(model, dataset.val[:3000], text_bytes, endoftext, 32, CPU, rows=rows) for rows in (1, 7, 256)
    ]
    assert scores == pytest.approx([scores[0]] * 3, rel=1e-7)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 97, 1000])
@pytest.mark.parametrize("seq_len", [1, 16, 32, 1024])
@pytest.mark.parametrize("rows", [1, 3, None])
def test_every_token_is_a_target_once_after_its_true_predecessor(length: int, seq_len: int, rows: int | None) -> None:
    tokens = list(range(1, length + 1))
    seen: list[tuple[int, int]] = []

    def counting(inputs: Tensor, targets: Tensor) -> Tensor:
        assert inputs.shape == targets.shape == (rows or max(1, EVALUATION_TOKENS // seq_len), seq_len)
        pairs = zip(inputs.flatten().tolist(), targets.flatten().tolist(), strict=True)
        seen.extend(pair for pair in pairs if pair[1] != ENDOFTEXT)
        return torch.ones(targets.shape)

    bpb = score(counting, tokens, text_bytes=3 * length, seq_len=seq_len, rows=rows)
    assert seen == list(zip([ENDOFTEXT, *tokens[:-1]], tokens, strict=True))
    assert bpb == pytest.approx(length / (3 * length * math.log(2)))


def test_all_texts_of_a_study_and_the_looks_on_the_way_are_scored_in_one_shape(dataset: Dataset) -> None:
    shapes: list[tuple[int, ...]] = []

    def recording(inputs: Tensor, targets: Tensor) -> Tensor:
        shapes.append(tuple(inputs.shape))
        return torch.zeros(targets.shape)

    assert len({len(dataset.val), len(dataset.test)}) == 2
    for tokens in (dataset.val, dataset.test):
        bits_per_byte(recording, tokens, 1, ENDOFTEXT, 24, CPU)
    nats_per_token(recording, dataset.train, ENDOFTEXT, 24, CPU)
    assert len(shapes) > 3 and set(shapes) == {(EVALUATION_TOKENS // 24, 24)}


@pytest.mark.parametrize("seq_len", [7, 32, 100])
def test_the_scored_tokens_are_the_text_byte_for_byte(dataset: Dataset, seq_len: int) -> None:
    tokenizer = Tokenizer.from_file(str(dataset.path / "tokenizer.json"))
    targets_seen: list[int] = []

    def recording(inputs: Tensor, targets: Tensor) -> Tensor:
        targets_seen.extend(targets.flatten().tolist())
        return torch.zeros(targets.shape)

    val = dataset.manifest.splits["val"]
    bits_per_byte(recording, dataset.val, val.bytes, dataset.manifest.endoftext, seq_len, CPU)
    text = tokenizer.decode([token for token in targets_seen if token != dataset.manifest.endoftext])
    assert len(text.encode()) == val.bytes


def test_endoftext_costs_nothing_as_a_target() -> None:
    def costly_endoftext(inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.where(targets == ENDOFTEXT, 1000.0, 1.0)

    assert score(costly_endoftext, [5, 6, ENDOFTEXT, 7, ENDOFTEXT], 3, 2) == pytest.approx(1 / math.log(2))


def test_a_model_that_guesses_needs_log_vocabulary_bits_a_token(dataset: Dataset) -> None:
    manifest, val = dataset.manifest, dataset.manifest.splits["val"]

    def uniform(inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.full(targets.shape, math.log(manifest.vocab_size))

    bpb = bits_per_byte(uniform, dataset.val, val.bytes, manifest.endoftext, 64, CPU)
    tokens = val.tokens - val.documents  # one endoftext a document
    assert bpb == pytest.approx(math.log2(manifest.vocab_size) * tokens / val.bytes, rel=1e-6)


def test_text_that_spells_endoftext_is_scored_as_text(tmp_path: Path) -> None:
    path = tmp_path / "tricky.jsonl"
    texts = [f"number {i} then <|endoftext|> and on " + "word " * (i % 40) for i in range(400)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    dataset = Dataset.open(prepare(str(path), tmp_path, vocab_size=300, val_bytes=5000, test_bytes=5000))
    for split, tokens in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test)):
        assert int((tokens == dataset.manifest.endoftext).sum()) == dataset.manifest.splits[split].documents
