"""The report as plain Markdown, for a terminal, a mail or GitHub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from autoresearch import words
from autoresearch.morning.report.facts import LongerFacts, ReportFacts, TrialRow
from autoresearch.morning.report.failures import FailureGroup
from autoresearch.morning.report.knobs import KnobFacts, ValueFacts
from autoresearch.morning.report.table import Table, table
from rails import clean

MOST_VALUES = 10
LONGEST_CELL, LONGEST_SENTENCE = 120, 1200
# What Markdown, or GitHub's dialect of it, would take for more than text. Between letters an underscore is just that.
_MARKUP = re.compile(r"[\\`*\[\]|~$#]|(?<![^\W_])_|_(?![^\W_])")
_BLOCK = re.compile(r"^(?:[>=:]|[+-](?=[\s+-]|$)|\d+(?=[.)](?:\s|$)))")
# What stands in a cell as it is: "-", "+0.0321 [+0.0100, +0.0542]", "2.8175 ± 0.0145", "1,712".
_FIGURE = re.compile(r"-|[+-]?[\d.,]+(?: ± [\d.]+)?(?: \[[+-][\d.]+, [+-][\d.]+\])?")
_LINK = re.compile(r"(https?|ftp)://|www\.", re.IGNORECASE)


def markdown(facts: ReportFacts) -> str:
    """What the page says first, from the same `facts`; tables line up as they stand. Text in the facts may be hostile:
    none of it becomes markup."""
    return "\n".join(_lines(facts)) + "\n"


def _lines(facts: ReportFacts) -> Iterator[str]:
    yield f"# {text(facts.study.name)}: report"
    status = f"{facts.study.origin}: {facts.study.status}."
    yield from _paragraphs(map(sentence, [status, *facts.headline, facts.not_this]))
    if facts.warnings:
        yield from _section("Before you trust it")
        yield from (f"- {sentence(warning)}" for warning in facts.warnings)
    yield from _section("What stands")
    yield from _table(facts.standings)
    yield from _section("What the search explored")
    yield f"- **{text(facts.verdict)}**: {sentence(facts.why)}"
    yield from (f"- {text(line.name)}: {sentence(line.text)}" for line in facts.meters)
    yield from _kept(facts)
    yield from _values(facts)
    for longer in facts.promotions:
        yield from _longer(longer)
    if facts.proposers.rows:
        yield from _section("Proposers")
        yield from _table(facts.proposers)
    yield from _failures(facts.failures)
    yield from _section("Energy and time")
    yield f"- {sentence(facts.energy)}"
    if facts.work:
        parts = "; ".join(f"{bar.part} {bar.label}" for bar in facts.work)
        yield f"- {sentence(f'{facts.worked} of work: {parts}')}"


def _kept(facts: ReportFacts) -> Iterator[str]:
    kept = [trial for trial in facts.trials if trial.outcome == "keep"]
    if not kept:
        return
    yield from _section(f"Kept trials ({len(kept)} of {len(facts.trials) - 1})")
    yield from _table(
        table(
            {
                "trial": "trial",
                "change": "text",
                "by": "text",
                text(facts.metric.column): "number",
                "runs": "number",
                "better by [95 %]": "number",
                "than trial": "trial",
                "compute": "text",
                "energy": "number",
            },
            map(_kept_row, kept),
        )
    )


def _kept_row(trial: TrialRow) -> list[str]:
    reference = words.NONE if trial.reference is None else str(trial.reference)
    start = [str(trial.number), trial.change, trial.proposer, trial.score, str(trial.n_runs)]
    energy = words.energy(trial.energy_joules, [trial.energy_source] if trial.energy_source else [])
    return [*start, trial.better, reference, trial.compute, energy]


def _values(facts: ReportFacts) -> Iterator[str]:
    """The values with the best mean effect, and the knobs that nothing is known of."""
    tried = [(knob, value) for knob in facts.knobs for value in knob.values if value.effect is not None]
    tried.sort(key=lambda found: -(found[1].effect or 0.0))
    yield from _section("Values by their mean effect")
    yield from _table(
        table(
            {
                "knob": "text",
                "value": "text",
                "proposed": "number",
                "trained": "number",
                "kept": "number",
                "better by [95 %]": "number",
            },
            (_value_row(*found) for found in tried[:MOST_VALUES]),
        )
    )
    more = len(tried) - MOST_VALUES
    left = [f"{words.count(more, 'more value is', 'more values are')} in the page."] if more > 0 else []
    yield from _paragraphs([*left, sentence(facts.untouched)])


def _value_row(knob: KnobFacts, value: ValueFacts) -> list[str]:
    return [knob.knob, value.value, str(value.proposed), str(value.trained), str(value.kept), value.better]


def _longer(longer: LongerFacts) -> Iterator[str]:
    yield from _section(text(longer.title))
    yield sentence(longer.sentence)
    yield ""
    yield from _table(longer.recipes)


def _failures(groups: Sequence[FailureGroup]) -> Iterator[str]:
    if not groups:
        return
    yield from _section("Failures")
    for group in groups:
        yield f"- {text(group.title)}, trial {words.numbers(group.trials)}{group.more}"
        yield from (f"  - {code(line)}" for line in group.lines if clean(line))


# --- pieces of Markdown ---


def text(value: str, limit: int = LONGEST_CELL) -> str:
    """Any text as one line that Markdown shows as it is: nothing in it is markup, a link, or the name of a person."""
    safe = clean(value, limit).replace("&", "&amp;").replace("<", "&lt;")
    safe = _MARKUP.sub(r"\\\g<0>", safe)
    safe = _BLOCK.sub(lambda found: found[0] + "\\" if found[0][0].isdigit() else "\\" + found[0], safe)
    safe = _LINK.sub(lambda found: found[0].replace(":", "&#58;").replace(".", "&#46;"), safe)
    return safe.replace("@", "＠")  # noqa: RUF001  GitHub would call the person whose name follows, escaped or not


def sentence(value: str) -> str:
    return text(value, LONGEST_SENTENCE)


def code(value: str) -> str:
    """Any text as one line of code: shown letter by letter."""
    line = clean(value, LONGEST_SENTENCE)
    ticks = max((len(run) for run in re.findall("`+", line)), default=0)
    fence, room = "`" * (ticks + 1), " " if ticks else ""
    return f"{fence}{room}{line}{room}{fence}"


def _section(title: str) -> list[str]:
    return ["", f"## {title}", ""]


def _paragraphs(texts: Iterable[str]) -> Iterator[str]:
    for paragraph in texts:
        yield ""
        yield paragraph


def _table(given: Table) -> Iterator[str]:
    head = [column.name for column in given.columns]
    body = [[cell if _FIGURE.fullmatch(cell) else text(cell) for cell in row] for row in given.rows]
    left = [column.kind in ("word", "text") for column in given.columns]
    widths = [max(3, *(len(row[i]) for row in [head, *body])) for i in range(len(head))]
    rule = ["-" * width if side else "-" * (width - 1) + ":" for width, side in zip(widths, left, strict=True)]
    for row in [head, rule, *body]:
        cells = zip(row, widths, left, strict=True)
        yield f"| {' | '.join(cell.ljust(n) if side else cell.rjust(n) for cell, n, side in cells)} |"
