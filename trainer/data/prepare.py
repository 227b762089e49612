"""Prepares a source once: documents, tokenizer, tokens, manifest; later calls find the finished folder."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from trainer.data.corpus import INDEX, TEXT, Corpus, collect, open_corpus
from trainer.data.dataset import MANIFEST, SPLITS, Manifest, Split
from trainer.data.errors import DataError
from trainer.data.files import alone, finished_when_closed
from trainer.data.sources import Source, source_named

FORMAT = 1  # part of a folder's name: raise it when the same source and settings come to give other tokens
ENDOFTEXT = "<|endoftext|>"
TOKENIZER = "tokenizer.json"
BYTE_VALUES = 256

# Training takes memory in proportion; merges learned from more text than this are the same ones.
TOKENIZER_TEXT_BYTES = 256 * 1024 * 1024
DOCUMENTS_AT_A_TIME = 256

Progress = Callable[[str, int, int], None]


def prepare(
    source: str,
    root: Path,
    *,
    vocab_size: int,
    val_bytes: int,
    test_bytes: int,
    max_bytes: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Returns the folder under root that holds the source's tokens, made now unless it is there.

    source: stdlib, hf:NAME[:CONFIG], a file or a folder (trainer.data.sources). val_bytes, test_bytes: text held
    out, about. max_bytes: read no more of the source than about this. seed: the order of a folder's files.
    progress: called with stage (read, tokenizer, encode), done and total, in bytes; total is 0 where unknown.

    A killed preparation goes on where it was; two at once wait for each other. Raises DataError for text that cannot
    be used.
    """
    if vocab_size <= BYTE_VALUES:
        raise DataError(f"vocab_size is {vocab_size}; it must be above {BYTE_VALUES}, one token for each byte and one")
    for name, value in (("val_bytes", val_bytes), ("test_bytes", test_bytes), ("max_bytes", max_bytes)):
        if value is not None and value < 1:
            raise DataError(f"{name} is {value}; it must be above 0")
    report = progress or (lambda stage, done, total: None)
    text = source_named(source, seed)
    settings = [FORMAT, text.fingerprint, vocab_size, val_bytes, test_bytes, max_bytes, seed]
    name = f"{text.slug}-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]}"
    finished = root / name
    if not finished.exists():
        root.mkdir(parents=True, exist_ok=True)
        with alone(root / f".{name}.lock"):
            if not finished.exists():
                partial = root / f"{name}.partial"
                partial.mkdir(exist_ok=True)
                if not (partial / MANIFEST).exists():
                    try:
                        corpus = _documents(text, partial, val_bytes, test_bytes, max_bytes, report)
                    except DataError:
                        shutil.rmtree(partial)  # there is nothing to go on with
                        raise
                    tokenizer = _tokenizer(corpus, partial, vocab_size, report)
                    _encode(corpus, tokenizer, partial, report)
                    _write_manifest(corpus, tokenizer, partial, source, seed)
                for left_over in (TEXT, INDEX):
                    (partial / left_over).unlink(missing_ok=True)
                partial.rename(finished)
    return finished


def _documents(
    source: Source, folder: Path, val_bytes: int, test_bytes: int, max_bytes: int | None, report: Progress
) -> Corpus:
    if not (folder / INDEX).exists():
        collect(source, folder, val_bytes, test_bytes, max_bytes, lambda done, total: report("read", done, total))
    return open_corpus(folder)


def _tokenizer(corpus: Corpus, folder: Path, vocab_size: int, report: Progress) -> Tokenizer:
    """Byte-level BPE with GPT-2's way of cutting words, learned from the train split alone."""
    path = folder / TOKENIZER
    if not path.exists():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[ENDOFTEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        total_bytes = min(corpus.bytes("train"), TOKENIZER_TEXT_BYTES)

        def lessons() -> Iterator[str]:
            done_bytes = 0
            for document in corpus.documents("train"):
                yield document.decode()
                done_bytes += len(document)
                report("tokenizer", min(done_bytes, total_bytes), total_bytes)
                if done_bytes >= TOKENIZER_TEXT_BYTES:
                    return

        tokenizer.train_from_iterator(lessons(), trainer)
        with finished_when_closed(path) as file:
            file.write(tokenizer.to_str().encode())
    tokenizer = Tokenizer.from_file(str(path))
    # A document that happens to hold the characters <|endoftext|> is text like any other, and scored as such.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _encode(corpus: Corpus, tokenizer: Tokenizer, folder: Path, report: Progress) -> None:
    """Writes train.bin, val.bin and test.bin: the documents' tokens, endoftext after each."""
    endoftext = _endoftext(tokenizer)
    kind = _token_type(tokenizer)
    total_bytes = sum(corpus.bytes(split) for split in SPLITS)
    done_bytes = 0
    for split in SPLITS:
        path = folder / f"{split}.bin"
        if path.exists():
            done_bytes += corpus.bytes(split)
            continue
        with finished_when_closed(path) as file:
            # In batches: as one string, the same text takes the tokenizer six times as long.
            for documents in _batches(corpus.documents(split)):
                for encoding in tokenizer.encode_batch_fast([document.decode() for document in documents]):
                    file.write(np.array([*encoding.ids, endoftext], dtype=kind).tobytes())
                done_bytes += sum(map(len, documents))
                report("encode", done_bytes, total_bytes)


def _write_manifest(corpus: Corpus, tokenizer: Tokenizer, folder: Path, source: str, seed: int) -> None:
    kind = _token_type(tokenizer)
    splits: dict[str, Split] = {}
    whole = hashlib.sha256()
    for name in SPLITS:
        digest = hashlib.sha256()
        for document in corpus.documents(name):
            digest.update(document)
        whole.update(digest.digest())
        tokens = (folder / f"{name}.bin").stat().st_size // kind.itemsize
        splits[name] = Split(len(corpus.spans[name]), corpus.bytes(name), tokens, digest.hexdigest())
    manifest = Manifest(
        source=source,
        sha256=whole.hexdigest(),
        vocab_size=tokenizer.get_vocab_size(),
        endoftext=_endoftext(tokenizer),
        dtype=kind.name,
        seed=seed,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        duplicates=corpus.duplicates,
        splits=splits,
    )
    with finished_when_closed(folder / MANIFEST) as file:
        file.write(manifest.to_json().encode())


def _endoftext(tokenizer: Tokenizer) -> int:
    token = tokenizer.token_to_id(ENDOFTEXT)
    assert token is not None
    return token


def _token_type(tokenizer: Tokenizer) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    small = tokenizer.get_vocab_size() <= 2**16
    return np.dtype("<u2") if small else np.dtype("<u4")


def _batches(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for document in documents:
        batch.append(document)
        if len(batch) == DOCUMENTS_AT_A_TIME:
            yield batch
            batch = []
    if batch:
        yield batch
