"""What longer runs say, as a person reads it in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from autoresearch.evidence.longer_runs import VERDICTS, Facts, gain_text
from autoresearch.terminal.views import energy_text

VERDICT_STYLES = {"held": "bold green", "shrank": "yellow", "lost": "red", "diverged": "red", "not measured": "red"}


def longer_runs_view(facts: Sequence[Facts]) -> RenderableType:
    """For each longer budget: what it says in words, and a line for each recipe."""
    parts: list[RenderableType] = []
    for promotion in facts:
        energy = energy_text(promotion["energy_joules"], promotion["energy_sources"])
        parts += [Text(f"{promotion['sentence']} It took {energy}."), Text(), _table(promotion), Text()]
    if not parts:
        return Text("Nothing is promoted yet.")
    meanings = [Text(f"{verdict}: {meaning}.", style="dim") for verdict, meaning in VERDICTS.items()]
    note = "Gains: bits per byte below the baseline [95 %], seeds paired. Runs: complete ones in the search, here."
    return Group(*parts, Text(note, style="dim"), *meanings)


def _table(promotion: Facts) -> Table:
    table = Table(pad_edge=False, box=None, header_style="dim")
    table.add_column("trial", justify="right")
    table.add_column("against the baseline")
    for name in ("gain in the search", "gain here", "gain on test", "runs"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for row in promotion["rows"]:
        gains = [gain_text(row, name) for name in ("search", "long", "test")]
        if row["trial"] == 0:  # it has no gain: what the gains are taken from
            gains = [_score(row, "search"), _score(row, "long"), "-"]
        table.add_row(
            str(row["trial"]),
            escape(row["label"]),
            *gains,
            f"{row['n_search_runs']}, {row['n_runs']}",
            Text(row["verdict"], style=VERDICT_STYLES.get(row["verdict"], "default")),
        )
    return table


def _score(row: Facts, name: str) -> str:
    if row[f"{name}_val_bpb"] is None:
        return "-"
    return f"val_bpb {row[f'{name}_val_bpb']:.4f} +- {row[f'{name}_half_interval']:.4f}"
