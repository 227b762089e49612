"""A race as a table: for the terminal, and as a page for a person, with its files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from autoresearch import words
from autoresearch.distill.compete import Race
from autoresearch.distill.race import Earned, Figures, PairTest, Share
from autoresearch.errors import UserError
from autoresearch.facts import to_json
from autoresearch.terminal.console import listing, say
from rails import clean

ROWS: dict[str, Callable[[Figures], str]] = {
    "states": lambda each: str(each.states),
    "valid": lambda each: _share(each.valid),
    "valid, all samples": lambda each: f"{each.valid_of_all.hits} of {each.valid_of_all.n}",
    "blocked, all samples": lambda each: _counts(each.blocked),
    "same knobs": lambda each: _share(each.one.same_knobs),
    "same knobs, mode": lambda each: _share(each.mode.same_knobs),
    "one knob or more in common": lambda each: _share(each.one.shared_knob),
    "one knob or more in common, mode": lambda each: _share(each.mode.shared_knob),
    "exact match": lambda each: _share(each.one.exact),
    "exact match, mode": lambda each: _share(each.mode.exact),
    "measured": lambda each: _share(each.earned.known),
    "earned where measured, bits per byte": lambda each: _earned(each.earned),
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
    "proposed by, all samples": lambda each: _counts(each.by),
    "seconds a proposal, median": lambda each: words.figure(each.seconds, 2),
    "joules a proposal": lambda each: (
        f"{words.figure(each.joules, 2)} ({'+'.join(each.energy_sources)})" if each.joules is not None else words.NONE
    ),
}


def show(race: Race, console: Console) -> None:
    table = listing("figure")
    for column in race.columns:
        table.add_column(Text(column.name), overflow="fold")
    for name, told in ROWS.items():
        table.add_row(Text(name), *(Text(told(column)) for column in race.columns))
    console.print(table)
    for line in [*_notes(race), *(_test(test) for test in race.tests), race.verdict]:
        say(console, line)


def markdown(race: Race) -> str:
    head = ["figure", *(column.name for column in race.columns)]
    rows = [[name, *(told(column) for column in race.columns)] for name, told in ROWS.items()]
    lines = [f"# A race on {words.count(race.teacher.states, 'held-out state')}", "", race.verdict, "", _row(head)]
    lines += ["|" + "---|" * len(head), *map(_row, rows), "", *(f"- {_plain(line)}" for line in _notes(race))]
    tests = [
        [test.measure, test.first, test.second, str(test.only_first), str(test.only_second), *_ps(test)]
        for test in race.tests
    ]
    if tests:
        columns = ["McNemar's test by", "first", "second", "only the first", "only the second", "p", "p, Holm"]
        lines += ["", _row(columns), "|" + "---|" * len(columns), *map(_row, tests)]
    return "\n".join(lines) + "\n"


def write(race: Race, out: Path) -> None:
    """race.json, race.md and race.svg in the folder `out`, which is made; files of an earlier race are replaced. Raises
    UserError where it cannot be written."""
    from autoresearch.distill.race_chart import draw  # it takes a second to load

    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".race-", dir=out) as beside:
            made = Path(beside)
            (made / "race.json").write_text(to_json(race, indent=1) + "\n", encoding="utf-8")
            (made / "race.md").write_text(markdown(race), encoding="utf-8")
            draw(race.columns, made / "race.svg")
            for file in sorted(made.iterdir()):
                file.replace(out / file.name)
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


def _share(share: Share) -> str:
    if share.share is None or share.low is None or share.high is None:
        return words.NONE
    return f"{share.hits} of {share.n} [{100 * share.low:.0f}, {100 * share.high:.0f} %]"


def _earned(earned: Earned) -> str:
    return words.gain(earned.mean, earned.low, earned.high)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or words.NONE


def _ps(test: PairTest) -> list[str]:
    return [f"{test.p:.3f}", f"{test.p_holm:.3f}"]


def _test(test: PairTest) -> str:
    p, corrected = _ps(test)
    return (
        f"{test.first} against {test.second} by {test.measure}: only the first in {test.only_first}, only the second "
        f"in {test.only_second} states, p = {p} (Holm {corrected})"
    )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_plain, cells)) + " |"


def _plain(text: str) -> str:
    """A choice of an imported menu, or what an endpoint says of an error, may hold what Markdown or HTML would read."""
    for sign in "\\|<>`*":
        text = text.replace(sign, f"\\{sign}")
    return clean(text.replace("](", "]\\("), 1000)
