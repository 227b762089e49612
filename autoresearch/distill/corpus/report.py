"""What a corpus is worth: its figures, what to be warned of, and whether it is too thin to teach."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median_low

from autoresearch import words
from autoresearch.distill.corpus.balance import Leaks, shares
from autoresearch.distill.corpus.rows import StudyRows
from autoresearch.distill.corpus.terms import Pair, Row, Terms
from autoresearch.proposers.lineage import estimated_tokens
from rails import clean

# The published attempt that collapsed had 42 rows.
FEWEST_ROWS = 100
# Its keeps were five: rows count by their weight.
FEWEST_EFFECTIVE_ROWS = 30
# As of eight (knob, value) that are equally frequent: fewer can be learned by heart.
LEAST_PAIR_ENTROPY = 3.0
MOST_OF_KEEPS = 0.5
FEWEST_KEEPS = 3


@dataclass(frozen=True)
class Spread:
    min: int
    median: int
    max: int


@dataclass(frozen=True)
class Part:
    """One file. effective_rows: (sum of weights)^2 / sum of their squares. Entropies in bits, over what the answers
    change, by weight. Tokens are an estimate, rather too many: of the answers, which alone are supervised, and of whole
    rows. None: there are no rows."""

    rows: int
    rows_with_variants: int
    effective_rows: float
    knob_entropy: float
    pair_entropy: float
    pairs: int
    most_frequent: str | None
    most_frequent_share: float | None
    supervised_tokens: Spread | None
    row_tokens: Spread | None


@dataclass(frozen=True)
class StudyPart:
    study: str
    imported: bool
    trials: int
    train: int
    held_out: int


@dataclass(frozen=True)
class Report:
    """left_out: why -> trials or rows. leaks_found were taken out of training; leaks_left are what remained of them.
    too_thin: why it should not be trained on; sha256: of both JSONL files, one after the other."""

    terms: Terms
    studies: list[StudyPart]
    train: Part
    held_out: Part
    train_before_balance: Part
    prompts: dict[str, int]
    left_out: dict[str, int]
    leaks_found: Leaks
    leaks_left: Leaks
    warnings: list[str]
    too_thin: list[str]
    sha256: str


def part(rows: Sequence[Row]) -> Part:
    total = sum(row.weight for row in rows)
    masses = [(pair, row.weight) for row in rows for pair in row.pairs]
    most = next(iter(shares(rows).items()), None)
    texts = [(row, user) for row in rows for user in (row.user, *row.variants)]
    whole = [sum(map(estimated_tokens, (row.system, user, row.answer))) for row, user in texts]
    return Part(
        rows=len(rows),
        rows_with_variants=len(texts),
        effective_rows=round(total**2 / sum(row.weight**2 for row in rows), 2) if rows else 0.0,
        knob_entropy=entropy((knob, mass) for (knob, _), mass in masses),
        pair_entropy=entropy(masses),
        pairs=len({pair for pair, _ in masses}),
        most_frequent=most and _said(most[0]),
        most_frequent_share=most and round(most[1], 4),
        supervised_tokens=_spread([estimated_tokens(row.answer) for row in rows]),
        row_tokens=_spread(whole),
    )


def warnings(studies: Sequence[StudyRows], before: Part, terms: Terms) -> list[str]:
    """What led others into a model that says one thing only."""
    found = []
    chosen = [pairs for study in studies for pairs in study.chosen]
    kept = [pairs for study in studies for pairs in study.kept]
    if chosen and (most := _most_common(chosen))[1] > terms.most_frequent * len(chosen):
        found.append(
            f"the searches repeated themselves: {_of(most, chosen, 'choice')} set {_said(most[0])}; a model that "
            "imitates them collapses onto it"
        )
    if len(kept) >= FEWEST_KEEPS and (most := _most_common(kept))[1] > MOST_OF_KEEPS * len(kept):
        found.append(
            f"collapse: {_of(most, kept, 'keep')} set {_said(most[0])}; a model that is trained on keeps says this "
            "whatever it is asked"
        )
    if before.most_frequent_share is not None and before.most_frequent_share > terms.most_frequent:
        found.append(
            f"{before.most_frequent} had {words.percent(before.most_frequent_share)} of the weights before rows were "
            f"left out for balance ({words.percent(terms.most_frequent)} is the most)"
        )
    return found


def too_thin(train: Part, terms: Terms) -> list[str]:
    """Why a model would not learn from it what it should; each with what to do."""
    found = []
    if train.rows < FEWEST_ROWS:
        found.append(
            f"{words.count(train.rows, 'row')} to train on, {FEWEST_ROWS} are the fewest: add studies or nights"
        )
    elif train.effective_rows < FEWEST_EFFECTIVE_ROWS:
        found.append(
            f"its weights are those of {train.effective_rows:.0f} rows, {FEWEST_EFFECTIVE_ROWS} are the fewest: add "
            "studies in which more was gained, or take another --objective"
        )
    if train.pair_entropy < LEAST_PAIR_ENTROPY:
        found.append(
            f"its answers differ by {train.pair_entropy:.1f} bits over knobs and values, {LEAST_PAIR_ENTROPY:g} are "
            "the least: add studies of other proposers"
        )
    if train.most_frequent_share is not None and train.most_frequent_share > terms.most_frequent + 1e-4:
        found.append(
            f"{train.most_frequent} still has {words.percent(train.most_frequent_share)} of the weights, "
            f"{words.percent(terms.most_frequent)} is the most: add studies that chose otherwise"
        )
    return found


def markdown(report: Report) -> str:
    """The same for a person; names of knobs and values come from menus and are safe to show."""
    terms, train, held_out = report.terms, report.train, report.held_out
    rows = [
        ("rows", str(train.rows), str(held_out.rows)),
        ("rows with variants", str(train.rows_with_variants), str(held_out.rows_with_variants)),
        ("effective rows", f"{train.effective_rows:.1f}", f"{held_out.effective_rows:.1f}"),
        ("entropy over knobs, bits", f"{train.knob_entropy:.2f}", f"{held_out.knob_entropy:.2f}"),
        (
            "entropy over (knob, value), bits",
            f"{train.pair_entropy:.2f} ({train.pairs} pairs)",
            f"{held_out.pair_entropy:.2f} ({held_out.pairs} pairs)",
        ),
        ("most frequent target", _share(train), _share(held_out)),
        ("supervised tokens a row", _tokens(train.supervised_tokens), _tokens(held_out.supervised_tokens)),
        ("tokens of a whole row", _tokens(train.row_tokens), _tokens(held_out.row_tokens)),
    ]
    lines = [
        f"# A corpus of {words.count(len(report.studies), 'study', 'studies')}: {terms.objective}",
        "",
        f"sha256 {report.sha256}",
        "",
        "| figure | train | held out |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "Tokens are an estimate (min, median, max), rather too many. A trainer's max length must be above the longest "
        "row, or the answer at its end is cut off.",
        "",
        "| study | trials | train | held out |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {each.study}{' (imported)' if each.imported else ''} | {each.trials} | {each.train} | {each.held_out} |"
        for each in report.studies
    ]
    prompts = ", ".join(f"{n} {source}" for source, n in report.prompts.items())
    leaks = report.leaks_found
    lines += ["", f"Prompts: {prompts or 'none'}."]
    lines += [
        f"Leaks into what is held out: {leaks.same_text} with the same text and {leaks.same_change} with the same "
        f"change were taken out of training; {report.leaks_left.same_text + report.leaks_left.same_change} are left."
    ]
    lines += [f"Left out: {n}, {why}." for why, n in report.left_out.items()]
    lines += [f"\n**Warning**: {warning}." for warning in report.warnings]
    lines += [f"\n**Too thin**: {reason}." for reason in report.too_thin]
    return "\n".join(lines) + "\n"


def entropy(masses: Iterable[tuple[object, float]]) -> float:
    """In bits, to four digits, of the shares that keys have of all masses."""
    sums: dict[object, float] = {}
    for key, mass in masses:
        sums[key] = sums.get(key, 0.0) + mass
    total = sum(sums.values())
    return round(-sum(mass / total * math.log2(mass / total) for mass in sums.values() if mass) + 0.0, 4)


def _spread(counts: Sequence[int]) -> Spread | None:
    return Spread(min(counts), median_low(counts), max(counts)) if counts else None


def _most_common(choices: Sequence[Sequence[Pair]]) -> tuple[Pair, int]:
    counts = Counter(pair for pairs in choices for pair in pairs)
    return min(counts.items(), key=lambda item: (-item[1], str(item[0])), default=(("", ""), 0))


def _of(most: tuple[Pair, int], among: Sequence[object], noun: str) -> str:
    return f"{most[1]} of {words.count(len(among), noun)}"


def _said(pair: Pair) -> str:
    return clean(f"{pair[0]} = {words.value(pair[1])}", 100)


def _share(part: Part) -> str:
    # A choice of an imported menu may hold what ends a cell.
    said = (part.most_frequent or "").replace("|", "\\|")
    return f"{said}: {words.percent(part.most_frequent_share)}" if part.most_frequent else "-"


def _tokens(spread: Spread | None) -> str:
    return f"{spread.min:,}, {spread.median:,}, {spread.max:,}" if spread else "-"
