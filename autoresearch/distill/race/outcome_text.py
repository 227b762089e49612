"""The outcome of a race as tables: for the terminal, and as a part of its page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from autoresearch import words
from autoresearch.distill.race import tables
from autoresearch.distill.race.searches import REAL, Found, Mean
from autoresearch.metric import VAL_BPB, Metric
from autoresearch.terminal.console import say

if TYPE_CHECKING:
    from autoresearch.distill.race.outcome import Outcome

Rows = dict[str, Callable[[Found], str]]


def show(outcome: Outcome, console: Console) -> None:
    for title, found, rows in _parts(outcome):
        say(console, f"\n{title}")
        tables.show(console, [each.proposer for each in found], found, rows)
    for line in [*_notes(outcome), outcome.verdict]:
        say(console, line)


def markdown(outcome: Outcome) -> list[str]:
    """Lines."""
    lines = ["## Whole searches", "", tables.plain(outcome.verdict)]
    for title, found, rows in _parts(outcome):
        lines += ["", f"### {title}", "", *tables.markdown([each.proposer for each in found], found, rows)]
    return [*lines, "", *(f"- {tables.plain(line)}" for line in _notes(outcome))]


def _parts(outcome: Outcome) -> Iterator[tuple[str, list[Found], Rows]]:
    for world in dict.fromkeys(each.world for each in outcome.found):
        found = [each for each in outcome.found if each.world == world]
        title = "Real runs, n = 1 night each" if world == REAL else f"Surrogate: {world}"
        yield title, found, _rows(outcome, outcome.metric_in(world), list(found[0].best))


def _rows(outcome: Outcome, metric: Metric, marks: list[int]) -> Rows:
    teacher = outcome.teacher
    return {
        **{f"{metric.name} after {words.count(runs, 'run')}": _after(runs, metric) for runs in marks},
        f"runs to the level of {teacher}": _to_teacher,
        f"better than {teacher}, {metric.gain_unit}": lambda each: _gain(each.gain, metric),
        "p": lambda each: words.NONE if each.p is None else f"{each.p:.3f}",
        "failed": lambda each: tables.share(each.failed),
        "blocked": lambda each: tables.share(each.blocked),
        f"entropy over (knob, bucket), bits (of that of {teacher})": lambda each: (
            f"{each.entropy:.2f} ({words.percent(each.of_teachers)})"
        ),
        "proposed by": lambda each: tables.counts(each.by),
    }


def _after(runs: int, metric: Metric) -> Callable[[Found], str]:
    return lambda each: _mean(each.best[runs], metric)


def _mean(found: Mean | None, metric: Metric) -> str:
    if found is None:
        return words.NONE
    return words.plus_minus(found.mean, None if found.high is None else found.high - found.mean, metric)


def _gain(found: Mean | None, metric: Metric = VAL_BPB) -> str:
    return words.gain(None) if found is None else words.gain(found.mean, found.low, found.high, metric)


def _to_teacher(each: Found) -> str:
    if each.never is None:
        return words.NONE
    runs = "never" if each.to_teacher is None else str(each.to_teacher)
    return f"{runs} (never in {each.never} of {each.nights})"


def _notes(outcome: Outcome) -> list[str]:
    lines = []
    if outcome.nights:
        lines.append(
            f"Each proposer had the same {words.count(outcome.nights, 'night')} of {words.count(outcome.runs, 'run')} "
            "on each surrogate, through the study loop with one worker; val_bpb is the true one of what would be "
            "handed over, with 95 % intervals over nights."
        )
    if outcome.real_runs:
        lines.append(f"Real runs: {outcome.metric.name} is the mean over the runs of what was the incumbent then.")
    lines.append(
        f"The level of {outcome.teacher} is its mean after all runs; told is the median night. Differences are paired "
        "by night, p is Wilcoxon's; a bucket is a tenth of a knob's range on its scale, or a choice."
    )
    lines += [
        f"{lead.proposer} against {outcome.teacher} on the mean over surrogates: {_gain(lead.gain)} bits per byte, "
        f"p = {lead.p:.3f} (Holm {lead.p_holm:.3f})"
        for lead in outcome.leads
    ]
    return lines + outcome.notes
