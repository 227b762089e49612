"""`autoresearch sweep`: batch sizes, sequence lengths and precisions in; a table, a CSV file and a chart out."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from autoresearch import words
from autoresearch.config import Settings
from autoresearch.errors import UserError
from autoresearch.study.preset import load_preset
from autoresearch.sweep.measure import Bench, Grid, Row, measure
from autoresearch.terminal.bars import PrepareProgress
from autoresearch.terminal.console import say
from autoresearch.trial import iso, utc_now
from autoresearch.workers.machine import Machine
from autoresearch.workers.process import WORKER
from trainer.recipe import PRECISIONS

ROUNDS_WITH_DATA = 3
# The points of the published sweep of the 354.6M GPT; for other presets they are what the menu offers.
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "batch_size": (2, 4, 8, 16),
    "seq_len": (1024, 2048),
    "precision": ("bf16", "fp8"),
}
MIB = 2**20


def make_grid(
    preset: str,
    machine: Machine,
    *,
    batch: str | None = None,
    seq: str | None = None,
    precision: str | None = None,
    steps: int,
    rounds: int | None = None,
    data: bool = False,
    source: str | None = None,
    compile: bool | None = None,
    repeatable: bool | None = None,
    backend: str | None = None,
) -> Grid:
    """What a person asks for; lists are text ("2,4,8"), None is the default. Raises UserError for bad input."""
    start = load_preset(preset)
    settings = start.settings
    if source is not None and not data:
        raise UserError(f"--source {source}: text is read only with --data; add it, or leave --source out")
    if source is not None:
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"source": source})})
    backends = get_args(Settings.model_fields["backend"].annotation)
    if backend is not None and backend not in backends:
        raise UserError(f"--backend {backend}: choose one of {', '.join(backends)}")
    asked = {"backend": backend, "compile": compile, "repeatable": repeatable}
    settings = settings.model_copy(update={name: value for name, value in asked.items() if value is not None})

    def values(knob: str, option: str, text: str | None, read: Callable[[str], Any]) -> tuple[Any, ...]:
        if text is None:
            return PUBLISHED[knob] if preset.startswith("gpt-354m") else start.menu.knobs[knob].choices
        try:
            found = tuple(read(part.strip()) for part in text.split(","))
        except ValueError as error:
            raise UserError(f"{option} {text}: {error}") from None
        if len(set(found)) < len(found):
            raise UserError(f"{option} {text}: a value is there twice; name each once")
        return found

    return Grid(
        settings=settings,
        recipe=start.recipe,
        machine=machine,
        batch_sizes=values("batch_size", "--batch", batch, _size),
        seq_lens=values("seq_len", "--seq", seq, _size),
        precisions=values("precision", "--precision", precision, _precision),
        steps=steps,
        rounds=rounds or (ROUNDS_WITH_DATA if data else 1),
        data=data,
    )


def _size(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,14}", text):
        raise ValueError(f"{text!r} is no whole number above 0; write a list like 2,4,8")
    return int(text)


def _precision(text: str) -> str:
    if text not in PRECISIONS:
        raise ValueError(f"{text!r} is no precision; choose from {', '.join(PRECISIONS)}")
    return text


def sweep(grid: Grid, home: Path, out: Path | None, console: Console, worker: Sequence[str] = WORKER) -> None:
    """Measures every point and leaves sweep.csv, sweep.svg and the runs' logs in `out`, by default a new folder in
    `home`. A point that fails is a row like any other; Ctrl-C ends with the points so far.

    Raises UserError where `out` has something in it already or the text cannot be prepared.
    """
    out = out or home / "sweeps" / f"{utc_now():%Y%m%dT%H%M%SZ}"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: there is something already; name a new folder")
    rows: list[Row] = []
    interrupted = False
    with TemporaryDirectory(prefix="autoresearch-sweep-") as scratch:
        if grid.data:
            data_dir = prepare_text(grid.settings, home, console)
        else:
            data_dir = without_text(Path(scratch), grid.settings.data.vocab_size)
        try:
            with Bench(grid, data_dir, out / "runs", worker) as bench:
                for number, recipe in enumerate(grid.points, 1):
                    with console.status(f"point {number} of {len(grid.points)}"):
                        rows.append(measure(grid, bench, recipe))
                    say(console, f"{number}/{len(grid.points)} {_told(rows[-1])}")
                    write_csv(rows, out / "sweep.csv")
        except KeyboardInterrupt:
            interrupted = True
    if rows:
        console.print(table(rows, grid))
        for line in [*_notes(rows, grid), _draw(rows, out / "sweep.svg"), f"Table, chart and the runs' logs: {out}"]:
            say(console, line)
    if interrupted:
        say(console, f"Ended by Ctrl-C after {len(rows)} of {words.count(len(grid.points), 'point')}.")
        raise SystemExit(130)


def prepare_text(settings: Settings, home: Path, console: Console) -> Path:
    """The folder of the preset's or the person's text, shared with the studies of `home`."""
    from trainer.data import DataError, prepare

    wanted = settings.data.model_dump()
    try:
        with PrepareProgress(console) as progress:
            return prepare(wanted.pop("source"), home.resolve() / ".data", **wanted, progress=progress)
    except DataError as error:
        raise UserError(str(error)) from None


def without_text(path: Path, vocab_size: int) -> Path:
    """A data folder for runs on random tokens, which want only the size of the vocabulary from it."""
    import numpy as np

    from trainer.data.dataset import MANIFEST, SPLITS, Manifest, Split

    tokens = np.zeros(1, "<u4")
    for name in SPLITS:
        (path / f"{name}.bin").write_bytes(tokens.tobytes())
    splits = {name: Split(documents=0, bytes=0, tokens=tokens.size, sha256="") for name in SPLITS}
    manifest = Manifest("none", "", vocab_size, 0, tokens.dtype.name, 0, iso(utc_now()), 0, splits)
    (path / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return path


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line a point, in base units; an empty cell was not measured."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def table(rows: Sequence[Row], grid: Grid) -> Table:
    """One line a point; of several rounds the median with the lowest and the highest."""
    found = Table(pad_edge=False, box=None, header_style="dim")
    names = ["batch", "sequence", "precision", "tokens/s", "step ms", "peak MiB", "MFU", "watts"]
    for name in names + (["data path", "slower on text"] if grid.data else []):
        found.add_column(name, justify="right", overflow="fold")  # on a narrow terminal no digit is lost
    found.add_column("outcome")
    for row in rows:
        cells = [
            str(row.batch_size),
            str(row.seq_len),
            row.precision,
            _figure(row.tokens_per_second, ",.0f")
            + (_range(row.tokens_per_second_low, row.tokens_per_second_high, ",.0f") if grid.rounds > 1 else ""),
            _figure(row.step_seconds and row.step_seconds * 1000, ",.1f"),
            _figure(row.peak_memory_bytes and row.peak_memory_bytes / MIB, ",.0f"),
            _figure(row.mfu, ".1%"),
            _figure(row.watts, ".0f"),
        ]
        if grid.data:
            spread = _range(row.slowdown_low, row.slowdown_high, "+.2%") if grid.rounds > 1 else ""
            cells += [_figure(row.data_share, ".3%"), _figure(row.slowdown, "+.2%") + spread]
        found.add_row(*cells, Text(words.state(row.outcome), style="default" if row.outcome == "ok" else "red"))
    return found


def _notes(rows: Sequence[Row], grid: Grid) -> list[str]:
    """What the figures mean."""
    measured = [row for row in rows if row.tokens_per_second is not None]
    if not measured:
        return ["No point could be measured."]
    fastest = max(measured, key=lambda row: row.tokens_per_second or 0.0)
    peaks = {row.precision: (row.peak_flops, row.peak_flops_source) for row in measured if row.peak_flops is not None}
    rounds = f", median [lowest, highest] of {words.count(grid.rounds, 'round')}" if grid.rounds > 1 else ""
    notes = [
        f"Fastest, {fastest.backend} on {fastest.device}: {_told(fastest)}.",
        f"Speed: steps 2 to {grid.steps} on random tokens{rounds}. "
        f"Watts: mean over whole runs, their start included ({fastest.watts_source}).",
        "MFU: of "
        + ", ".join(f"{peak / 1e12:.3g} TFLOP/s in {name} ({source})" for name, (peak, source) in peaks.items())
        + ".",
    ]
    if not grid.settings.repeatable:
        notes.append(f"Measured so that {words.NOT_REPEATABLE}.")
    if len(measured) < len(rows):
        notes.append("Why a point was not measured: in the lines above and in sweep.csv.")
    if grid.data:
        notes.append(
            "Data path: share of a step on real text spent waiting for the batch. Slower on text: 1 - real / random "
            "tokens/s, noise included."
        )
    return notes


def _draw(rows: Sequence[Row], path: Path) -> str:
    from autoresearch.sweep.chart import draw  # it takes a second to load

    draw([asdict(row) for row in rows], path)
    return f"Chart: {path}"


def _told(row: Row) -> str:
    if row.tokens_per_second is None:
        return f"{row.name}: {words.state(row.outcome)}: {row.reason}"
    return f"{row.name}: {row.tokens_per_second:,.0f} tokens/s"


def _figure(value: float | None, form: str) -> str:
    return format(value, form) if value is not None else "-"


def _range(low: float | None, high: float | None, form: str) -> str:
    return f" [{low:{form}}, {high:{form}}]" if low is not None and high is not None else ""
