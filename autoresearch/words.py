"""The one voice: how a number, an interval, an energy, a duration, a count, an outcome and a change are worded.

The terminal, the report, git's messages and the prompt all speak with it. Scores are as they are kept; a study's metric
turns them into what a person reads, and names them: without one they are val_bpb in bits per byte. What comes from a
model is cleaned here; where it is shown it is still set as text, never as markup.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from autoresearch.metric import VAL_BPB, Metric, decimals_of
from autoresearch.trial import Recipe, Value
from rails import clean

# Stands where there is nothing to tell.
NONE = "-"
# Of a study, or a sweep, that asks for speed before it asks for one number a seed.
NOT_REPEATABLE = "numbers do not repeat (repeatable = false)"
JOULES_PER_WATT_HOUR = 3600.0
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")
# Two runs whose FLOPs differ by less spent the same: budgets are cut to whole steps.
SAME_COMPUTE = 0.01
# Of a score, before it is shown with a power of ten; and of a gain, before it is taken for a slip.
MOST_DECIMALS, MOST_DIGITS = 8, 7


def bpb(score: float | None, metric: Metric = VAL_BPB) -> str:
    """ "2.8175", "93.210 %"."""
    return plus_minus(score, None, metric)


def nats(loss: float) -> str:
    """ "0.5731": a loss, in nats per token."""
    return f"{loss:.4f}"


def plus_minus(value: float | None, half_interval: float | None, metric: Metric = VAL_BPB) -> str:
    """ "2.8175 ± 0.0145": a score, with half of its 95 % interval and its unit."""
    return (
        NONE if value is None else f"{difference(metric.turned(value), half_interval, metric)} {metric.unit}".rstrip()
    )


def difference(value: float | None, half_interval: float | None = None, metric: Metric = VAL_BPB) -> str:
    """ "0.0321 ± 0.0145": a gain whose direction is told in words, a deviation, what luck was worth."""
    if value is None:
        return NONE
    half = "" if half_interval is None else f" ± {_number(half_interval, metric)}"
    return f"{_number(value, metric)}{half}"


def exact(score: float, metric: Metric = VAL_BPB) -> str:
    """ "2.817512": a score for programs to read, without its unit."""
    return _number(metric.turned(score), metric, more=2)


def _number(value: float, metric: Metric, sign: str = "", more: int = 0) -> str:
    """With the metric's decimals; with a power of ten where these are many."""
    decimals = (decimals_of(value) if metric.decimals is None else metric.decimals) + more
    if value and decimals > MOST_DECIMALS + more:
        return f"{value:{sign}.{max(0, decimals + math.floor(math.log10(abs(value))))}e}"
    return f"{value:{sign}.{decimals}f}"


def score(value: float | None, half_interval: float | None, n_runs: int, metric: Metric = VAL_BPB) -> str:
    """ "2.8175 ± 0.0145 (11 runs)"."""
    return NONE if value is None else f"{plus_minus(value, half_interval, metric)} ({count(n_runs, 'run')})"


def column(metric: Metric) -> str:
    """ "val_bpb ± 95 %": above a column of scores with their intervals."""
    return f"{metric.name} ± 95 %"


def gains_are(metric: Metric) -> str:
    """ "bits per byte below": what a gain counts, before what it is against."""
    return f"{metric.gain_unit} {'above' if metric.higher_is_better else 'below'}"


def gain(value: float | None, low: float | None = None, high: float | None = None, metric: Metric = VAL_BPB) -> str:
    """ "+0.0321 [+0.0100, +0.0542]": positive is better. Without the interval where none is known."""
    if value is None:
        return NONE
    if metric.decimals is not None and abs(value) >= 10 ** (MOST_DIGITS - metric.decimals):  # a model's slip
        return f"{value:+.3g}"
    shown = [_number(part, metric, "+") for part in (value, low, high) if part is not None]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if len(shown) == 3 else shown[0]


def improvement(value: float, low: float | None = None, high: float | None = None, metric: Metric = VAL_BPB) -> str:
    """ "better by +0.0321 [+0.0100, +0.0542]", "worse by +0.0500"; where the interval holds 0: "not surely better:
    -0.0035 [-0.0475, +0.0404]"."""
    if low is None or high is None:
        return f"{'better' if value >= 0 else 'worse'} by {gain(abs(value), metric=metric)}"
    if low <= 0 <= high:
        return f"not surely better: {gain(value, low, high, metric)}"
    if value > 0:
        return f"better by {gain(value, low, high, metric)}"
    return f"worse by {gain(-value, -high, -low, metric)}"


def percent(share: float | None) -> str:
    """ "72 %"; small shares with a digit more."""
    return NONE if share is None else f"{100 * share:.{1 if 0 < abs(share) < 0.1 else 0}f} %"


def share(hits: int, n: int, low: float | None, high: float | None) -> str:
    """With its interval: "39 of 41 [84, 99 %]"."""
    return NONE if low is None or high is None else f"{hits:,} of {n:,} [{100 * low:.0f}, {100 * high:.0f} %]"


def figure(value: float | None, digits: int = 3) -> str:
    """So many significant digits at least, zeros too, and never 1e+04: "0.0300", "21,382"."""
    if value is None:
        return NONE
    return f"{value:#.{digits}g}".removesuffix(".") if abs(value) < 10**digits - 0.5 else f"{value:,.0f}"


def count(n: int, noun: str, many: str | None = None) -> str:
    """ "1 trial", "2 trials", "1,712 trials"; `many` where an s does not do: count(2, "change was", "changes were")."""
    return f"{n:,} {plural(n, noun, many)}"


def plural(n: int, noun: str, many: str | None = None) -> str:
    return noun if n == 1 else many or f"{noun}s"


def run(trial: int, seed: int) -> str:
    """ "trial 3 seed 1"."""
    return f"trial {trial} seed {seed}"


def ending(score: float | None, outcome: str, message: str, metric: Metric = VAL_BPB) -> str:
    """ "val_bpb 2.8115", "diverged: loss is NaN": what came of a run."""
    return f"{state(outcome)}: {message}" if score is None else f"{metric.name} {bpb(score, metric)}"


def numbers(found: Iterable[int]) -> str:
    """ "1, 2, 5"."""
    return ", ".join(map(str, found))


def energy(joules: float | None, sources: Iterable[str] = ()) -> str:
    """ "1.48 Wh (estimate)": always with where it comes from, if anybody knows."""
    if joules is None:
        return NONE
    watt_hours = joules / JOULES_PER_WATT_HOUR
    amount = f"{figure(watt_hours / 1000)} kWh" if watt_hours >= 1000 else f"{figure(watt_hours)} Wh"
    return f"{amount} ({'+'.join(found)})" if (found := list(sources)) else amount


def money(amount: float, currency: str) -> str:
    """ "12.30 EUR"; what would round to nothing says so."""
    return f"{amount:,.2f} {currency}" if amount == 0 or amount >= 0.01 else f"under 0.01 {currency}"


def costs(energy: float | None, tokens: float | None, currency: str) -> str:
    """ "12.30 EUR" of energy; with what a language model's tokens cost "12.80 EUR (energy 12.30 EUR, tokens 0.50 EUR)";
    None: not known, or nothing that has a price."""
    if tokens is None:
        return NONE if energy is None else money(energy, currency)
    if energy is None:
        return f"{money(tokens, currency)} (tokens)"
    parts = f"energy {money(energy, currency)}, tokens {money(tokens, currency)}"
    return f"{money(energy + tokens, currency)} ({parts})"


def duration(seconds: float | None) -> str:
    """ "12 s", "3.2 min", "1.5 h"."""
    if seconds is None:
        return NONE
    if seconds < 90:
        return f"{figure(seconds, 2)} s"
    return f"{figure(seconds / 60, 2)} min" if seconds < 90 * 60 else f"{figure(seconds / 3600)} h"


def moment(iso: str) -> str:
    """ "2026-11-21 06:12 UTC", from a moment in UTC as the database has it."""
    return f"{iso[:10]} {iso[11:16]} UTC"


def size(n_bytes: float | None) -> str:
    """ "512 MiB", "1.5 GiB"."""
    if n_bytes is None:
        return NONE
    return f"{figure(n_bytes / 2**30)} GiB" if n_bytes >= 2**30 else f"{figure(n_bytes / 2**20)} MiB"


def budget(of_a_run: Mapping[str, float]) -> str:
    """ "200,000 tokens a run", "2.4 PFLOP a run"."""
    ((unit, amount),) = of_a_run.items()
    if unit == "flops":
        scaled, name = _scaled(amount)
        return f"{scaled:g} {name} a run"
    return f"{amount:,g} {unit} a run" if unit == "seconds" else f"{amount:,} {unit} a run"


def flops(amount: float | None) -> str:
    """ "2.40 PFLOP": floating-point operations, in all and not per second."""
    if amount is None:
        return NONE
    scaled, name = _scaled(amount)
    return f"{figure(scaled)} {name}"


def _scaled(amount: float) -> tuple[float, str]:
    """2.4e15 -> 2.4, "PFLOP"."""
    thousands = min(len(PREFIXES) - 1, (len(f"{amount:.0f}") - 1) // 3)
    return amount / 1000**thousands, f"{PREFIXES[thousands]}FLOP"


def compute(tokens: float | None, of_flops: float | None) -> str:
    """ "198,656 tokens, 1.37 TFLOP": what one run took, as far as it is told."""
    told = [f"{tokens:,.0f} tokens"] if tokens is not None else []
    return ", ".join([*told, *([flops(of_flops)] if of_flops is not None else [])]) or NONE


def spending(ratio: float | None) -> str:
    """ "same compute", "1.37 x the FLOPs of its parent": of a trial's run."""
    if ratio is None:
        return NONE
    return "same compute" if abs(ratio - 1) < SAME_COMPUTE else f"{times(ratio)} the FLOPs of its parent"


def times(ratio: float) -> str:
    """ "1.37 x"; what whole steps alone make is "1.00 x"."""
    return f"{figure(1.0 if abs(ratio - 1) < SAME_COMPUTE else ratio)} x"


def value(of_a_knob: Value) -> str:
    """ "0.002", "bf16"."""
    return f"{of_a_knob:g}" if isinstance(of_a_knob, float) else clean(str(of_a_knob), 80)


def change(changes: Recipe, before: Recipe) -> str:
    """ "lr 0.001 -> 0.002"; nothing for the baseline."""
    return ", ".join(f"{knob} {value(before.get(knob, '?'))} -> {value(new)}" for knob, new in changes.items())


def state(name: str) -> str:
    """ "timed out": a state, an outcome or a failure as a person reads it."""
    return name.replace("_", " ")


def tried(number: int, state: str, decision: str | None, score: float | None, metric: Metric = VAL_BPB) -> str:
    """ "trial 7 (discard, val_bpb 2.8143)": what came of a recipe, for whoever proposes it again."""
    outcome = decision or ("baseline" if number == 0 else state)
    return f"trial {number} ({outcome}{f', {metric.name} {bpb(score, metric)}' if score is not None else ''})"


def activity(running: bool, control: str) -> str:
    """ "running", "not running, paused": what a study is at."""
    return ("running" if running else "not running") + (", paused" if control == "pause" else "")
