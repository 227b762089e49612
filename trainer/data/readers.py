"""Turns one file, or one named dataset, into documents; every error names the file and the place."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.data.errors import DataError

# One long text must still divide into train, val and test: a document ends at the first blank line after so many
# bytes, or before the line that would take it past the longest.
PIECE_BYTES = 4 * 1024
LONGEST_PIECE_BYTES = 8 * 1024
SLICE = LONGEST_PIECE_BYTES // 4  # characters, of 4 bytes at most: a line without end is cut too

# wikitext and its like hold one paragraph, or one empty line, in a row.
ROW_DOCUMENT_BYTES = 2 * 1024

INSTALL = "pip install 'autoresearch[data]'"


def read_text(path: Path) -> Iterator[str]:
    """.txt and .md: documents of about 4 to 8 KiB, cut at blank lines."""
    piece: list[str] = []
    size = 0
    slices = (line[at : at + SLICE] for line in _lines(path) for at in range(0, len(line), SLICE))
    for line in slices:
        length = len(line.encode())
        if size and size + length > LONGEST_PIECE_BYTES:
            yield "".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += length
        if size >= PIECE_BYTES and not line.strip():
            yield "".join(piece)
            piece, size = [], 0
    if piece:
        yield "".join(piece)


def read_whole(path: Path) -> Iterator[str]:
    """One document; none where the file is not UTF-8, which a few Python modules are not."""
    try:
        yield path.read_bytes().decode()
    except UnicodeDecodeError:
        return


def read_jsonl(path: Path) -> Iterator[str]:
    """One JSON object a line, its text under "text"."""
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise DataError(f'{path}:{number}: not a JSON object with the text under "text"')
        yield _without_lone_surrogates(text)


def read_parquet(path: Path) -> Iterator[str]:
    """The column "text", one document a row."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path}: reading .parquet needs pyarrow; run {INSTALL}") from None
    try:
        file = parquet.ParquetFile(path)
        if "text" not in file.schema_arrow.names:
            raise DataError(f'{path}: no column "text", only {", ".join(file.schema_arrow.names)}')
        for batch in file.iter_batches(batch_size=1024, columns=["text"]):
            for text in batch.column(0).to_pylist():
                if not isinstance(text, str | None):
                    raise DataError(f'{path}: the column "text" holds {type(text).__name__}, not text')
                if text:
                    yield text
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as parquet: {str(error).splitlines()[0]}") from error


READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".txt": read_text,
    ".md": read_text,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}


def read_dataset(source: str, name: str, config: str | None) -> Iterator[str]:
    """The train split's "text" through `datasets`; short rows that follow each other become one document.

    source: how the user wrote it, for messages. name: on the hub, or a local folder.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(f"{source}: needs the package datasets; run {INSTALL}") from None
    try:
        rows = load_dataset(name, config, split="train")
    except Exception as error:  # its many kinds of failure (network, name, config, files) share no class
        raise DataError(f"{source}: cannot be loaded: {str(error).splitlines()[0]}") from error
    if "text" not in rows.column_names:
        raise DataError(f'{source}: no column "text", only {", ".join(rows.column_names)}')
    return merged_rows(text or "" for batch in rows.iter(batch_size=1024) for text in batch["text"])


def merged_rows(rows: Iterator[str]) -> Iterator[str]:
    """Documents of at least ROW_DOCUMENT_BYTES, each of whole rows; a row's missing newline is put back."""
    document: list[str] = []
    size = 0
    for row in rows:
        row = _without_lone_surrogates(row if row.endswith("\n") else row + "\n")
        document.append(row)
        size += len(row.encode())
        if size >= ROW_DOCUMENT_BYTES:
            yield "".join(document)
            document, size = [], 0
    if document:
        yield "".join(document)


def _lines(path: Path) -> Iterator[str]:
    """The file's lines, with their endings as they stand."""
    offset = 0
    with path.open("rb") as file:
        for line in file:
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                at = offset + error.start
                raise DataError(
                    f"{path}: not UTF-8 at byte {at:,} (0x{line[error.start]:02x}); convert it, as with iconv -t utf-8"
                ) from None
            offset += len(line)


def _without_lone_surrogates(text: str) -> str:
    """JSON can spell half a character, which UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()
