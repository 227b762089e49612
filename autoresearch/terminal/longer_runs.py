"""What longer runs say, as a person reads it in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from autoresearch import words
from autoresearch.evidence.longer_runs import VERDICTS, LongerRow, LongerRuns
from autoresearch.metric import VAL_BPB, Metric
from autoresearch.terminal.console import listing

VERDICT_STYLES = {"held": "bold green", "shrank": "yellow", "lost": "red", "diverged": "red", "not measured": "red"}
NUMBERS = ("gain in the search", "gain here", "gain on test")


def longer_runs_view(found: Sequence[LongerRuns], metric: Metric = VAL_BPB) -> RenderableType:
    """For each longer budget: what it says in words, and a line for each recipe."""
    parts: list[RenderableType] = []
    for longer in found:
        energy = words.energy(longer.energy_joules, longer.energy_sources)
        parts += [Text(f"{longer.sentence} It took {energy}."), Text(), _table(longer, metric), Text()]
    if not parts:
        return Text("Nothing is promoted yet.")
    meanings = [Text(f"{verdict}: {meaning}.", style="dim") for verdict, meaning in VERDICTS.items()]
    note = (
        f"Gains: {words.gains_are(metric)} the baseline [95 %], seeds paired. Runs: complete ones in the search, here."
    )
    return Group(*parts, Text(note, style="dim"), *meanings)


def _table(longer: LongerRuns, metric: Metric) -> Table:
    numbers = NUMBERS if metric.has_test else NUMBERS[:-1]
    columns = ("trial", "against the baseline", *numbers, "runs", "verdict")
    table = listing(*columns, right=("trial", *numbers, "runs"))
    for row in longer.rows:
        table.add_row(
            str(row.trial),
            escape(row.label),
            *_figures(row, metric)[: len(numbers)],
            f"{row.n_search_runs}, {row.n_runs}",
            Text(row.verdict, style=VERDICT_STYLES.get(row.verdict, "default")),
        )
    return table


def _figures(row: LongerRow, metric: Metric) -> tuple[str, str, str]:
    if row.trial == 0:  # it has no gain: what the gains are taken from
        search = words.plus_minus(row.search_val_bpb, row.search_half_interval, metric)
        return search, words.plus_minus(row.long_val_bpb, row.long_half_interval, metric), words.NONE
    return row.in_the_search(metric), row.for_longer(metric), row.on_the_test_text(metric)
