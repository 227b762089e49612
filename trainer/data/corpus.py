"""Frozen: all documents of a source in one file, and which of them are train, val and test."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.data.dataset import SPLITS
from trainer.data.errors import DataError
from trainer.data.files import finished_when_closed
from trainer.data.sources import Source

TEXT, INDEX = "documents.bin", "documents.json"

# A validation text of one huge document measures that document; but small ones fit even a small text.
LARGEST_SHARE = 4
ALWAYS_FITS_BYTES = 8 * 1024


@dataclass(frozen=True)
class Corpus:
    """The documents of a source, each once, and the split that each belongs to."""

    path: Path  # of the concatenated text
    spans: dict[str, list[tuple[int, int]]]  # per split: offset and length in bytes, in order
    duplicates: int

    def documents(self, split: str) -> Iterator[bytes]:
        """The UTF-8 bytes of each document."""
        with self.path.open("rb") as file:
            for offset, length in self.spans[split]:
                file.seek(offset)
                yield file.read(length)

    def bytes(self, split: str) -> int:
        return sum(length for _, length in self.spans[split])


def open_corpus(folder: Path) -> Corpus:
    """What `collect` left in the folder."""
    index = json.loads((folder / INDEX).read_text())
    spans = {split: [(offset, length) for offset, length in index["spans"][split]] for split in SPLITS}
    return Corpus(folder / TEXT, spans, index["duplicates"])


def collect(
    source: Source,
    folder: Path,
    val_bytes: int,
    test_bytes: int,
    max_bytes: int | None,
    report: Callable[[int, int], None],
) -> Corpus:
    """Reads the source, up to max_bytes of it, and divides it. Raises DataError if it is too small.

    A document's split follows from the hash of its content alone, so that equal documents can never stand on both
    sides; a second copy is left out.
    """
    hashes: list[bytes] = []
    spans: list[tuple[int, int]] = []
    seen: set[bytes] = set()
    duplicates = offset = 0
    expected_bytes = min((limit for limit in (source.total_bytes, max_bytes) if limit), default=0)
    with finished_when_closed(folder / TEXT) as file:
        for text in source.documents():
            content = text.encode()
            key = hashlib.sha256(content).digest()
            if not text.strip():
                continue
            if key in seen:
                duplicates += 1
                continue
            seen.add(key)
            hashes.append(key)
            spans.append((offset, len(content)))
            file.write(content)
            offset += len(content)
            report(offset, expected_bytes)
            if max_bytes is not None and offset >= max_bytes:
                break
    split_spans = _split(source.name, hashes, spans, {"val": val_bytes, "test": test_bytes})
    with finished_when_closed(folder / INDEX) as file:
        file.write(json.dumps({"spans": split_spans, "duplicates": duplicates}).encode())
    return open_corpus(folder)


def _split(
    name: str, hashes: list[bytes], spans: list[tuple[int, int]], wanted_bytes: dict[str, int]
) -> dict[str, list[tuple[int, int]]]:
    """Val and test take documents in the order of their hashes until they are full; train is the rest, as read."""
    found_bytes = sum(length for _, length in spans)
    if found_bytes == 0:
        raise DataError(f"{name}: no text in it, only blanks")
    held_out_bytes = sum(wanted_bytes.values())
    if found_bytes < 2 * held_out_bytes:
        raise DataError(
            f"{name}: too small: {found_bytes:,} bytes of text found, {2 * held_out_bytes:,} needed "
            f"({wanted_bytes['val']:,} for val, {wanted_bytes['test']:,} for test, as much again to train on)"
        )
    by_hash = sorted(range(len(hashes)), key=hashes.__getitem__)
    taken: set[int] = set()
    split: dict[str, list[tuple[int, int]]] = {}
    for split_name, target_bytes in wanted_bytes.items():
        largest = max(target_bytes // LARGEST_SHARE, ALWAYS_FITS_BYTES)
        chosen: list[int] = []
        filled_bytes = 0
        for document in by_hash:
            if filled_bytes >= target_bytes:
                break
            if document not in taken and spans[document][1] <= largest:
                chosen.append(document)
                filled_bytes += spans[document][1]
        if filled_bytes < target_bytes:
            raise DataError(
                f"{name}: too small for {split_name}: {filled_bytes:,} bytes found in documents of at most "
                f"{largest:,} bytes, {target_bytes:,} needed"
            )
        taken.update(chosen)
        split[split_name] = [spans[document] for document in chosen]
    split["train"] = [span for document, span in enumerate(spans) if document not in taken]
    trainable_bytes = sum(length for _, length in split["train"])
    if trainable_bytes < held_out_bytes // 2:
        raise DataError(f"{name}: too small: {trainable_bytes:,} bytes left to train on, {held_out_bytes:,} needed")
    return split
