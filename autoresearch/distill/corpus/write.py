"""Writes a corpus: as JSONL, as Parquet where pyarrow is there, with its report."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from autoresearch.distill.corpus.make import Corpus
from autoresearch.distill.corpus.nights import FILE
from autoresearch.distill.corpus.report import markdown
from autoresearch.errors import UserError
from autoresearch.facts import to_json

REPORT = "report.json"


def is_written(corpus: Corpus, out: Path) -> bool:
    """Whether `out` holds this very corpus. It is whole then: the report is written last."""
    told = {FILE: corpus.nights, REPORT: corpus.report}
    try:
        return all((out / name).read_text("utf-8") == _text(facts) for name, facts in told.items())
    except (OSError, ValueError):
        return False


def write_corpus(corpus: Corpus, out: Path) -> list[Path]:
    """The files written into the folder `out`, which is made; each is there whole or not at all, and what an earlier
    corpus left there is gone. Raises UserError where it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".corpus-", dir=out) as beside:
            made = Path(beside)
            for name in corpus.records:
                (made / f"{name}.jsonl").write_text(corpus.jsonl(name), encoding="utf-8", newline="")
                if not _save_parquet(corpus.records[name], made / f"{name}.parquet"):
                    (out / f"{name}.parquet").unlink(missing_ok=True)
            (made / FILE).write_text(_text(corpus.nights), encoding="utf-8")
            (made / REPORT).write_text(_text(corpus.report), encoding="utf-8")
            (made / "report.md").write_text(markdown(corpus.report), encoding="utf-8")
            files = sorted(made.iterdir(), key=lambda file: (file.name == REPORT, file.name))
            return [file.replace(out / file.name) for file in files]
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}): name another folder with --out"
        ) from None


def _text(facts: Any) -> str:
    return to_json(facts, indent=1) + "\n"


def _save_parquet(records: list[dict[str, Any]], path: Path) -> bool:
    """False where pyarrow is not installed: it is an extra."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return False
    text, whole = pyarrow.string(), pyarrow.int64()
    schema = pyarrow.schema(
        {
            "messages": pyarrow.list_(pyarrow.struct({"role": text, "content": text})),
            "weight": pyarrow.float64(),
            "study": text,
            "trial": whole,
            "target_trial": whole,
            "proposer": text,
            "outcome": text,
            "prompt_source": text,
            "variant": whole,
        }
    )
    parquet.write_table(pyarrow.Table.from_pylist(records, schema), path)
    return True
