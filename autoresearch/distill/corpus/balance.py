"""What is left out of training: what is held out too, and what would outweigh all other answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoresearch.distill.corpus.terms import LOW, Pair, Row

ROUNDING = 1e-9  # of sums of weights


@dataclass(frozen=True)
class Leaks:
    """Training rows that are in what is held out too: with the same question and answer, or as the same change of the
    same recipe, of whichever study."""

    same_text: int
    same_change: int


def apart(train: Sequence[Row], held_out: Sequence[Row]) -> tuple[list[Row], Leaks]:
    """The training rows that do not leak, and how many did."""
    texts, changes = {_text(row) for row in held_out}, {_change(row) for row in held_out}
    leaks = Leaks(sum(_text(row) in texts for row in train), sum(_change(row) in changes for row in train))
    return [row for row in train if _text(row) not in texts and _change(row) not in changes], leaks


def distinct(rows: Iterable[Row]) -> list[Row]:
    """The first of those with the same question and answer: a trajectory may have been imported twice."""
    return list({_text(row): row for row in reversed(list(rows))}.values())[::-1]


def shares(rows: Sequence[Row]) -> dict[Pair, float]:
    """(knob, value) -> its share of all weights, that of all rows where these weigh the same; the largest first. An
    answer that changes several knobs counts for each of them in full."""
    masses = _masses(rows)
    total = sum(row.weight for row in rows)
    return {pair: masses[pair] / total for pair in sorted(masses, key=lambda pair: (-masses[pair], str(pair)))}


def balanced(rows: Sequence[Row], most_frequent: float) -> list[Row]:
    """Without as many rows as it takes for no (knob, value) to be above the share: of the most frequent one the row
    that weighs least goes first, the latest of several. A (knob, value) keeps one row, so that the share may stay
    above where there are too few of them."""
    left = dict(enumerate(rows))
    masses, total = _masses(rows), sum(row.weight for row in rows)
    while masses:
        pair = min(masses, key=lambda pair: (-masses[pair], str(pair)))
        # Those that weigh next to nothing would be lost for nothing.
        having = [n for n, row in left.items() if pair in row.pairs and row.weight > LOW]
        if masses[pair] <= most_frequent * total + ROUNDING or len(having) < 2:
            break
        gone = left.pop(min(having, key=lambda n: (left[n].weight, -n)))
        total -= gone.weight
        for each in gone.pairs:
            masses[each] -= gone.weight
    return list(left.values())


def _masses(rows: Iterable[Row]) -> dict[Pair, float]:
    masses: dict[Pair, float] = {}
    for row in rows:
        for pair in row.pairs:
            masses[pair] = masses.get(pair, 0.0) + row.weight
    return masses


def _text(row: Row) -> tuple[str, str, str]:
    return row.system, row.user, row.answer


def _change(row: Row) -> tuple[str, str]:
    return row.parent_key, row.recipe_key
