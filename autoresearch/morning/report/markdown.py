"""The report as plain Markdown, for a terminal, a mail or GitHub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from autoresearch import words
from autoresearch.evidence.meters import Meters
from autoresearch.terminal.meters import meter_lines
from autoresearch.workers.energy import JOULES_PER_KWH
from rails import clean

Facts = Mapping[str, Any]

MOST_VALUES = 10
LONGEST_CELL, LONGEST_SENTENCE = 120, 1200
_METERS = TypeAdapter(Meters)
# What Markdown, or GitHub's dialect of it, would take for more than text. Between letters an underscore is just that.
_MARKUP = re.compile(r"[\\`*\[\]|~$#]|(?<![^\W_])_|_(?![^\W_])")
_BLOCK = re.compile(r"^(?:[>=:]|[+-](?=[\s+-]|$)|\d+(?=[.)](?:\s|$)))")
_LINK = re.compile(r"(https?|ftp)://|www\.", re.IGNORECASE)


def markdown(facts: Facts) -> str:
    """What the page says first, from the same `facts`; tables line up as they stand. Text in the facts may be hostile:
    none of it becomes markup."""
    return "\n".join(_lines(facts)) + "\n"


def _lines(facts: Facts) -> Iterator[str]:
    yield f"# {text(facts['study']['name'])}: report"
    yield from _paragraphs([_status(facts), *map(sentence, [*facts["headline"], facts["not_this"]])])
    if facts["warnings"]:
        yield from _section("Before you trust it")
        yield from (f"- {sentence(warning)}" for warning in facts["warnings"])
    yield from _section("What stands")
    yield from _table(
        ("recipe", "trial", "val_bpb ± 95 %", "runs", "test_bpb ± 95 %", "runs"), "lrrrrr", map(_standing, _two(facts))
    )
    yield from _section("What the search explored")
    meters = _METERS.validate_python(facts["meters"])
    yield f"- **{text(meters.verdict)}**: {sentence(meters.why)}"
    yield from (f"- {text(line.name)}: {sentence(line.text)}" for line in meter_lines(meters))
    yield from _kept(facts)
    yield from _coverage(facts["coverage"])
    for longer in facts["promotions"]:
        yield from _promotion(longer)
    yield from _proposers(facts["proposers"])
    yield from _failures(facts["failures"])
    yield from _energy(facts)


def _status(facts: Facts) -> str:
    study, trials = facts["study"], facts["trials"]
    if study["imported"]:
        how = f"imported from {text(study['imported']['file'])} ({text(study['imported']['format'])})"
    elif study["running"]:
        how = "paused" if study["control"] == "pause" else f"running, {len(study['in_flight'])} runs in flight"
    else:
        how = "not running"
    when = f"As of {text(study['as_of'])}: " if study["as_of"] else ""
    parts = [f"{when}{len(trials) - 1} trials", *map(text, filter(None, [study["budget"], *study["devices"]])), how]
    return ", ".join(parts) + "."


def _two(facts: Facts) -> list[tuple[str, Facts]]:
    baseline, incumbent = facts["baseline"], facts["incumbent"]
    return [("baseline", baseline)] + ([("best", incumbent)] if incumbent["trial"] != baseline["trial"] else [])


def _standing(named: tuple[str, Facts]) -> list[str]:
    name, found = named
    return [
        name,
        str(found["trial"]),
        _score(found["val_bpb"], found["val_bpb_half_interval"]),
        str(found["n_runs"]),
        _score(found["test_bpb"], found["test_bpb_half_interval"]),
        str(found["n_test_runs"]),
    ]


def _kept(facts: Facts) -> Iterator[str]:
    kept = [trial for trial in facts["trials"] if trial["outcome"] == "keep"]
    if not kept:
        return
    yield from _section(f"Kept trials ({len(kept)} of {len(facts['trials']) - 1})")
    yield from _table(
        ("trial", "change", "by", "val_bpb ± 95 %", "runs", "better by [95 %]", "than trial", "energy"),
        "rllrrrrr",
        (
            [
                str(trial["number"]),
                text(trial["change"]),
                text(trial["proposer"]),
                _score(trial["val_bpb"], None if trial["low"] is None else (trial["high"] - trial["low"]) / 2),
                str(trial["n_runs"]),
                _gain(trial["improvement"], trial["improvement_low"], trial["improvement_high"]),
                "-" if trial["reference"] is None else str(trial["reference"]),
                _joules(trial),
            ]
            for trial in kept
        ),
    )


def _coverage(rows: Sequence[Facts]) -> Iterator[str]:
    """The values with the best mean effect, and the knobs that nothing is known of."""
    tried = sorted((row for row in rows if row["effect"] is not None), key=lambda row: -row["effect"])
    untouched = [text(row["knob"]) for row in rows if row["value"] is None]
    if not rows:
        return
    yield from _section("Values by their mean effect")
    yield from _table(
        ("knob", "value", "proposed", "trained", "kept", "better by [95 %]"),
        "llrrrr",
        (
            [
                text(row["knob"]),
                text(row["value"]),
                *(str(row[name]) for name in ("proposed", "trained", "kept")),
                _gain(row["effect"], row["low"], row["high"]),
            ]
            for row in tried[:MOST_VALUES]
        ),
    )
    left = [f"{len(tried) - MOST_VALUES} more values are in the page."] if len(tried) > MOST_VALUES else []
    yield from _paragraphs([*left, *([f"Never turned: {', '.join(untouched)}."] if untouched else [])])


def _promotion(longer: Facts) -> Iterator[str]:
    yield from _section(f"At {longer['factor']:g} times the budget")
    yield sentence(longer["sentence"])
    yield ""
    yield from _table(
        ("trial", "recipe", "gain in the search [95 %]", "gain here [95 %]", "verdict"),
        "rlrrl",
        (
            [
                str(row["trial"]),
                text(row["label"]),
                words.gain(row["search_gain"], row["search_low"], row["search_high"]),
                words.gain(row["long_gain"], row["long_low"], row["long_high"]),
                text(row["verdict"]),
            ]
            for row in longer["rows"]
        ),
    )


def _proposers(rows: Sequence[Facts]) -> Iterator[str]:
    if not rows:
        return
    yield from _section("Proposers")
    yield from _table(
        (
            "proposer",
            "model",
            "proposals",
            "blocked",
            "failed",
            "kept",
            "gain",
            "a trial",
            "a kWh",
            "latency s",
            "tokens",
        ),
        "llrrrrrrrrr",
        (
            [
                text(row["name"]),
                text(row["model"]) if row["model"] else "-",
                *(str(row[name]) for name in ("proposals", "blocked", "failed", "kept")),
                _score(row["gain"], row["gain_half_interval"]),
                *(_figure(row[name], ".3g") for name in ("gain_per_trial", "gain_per_kwh")),
                _figure(row["latency_seconds"], ".2g"),
                _figure(row["tokens"], ",d"),
            ]
            for row in rows
        ),
    )


def _failures(rows: Sequence[Facts]) -> Iterator[str]:
    if not rows:
        return
    yield from _section("Failures")
    for row in rows:
        named = ", ".join(map(str, row["trials"][:MOST_VALUES]))
        more = f" and {len(row['trials']) - MOST_VALUES} more" if len(row["trials"]) > MOST_VALUES else ""
        yield f"- {text(row['kind'])}: {row['count']} {'run' if row['count'] == 1 else 'runs'}, trial {named}{more}"
        yield from (f"  - {code(line)}" for line in row["lines"] if clean(line))


def _energy(facts: Facts) -> Iterator[str]:
    trials = facts["trials"]
    sources = sorted({source for trial in trials for source in (trial["energy_source"] or "").split("+") if source})
    yield from _section("Energy and time")
    if sources:
        study, kwh = facts["study"], trials[-1]["kwh"]
        each = [trial["energy_joules"] for trial in trials if trial["energy_joules"] is not None]
        yield (
            f"- {words.energy(kwh * JOULES_PER_KWH, map(text, sources))}, "
            f"{kwh * study['price_per_kwh']:.2g} {text(study['currency'])} at {study['price_per_kwh']:g} a kWh; "
            f"{sum(each) / len(each) / 3600:.2g} Wh a trial, over {len(each)} trials"
        )
    else:
        yield "- no energy was recorded"
    total = sum(part["seconds"] for part in facts["wall"])
    if total:
        shares = [f"{text(part['part'])} {100 * part['seconds'] / total:.0f} %" for part in facts["wall"]]
        yield f"- {total / 3600:.2g} hours of work: {', '.join(shares)}"


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


def _table(head: Sequence[str], sides: str, rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Cells are Markdown already; `sides` has l or r for each column."""
    body = [list(row) for row in rows]
    widths = [max(3, *(len(row[i]) for row in [head, *body])) for i in range(len(head))]
    rule = ["-" * width if side == "l" else "-" * (width - 1) + ":" for width, side in zip(widths, sides, strict=True)]
    for row in [head, rule, *body]:
        cells = zip(row, widths, sides, strict=True)
        yield f"| {' | '.join(cell.ljust(n) if side == 'l' else cell.rjust(n) for cell, n, side in cells)} |"


def _score(value: float | None, half: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if half is None else f"{value:.4f} ± {half:.4f}"


def _gain(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:+.4f}" if low is None else f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def _joules(trial: Facts) -> str:
    if trial["energy_joules"] is None:
        return "-"
    return words.energy(trial["energy_joules"], [text(trial["energy_source"] or "")])


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
