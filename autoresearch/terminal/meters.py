"""The exploration meters in words, for the terminal and for the report alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from autoresearch import words
from autoresearch.evidence.meters import Meters, PairCount
from autoresearch.evidence.proposers import ProposerRecord
from autoresearch.evidence.sentences import verdicts
from autoresearch.evidence.shares import Average, Share
from autoresearch.evidence.student import RaceShown, StudentRecord
from autoresearch.metric import Metric
from autoresearch.proposers.share import OPTIMIZER
from rails import clean

VERDICT_STYLES = {"researching": "green", "narrowing": "yellow", "flailing": "bold red"}
MOST_NAMED = 3


@dataclass(frozen=True)
class MeterLine:
    """One meter: its name, its value, and what the value says; the note may be empty."""

    name: str
    value: str
    note: str

    @property
    def text(self) -> str:
        return f"{self.value}, {self.note}" if self.note else self.value


def meters_view(meters: Meters) -> RenderableType:
    """The verdict first."""
    verdict = Text(f"{meters.verdict}: {meters.why}", style=VERDICT_STYLES[meters.verdict])
    table = Table.grid(padding=(0, 2))
    for style in ("dim", "default", "default"):
        table.add_column(style=style)
    for line in meter_lines(meters):
        table.add_row(*(escape(clean(cell, 600)) for cell in (line.name, line.value, line.note)))
    contexts = [Text(clean(sentence, 600)) for sentence in meters.longer_contexts]
    return Group(verdict, Text(), table, *([Text(), *contexts] if contexts else []))


def meter_lines(m: Meters) -> Iterator[MeterLine]:
    """All that there is something to tell of, in the order of a person's questions. Values of knobs may be hostile."""
    metric = m.metric
    yield MeterLine("proposals", f"{m.proposals:,}", f"{m.trained} trained, {m.blocked} blocked, {m.failed} failed")
    untouched = f"never turned: {', '.join(m.untouched)}" if m.untouched else "all of the menu"
    yield MeterLine("knobs turned", f"{m.knobs_touched} of {m.knobs_on_menu}", untouched)
    yield MeterLine("different ideas", f"{m.unique_pairs:,}", "pairs of knob and value")
    if m.repeat_rate is not None:
        by_tens = ", ".join(words.percent(window.repeat_rate) for window in m.windows)
        note = f"{m.repeats} of {words.count(m.proposals, 'proposal')} asked for what had been asked before; by tens"
        yield MeterLine("repeats", words.percent(m.repeat_rate), f"{note} {by_tens}")
    if m.most_proposed and m.most_proposed.count > 1:
        yield MeterLine("asked for most", _pair(m.most_proposed), _times(m.most_proposed))
    if m.most_kept:
        yield MeterLine("kept most", _pair(m.most_kept), _times(m.most_kept))
    if m.keep_rate is not None:
        kept = f"{m.kept} of {words.count(m.trained, 'trained change')}"
        yield MeterLine("keep rate", words.percent(m.keep_rate), kept)
    if m.first_keep is not None:
        yield MeterLine("first keep", f"trial {m.first_keep}", f"the best in trial {m.best_keep}")
    yield MeterLine("plateau", words.count(m.plateau, "trial"), "since a keep was the best so far")
    if m.blocked_by_rail:
        rails = ", ".join(f"{rail} {n}" for rail, n in sorted(m.blocked_by_rail.items()))
        yield MeterLine("blocked", f"{m.blocked:,}", f"by rail: {rails}")
    if m.run_deviation is not None:
        spare = words.count(m.run_deviation_dof, "repeated run")
        deviation = words.difference(m.run_deviation, metric=metric)
        yield MeterLine("run to run", f"± {deviation}", f"one recipe's runs deviate by this, from {spare}")
    if m.gain is not None:
        per_kwh = f"; {words.figure(m.gain_per_kwh)} per kWh" if m.gain_per_kwh is not None else ""
        yield MeterLine("gain", words.difference(m.gain, m.gain_half_interval, metric), f"{metric.gain_unit}{per_kwh}")
    if m.best_observed is not None:
        luck = words.difference(m.luck, m.luck_half_interval, metric)
        yield MeterLine(f"luck in the {metric.best} number", luck, _luck(m))
    if m.forecasts:
        order = m.forecast_rank_correlation
        off = words.difference(m.forecast_error, metric=metric)
        note = f"went the way that was expected, {off} off on average"
        ranked = f", rank correlation {order:+.2f}" if order is not None else ""
        yield MeterLine("forecasts", f"{m.forecasts_right} of {m.forecasts}", note + ranked)
    for record in m.proposers if len(m.proposers) > 1 else []:
        yield MeterLine(f"by {record.name}", words.count(record.proposals, "proposal"), _earned(record, metric))
    if m.student:
        yield from _student(m.student, metric)
    if m.judged_both_ways:
        more = len(m.judged_both_ways) - MOST_NAMED
        named = "; ".join(map(verdicts, m.judged_both_ways[:MOST_NAMED])) + (f"; and {more} more" if more > 0 else "")
        yield MeterLine("judged both ways", words.count(len(m.judged_both_ways), "recipe"), named)


def _student(of: StudentRecord, metric: Metric) -> Iterator[MeterLine]:
    """What was taught, in its night and in its race."""
    race = of.race
    raced = f"; in its race {_share(race.valid)}{_noise(of.valid_as_raced)}" if race and race.valid else ""
    yield MeterLine(f"{of.name} was valid", _share(of.valid), f"of its proposals passed the rails{raced}")
    optimizers = f", {_average(of.optimizers, metric)} by {OPTIMIZER}" if of.optimizers.n else ""
    raced = f"; in its race {_average(race.earned, metric)}{_noise(of.earned_as_raced)}" if race and race.earned else ""
    note = f"{metric.gain_unit} a proposal that was measured{optimizers}{raced}"
    yield MeterLine(f"{of.name} earned", _average(of.earned, metric), note)
    if race is None:
        yield MeterLine("its race", "none to compare with", f"{of.folder} holds no race.json that can be read")
    else:
        yield MeterLine("its race", "won" if race.won else "not won", _searched(of, race))


def _searched(of: StudentRecord, race: RaceShown) -> str:
    if race.ahead is None or race.nights is None or race.runs is None:
        return f"{of.form} had no whole searches in it, without which nobody wins"
    gain = words.gain(race.ahead.mean, race.ahead.low, race.ahead.high)
    nights = f"{words.count(race.nights, 'simulated night')} of {words.count(race.runs, 'run')}"
    return f"{of.form} against {race.teacher}, its teacher: {gain} bits per byte at the end of {nights}"


def _share(of: Share) -> str:
    return words.share(of.hits, of.n, of.low, of.high)


def _average(of: Average, metric: Metric) -> str:
    return f"{words.gain(of.mean, of.low, of.high, metric)} (n = {of.n})" if of.n else f"{words.NONE} (n = 0)"


def _noise(is_within: bool | None) -> str:
    return "" if is_within is None else f", the difference {'within' if is_within else 'beyond'} noise"


def _earned(record: ProposerRecord, metric: Metric) -> str:
    """What one proposer's ideas came to."""
    parts = [f"{record.kept} kept", f"gain {words.difference(record.gain, record.gain_half_interval, metric)}"]
    for each, of in (
        (words.difference(record.gain_per_trial, metric=metric), "trial"),
        (words.figure(record.gain_per_kwh), "kWh"),
        (words.figure(record.gain_per_second), "second asked"),
    ):
        parts += [f"{each} a {of}"] if each != words.NONE else []
    parts += [f"asking took {words.energy(record.energy_joules)}"] if record.energy_joules is not None else []
    return ", ".join(parts)


def _pair(pair: PairCount) -> str:
    return f"{pair.knob} = {pair.value}"


def _times(pair: PairCount) -> str:
    return f"{words.count(pair.count, 'time')}, {words.percent(pair.share)} of all"


def _luck(m: Meters) -> str:
    best = f"{words.bpb(m.best_observed, m.metric)}, one run of trial {m.best_observed_trial}"
    if m.luck is None:
        return f"{best}; its recipe was run once, so nobody knows how much of it is luck"
    others = words.count(m.best_recipe_runs - 1, "other run")
    return f"{best}, against {words.bpb(m.other_runs_mean, m.metric)}, the mean of its recipe's {others}"
