"""Trajectories that travel: import into a study, and export out of one, each format by its name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autoresearch.errors import UserError
from autoresearch.exchange import results_tsv, tables, tsv17
from autoresearch.exchange.jsonl_read import is_jsonl, read_jsonl
from autoresearch.exchange.jsonl_write import write_jsonl
from autoresearch.exchange.make_study import make_study
from autoresearch.exchange.optuna_export import save_optuna
from autoresearch.exchange.source import Imported, Source, Warn
from autoresearch.study.folder import StudyFolder
from rails import clean
from rails.values import nearest

RESULTS = "results.tsv"


@dataclass(frozen=True)
class Format:
    """A format: `read` if it can be imported; one of `text` and `save` if a study can be written in it."""

    description: str
    read: Callable[[Source], Imported] | None = None
    is_it: Callable[[str], bool] | None = None
    text: Callable[[StudyFolder], str] | None = None
    save: Callable[[StudyFolder, Path], None] | None = None


FORMATS = {
    "jsonl": Format("one JSON object per trial, the published trajectory format", read_jsonl, is_jsonl, write_jsonl),
    "tsv17": Format("lineage table of 17 columns (fieldkit)", tsv17.read, tsv17.is_tsv17, tsv17.write),
    "results-tsv": Format("commit, val_bpb, memory, status, description (karpathy)", text=results_tsv.write),
    "csv": Format("one row per trial, every column", text=tables.csv_text),
    "parquet": Format("the same, typed; needs --out", save=tables.save_parquet),
    "optuna": Format("SQLite storage that optuna-dashboard opens; needs --out", save=save_optuna),
}
IMPORTS = [name for name, format in FORMATS.items() if format.read]
EXPORTS = [name for name, format in FORMATS.items() if format.text or format.save]


def import_study(
    home: Path, name: str, file: Path, format: str | None = None, menu: Path | None = None, warn: Warn = lambda _: None
) -> StudyFolder:
    """A new study of what the file holds; `format` None: told from the content; `menu`: a menu.toml to use.

    `file` may be a folder with results.tsv in it. `warn` hears what was skipped. Raises UserError for bad input.
    """
    if format is not None:
        _known(format, IMPORTS)
    source = _open(file / RESULTS if file.is_dir() else file, warn)
    if format is None:
        format = next((name for name in IMPORTS if (told := FORMATS[name].is_it) and told(source.text)), None)
        if format is None:
            raise UserError(f"{file} is of no format that can be imported; those are {', '.join(IMPORTS)}")
    read = FORMATS[format].read
    assert read
    return make_study(home, name, source, format, read(source), menu)


def export_study(folder: StudyFolder, format: str, out: Path | None = None) -> str | Path:
    """The study in that format: as text where `out` is None, else written to `out`, whole or not at all.

    Raises UserError for an unknown format, and where a format that is no text gets no path.
    """
    _known(format, EXPORTS)
    chosen = FORMATS[format]
    if out is None:
        if chosen.text is None:
            raise UserError(f"{format} is no text: say where to write it with --out FILE")
        return chosen.text(folder)
    if not out.parent.is_dir() or out.is_dir():
        raise UserError(f"{out} cannot be written: name a file in a folder that exists")
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as beside:
            made = Path(beside) / "made"
            if chosen.text:
                made.write_text(chosen.text(folder), encoding="utf-8", newline="")
            else:
                assert chosen.save
                chosen.save(folder, made)
            made.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from None
    return out


def _known(format: str, names: list[str]) -> None:
    if format not in names:
        raise UserError(f"there is no format {clean(format, 40)!r}{nearest(format, names)} (choose {', '.join(names)})")


def _open(path: Path, warn: Warn) -> Source:
    try:
        return Source(clean(path.name, 200), path.read_bytes().decode("utf-8"), warn)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text (byte {error.start}): name a trajectory as text") from None
