"""What an H200 is expected to reach on gpt-354m, each beside what was measured, and the sums over rounds behind it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch import words

CARD, PRESET = "H200", "gpt-354m"
GIB = 2**30
# Student's t, 97.5 %, by degrees of freedom; the rounds are few.
T = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}

HOW = {True: "repeatable", False: "not repeatable"}

Row = dict[str, Any]


@dataclass(frozen=True)
class Ratio:
    """Of two speeds in the same rounds; low and high are a 95 % interval, None with one round."""

    middle: float
    low: float | None
    high: float | None
    rounds: int

    def __str__(self) -> str:
        n = words.count(self.rounds, "round")
        if self.low is None or self.high is None:
            return f"{self.middle:.3f} ({n})"
        return f"{self.middle:.3f} [{self.low:.3f}, {self.high:.3f}] ({n})"


def ratio(above: Sequence[Row], below: Sequence[Row]) -> Ratio | None:
    """Of tokens a second, taken within each round, since a machine's speed drifts between them."""
    speeds = {row["round"]: row["tokens_per_second"] for row in below}
    logs = [math.log(r["tokens_per_second"] / speeds[r["round"]]) for r in above if speeds.get(r["round"])]
    if not logs:
        return None
    middle = statistics.fmean(logs)
    if len(logs) == 1:
        return Ratio(math.exp(middle), None, None, 1)
    half = T.get(len(logs) - 1, 1.96) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(math.exp(middle), math.exp(middle - half), math.exp(middle + half), len(logs))


def median_of(rows: Sequence[Row], figure: str) -> float | None:
    values = [row[figure] for row in rows if row.get(figure) is not None]
    return statistics.median(values) if values else None


def found_by(content: Row, piece: str) -> Row:
    """What the piece has noted; nothing where it was not done."""
    return content["pieces"].get(piece, {}).get("found", {})


def rows_of(content: Row, piece: str, *words_in_name: str) -> list[Row]:
    """A piece's rows whose name has all the words, separated by commas there."""
    rows = found_by(content, piece).get("rows", [])
    return [row for row in rows if set(words_in_name) <= set(row["name"].split(", "))]


def against_references(content: Row) -> dict[str, Ratio]:
    """ "torch / huggingface, repeatable" -> ratio; each is compared with those that repeat as it does."""
    groups: dict[tuple[bool, bool, str], list[Row]] = {}
    for row in found_by(content, "references").get("rows", []):
        groups.setdefault((row["ours"], row["repeatable"], row["name"]), []).append(row)
    found = {}
    for (is_ours, repeatable, name), rows in groups.items():
        for (theirs_are_ours, others_repeat, other), others in groups.items():
            is_asked = is_ours and not theirs_are_ours and repeatable == others_repeat
            if is_asked and (r := ratio(rows, others)) is not None:
                found[f"{name} / {other}, {HOW[repeatable]}"] = r
    return found


def aims(content: Row) -> list[tuple[str, str, str]]:
    """(aim, measured, met or missed or not measured); nothing on any other card, whose figures would be others."""
    environment = found_by(content, "environment")
    plan = environment.get("plan", {})
    if CARD not in environment.get("card", "") or plan.get("preset") != PRESET or content["quick"]:
        return []

    def speed(*names: str) -> float | None:
        return median_of(rows_of(content, "speed", *names), "tokens_per_second")

    fp8 = ratio(
        rows_of(content, "speed", "fp8", "repeatable"), rows_of(content, "speed", "bf16", "compiled", "repeatable")
    )
    # Of several of theirs (a padded head, say) the fastest is the one to beat.
    theirs: dict[str, list[float]] = {}
    for pair, r in against_references(content).items():
        us, _, them = pair.partition(" / ")
        if them.startswith("huggingface") and them.endswith(f", {HOW[False]}"):
            theirs.setdefault(us, []).append(r.middle)
    huggingface = max(map(min, theirs.values()), default=None)
    compiled = [*rows_of(content, "speed", "bf16", "compiled"), *rows_of(content, "first_step")]
    peaks = [row["peak_memory_bytes"] / GIB for row in compiled if row.get("peak_memory_bytes")]
    first_step = median_of(rows_of(content, "first_step", "warm worker"), "first_step_seconds")
    tokens, times, gib, seconds = "{:,.0f} tokens/s".format, "{:.3f}".format, "{:.1f} GiB".format, "{:.2f} s".format
    return [
        _aim(
            "bf16, not repeatable: at least 200,000 tokens/s",
            speed("bf16", "compiled", "not repeatable"),
            200e3,
            tokens,
        ),
        _aim("bf16, repeatable: at least 175,000 tokens/s", speed("bf16", "compiled", "repeatable"), 175e3, tokens),
        _aim("at least 1.3 times Hugging Face's speed", huggingface, 1.3, times),
        _aim("fp8 not slower than bf16, ratio", None if fp8 is None else fp8.middle, 1.0, times),
        _aim("peak memory in bf16: at most 24.3 GiB", max(peaks, default=None), -24.3, gib),
        _aim("warm worker, seen shape: first step within 1 s", first_step, -1.0, seconds),
    ]


def _aim(aim: str, value: float | None, bound: float, shown: Callable[[float], str]) -> tuple[str, str, str]:
    """bound: the least that meets the aim; below 0, the most."""
    if value is None:
        return aim, words.NONE, "not measured"
    return aim, shown(value), "met" if (value >= bound if bound > 0 else value <= -bound) else "missed"
