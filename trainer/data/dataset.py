"""Frozen: a prepared data folder, and the order in which a run reads its training text."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.errors import DataError

MANIFEST = "manifest.json"
SPLITS = ("train", "val", "test")

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Split:
    """One of the three texts."""

    documents: int
    bytes: int  # UTF-8 bytes of the documents; what val_bpb is per
    tokens: int  # as stored: one endoftext after each document included
    sha256: str  # of the documents' bytes, in order


@dataclass(frozen=True)
class Manifest:
    """What a data folder holds."""

    source: str
    sha256: str  # of the three texts together: equal text, equal hash, wherever and whenever it was prepared
    vocab_size: int  # endoftext included; less than asked for where the text has too few pairs to merge
    endoftext: int  # token id
    dtype: str  # of the token files, little-endian: uint16 or uint32
    seed: int
    created_at: str  # ISO 8601, UTC
    duplicates: int  # documents left out because an equal one is in
    splits: dict[str, Split]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Raises ValueError, KeyError or TypeError for text that is no manifest."""
        content: dict[str, Any] = json.loads(text)
        splits = content.pop("splits")
        return cls(**content, splits={name: Split(**splits[name]) for name in SPLITS})


def manifest_of(data_dir: str | Path) -> Manifest:
    """Raises DataError where there is no finished data folder."""
    path = Path(data_dir) / MANIFEST
    try:
        return Manifest.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; prepare the data first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a manifest ({error}); delete the folder and prepare again") from error


@dataclass(frozen=True)
class Dataset:
    """The three token streams, memory-mapped: nothing is read until it is used."""

    path: Path
    manifest: Manifest
    train: Tokens
    val: Tokens
    test: Tokens

    @classmethod
    def open(cls, data_dir: str | Path) -> "Dataset":
        """Raises DataError if a file is missing or its size is not what the manifest says."""
        path = Path(data_dir)
        manifest = manifest_of(path)
        return cls(path, manifest, *(_memory_map(path / f"{name}.bin", manifest, name) for name in SPLITS))

    def windows(self, seed: int, batch_size: int, seq_len: int) -> Iterator[npt.NDArray[np.int64]]:
        """Training batches without end, int64 [batch_size, seq_len + 1]; targets are the inputs shifted by one.

        Window i of a seed starts at the same fraction of the text whatever the recipe's shape: recipes compared on
        one seed read nearly the same text in the same order, which takes noise out of their difference.
        Raises DataError if the text is shorter than one window.
        """
        room = len(self.train) - seq_len - 1
        if room < 0:
            raise DataError(f"{self.path}: {len(self.train)} training tokens are too few for seq_len {seq_len}")

        def batches() -> Iterator[npt.NDArray[np.int64]]:
            generator = np.random.Generator(np.random.PCG64(seed))
            offsets = np.arange(seq_len + 1)
            while True:
                starts = np.floor(generator.random(batch_size) * room).astype(np.int64)
                yield self.train[starts[:, None] + offsets].astype(np.int64)

        return batches()


def _memory_map(path: Path, manifest: Manifest, name: str) -> Tokens:
    kind = np.dtype(manifest.dtype).newbyteorder("<")
    expected_bytes = manifest.splits[name].tokens * kind.itemsize
    found_bytes = path.stat().st_size if path.exists() else 0
    if found_bytes != expected_bytes:
        raise DataError(
            f"{path}: {found_bytes:,} bytes, the manifest says {expected_bytes:,}; delete the folder and prepare again"
        )
    return np.memmap(path, dtype=kind, mode="r")
