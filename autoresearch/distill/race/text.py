"""A race as a table: for the terminal, and as a page for a person, with its files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from autoresearch import words
from autoresearch.distill.race import outcome_text, tables
from autoresearch.distill.race.compete import Race
from autoresearch.distill.race.figures import Earned, Figures, PairTest
from autoresearch.errors import UserError
from autoresearch.facts import to_json
from autoresearch.metric import Metric
from autoresearch.terminal.console import say

OUTCOME_CHART = "race-outcome.svg"


def show(race: Race, console: Console) -> None:
    tables.show(console, [column.name for column in race.columns], race.columns, _rows(race.metric))
    for line in [*_notes(race), *(_test(test) for test in race.tests), race.verdict]:
        say(console, line)
    if race.outcome:
        outcome_text.show(race.outcome, console)


def _rows(metric: Metric) -> dict[str, Callable[[Figures], str]]:
    return {
        "states": lambda each: str(each.states),
        "valid": lambda each: tables.share(each.valid),
        "valid, all samples": lambda each: f"{each.valid_of_all.hits} of {each.valid_of_all.n}",
        "blocked, all samples": lambda each: tables.counts(each.blocked),
        "same knobs": lambda each: tables.share(each.one.same_knobs),
        "same knobs, mode": lambda each: tables.share(each.mode.same_knobs),
        "one knob or more in common": lambda each: tables.share(each.one.shared_knob),
        "one knob or more in common, mode": lambda each: tables.share(each.mode.shared_knob),
        "exact match": lambda each: tables.share(each.one.exact),
        "exact match, mode": lambda each: tables.share(each.mode.exact),
        "measured": lambda each: tables.share(each.earned.known),
        f"earned where measured, {metric.gain_unit}": lambda each: _earned(each.earned, metric),
        "entropy over knobs, bits (uniform)": lambda each: (
            f"{each.diversity.knob_entropy:.2f} ({each.diversity.knob_entropy_uniform:.2f})"
        ),
        "entropy over (knob, value), bits (uniform)": lambda each: (
            f"{each.diversity.pair_entropy:.2f} ({each.diversity.pair_entropy_uniform:.2f})"
        ),
        "most frequent": lambda each: (
            f"{each.diversity.most_frequent}: {words.percent(each.diversity.most_frequent_share)}"
            if each.diversity.most_frequent
            else words.NONE
        ),
        "proposed by, all samples": lambda each: tables.counts(each.by),
        "seconds a proposal, median": lambda each: words.figure(each.seconds, 2),
        "joules a proposal": lambda each: (
            f"{words.figure(each.joules, 2)} ({'+'.join(each.energy_sources)})"
            if each.joules is not None
            else words.NONE
        ),
    }


def markdown(race: Race) -> str:
    lines = [f"# A race on {words.count(race.teacher.states, 'held-out state')}", "", race.verdict, ""]
    lines += tables.markdown([column.name for column in race.columns], race.columns, _rows(race.metric))
    lines += ["", *(f"- {tables.plain(line)}" for line in _notes(race))]
    tests = [
        [test.measure, test.first, test.second, str(test.only_first), str(test.only_second), *_ps(test)]
        for test in race.tests
    ]
    if tests:
        columns = ["McNemar's test by", "first", "second", "only the first", "only the second", "p", "p, Holm"]
        lines += ["", *tables.plain_table(columns, tests)]
    if race.outcome:
        lines += ["", *outcome_text.markdown(race.outcome)]
    return "\n".join(lines) + "\n"


def write(race: Race, out: Path) -> None:
    """race.json, race.md, race.svg and, of an outcome, race-outcome.svg in the folder `out`, which is made; files of an
    earlier race are replaced. Raises UserError where it cannot be written."""
    from autoresearch.distill.race.chart import draw
    from autoresearch.distill.race.outcome_chart import draw as draw_outcome  # they take a second to load

    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".race-", dir=out) as beside:
            made = Path(beside)
            (made / "race.json").write_text(to_json(race, indent=1) + "\n", encoding="utf-8")
            (made / "race.md").write_text(markdown(race), encoding="utf-8")
            draw(race.columns, made / "race.svg", race.metric)
            if race.outcome:
                draw_outcome(race.outcome, made / OUTCOME_CHART)
            for file in sorted(made.iterdir()):
                file.replace(out / file.name)
            if not race.outcome:  # one of an earlier race
                (out / OUTCOME_CHART).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}): name another folder with --out"
        ) from None


def _notes(race: Race) -> list[str]:
    lines = [
        f"Each state is what was known before one of the latest {words.percent(race.hold_out)} of the trials of "
        f"{', '.join(race.studies)}; {words.count(race.samples, 'sample')} of each, by seeds of their own (--seed "
        f"{race.seed}). Shares are of the first sample or, as mode, of the change that most samples made; with 95 % "
        "intervals.",
        "teacher: what the study proposed there, once. "
        + ("teacher again: the same proposer with other seeds." if race.again else "It cannot be asked again."),
    ]
    return lines + [f"{column.name}: {note}" for column in race.columns for note in column.notes]


def _earned(earned: Earned, metric: Metric) -> str:
    return words.gain(earned.mean, earned.low, earned.high, metric)


def _ps(test: PairTest) -> list[str]:
    return [f"{test.p:.3f}", f"{test.p_holm:.3f}"]


def _test(test: PairTest) -> str:
    p, corrected = _ps(test)
    return (
        f"{test.first} against {test.second} by {test.measure}: only the first in {test.only_first}, only the second "
        f"in {test.only_second} states, p = {p} (Holm {corrected})"
    )
