"""The one voice: each kind of number reads the same wherever it is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autoresearch import words


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.bpb(2.81753), "2.8175"),
        (words.bpb(None), "-"),
        (words.plus_minus(2.81753, 0.01449), "2.8175 ± 0.0145"),
        (words.plus_minus(2.81753, None), "2.8175"),
        (words.plus_minus(None, 0.01), "-"),
        (words.score(2.8175, 0.0145, 11), "2.8175 ± 0.0145 (11 runs)"),
        (words.score(2.8175, 0.0481, 1), "2.8175 ± 0.0481 (1 run)"),
        (words.gain(0.0321, 0.01, 0.0542), "+0.0321 [+0.0100, +0.0542]"),
        (words.gain(-0.0031, -0.0471, 0.0408), "-0.0031 [-0.0471, +0.0408]"),
        (words.gain(0.0321), "+0.0321"),
        (words.gain(None), "-"),
        (words.gain(-1e300), "-1e+300"),
        (words.improvement(0.0321, 0.01, 0.0542), "better by +0.0321 [+0.0100, +0.0542]"),
        (words.improvement(-0.0321, -0.0542, -0.01), "worse by +0.0321 [+0.0100, +0.0542]"),
        (words.improvement(-0.0031, -0.0471, 0.0408), "not surely better: -0.0031 [-0.0471, +0.0408]"),
        (words.improvement(0.0321), "better by +0.0321"),
        (words.improvement(-0.0321), "worse by +0.0321"),
        (words.percent(0.72), "72 %"),
        (words.percent(0.0229), "2.3 %"),
        (words.percent(0.0), "0 %"),
        (words.figure(0.03), "0.0300"),
        (words.figure(999.7), "1,000"),
        (words.figure(21_382.4), "21,382"),
        (words.count(1, "trial"), "1 trial"),
        (words.count(0, "trial"), "0 trials"),
        (words.count(1712, "trial"), "1,712 trials"),
        (words.count(1, "change was", "changes were"), "1 change was"),
        (words.count(2, "change was", "changes were"), "2 changes were"),
        (words.energy(5328.0, ["estimate"]), "1.48 Wh (estimate)"),
        (words.energy(7.2e6, ["nvml", "rapl"]), "2.00 kWh (nvml+rapl)"),
        (words.energy(None), "-"),
        (words.money(12.3, "EUR"), "12.30 EUR"),
        (words.money(0.0004, "EUR"), "under 0.01 EUR"),
        (words.money(0.0, "EUR"), "0.00 EUR"),
        (words.costs(0.004, None, "EUR"), "under 0.01 EUR"),
        (words.costs(0.004, 1.5, "EUR"), "1.50 EUR (energy under 0.01 EUR, tokens 1.50 EUR)"),
        (words.costs(None, 1.5, "EUR"), "1.50 EUR (tokens)"),
        (words.costs(None, None, "EUR"), "-"),
        (words.duration(9.04), "9.0 s"),
        (words.duration(192.0), "3.2 min"),
        (words.duration(5400.0), "1.50 h"),
        (words.size(512 * 2**20), "512 MiB"),
        (words.size(3 * 2**29), "1.50 GiB"),
        (words.budget({"tokens": 200_000}), "200,000 tokens a run"),
        (words.budget({"seconds": 12.5}), "12.5 seconds a run"),
        (words.budget({"flops": 2.4e15}), "2.4 PFLOP a run"),
        (words.budget({"flops": 4 * 10**14}), "400 TFLOP a run"),
        (words.flops(2.4e15), "2.40 PFLOP"),
        (words.flops(999.0), "999 FLOP"),
        (words.flops(1.5e27), "1,500,000 ZFLOP"),
        (words.flops(None), "-"),
        (words.compute(198_656, 1.368e12), "198,656 tokens, 1.37 TFLOP"),
        (words.compute(198_656, None), "198,656 tokens"),
        (words.compute(None, None), "-"),
        (words.spending(1.0064), "same compute"),
        (words.spending(1.368), "1.37 x the FLOPs of its parent"),
        (words.spending(0.5), "0.500 x the FLOPs of its parent"),
        (words.spending(None), "-"),
        (words.change({"lr": 0.002, "d_ff": 1024}, {"lr": 0.001, "d_ff": 512}), "lr 0.001 -> 0.002, d_ff 512 -> 1024"),
        (words.change({}, {}), ""),
        (words.state("timed_out"), "timed out"),
        (words.ending(2.81153, "complete", ""), "val_bpb 2.8115"),
        (words.ending(None, "out_of_memory", "1 GiB asked"), "out of memory: 1 GiB asked"),
        (words.tried(7, "complete", "discard", 2.8143), "trial 7 (discard, val_bpb 2.8143)"),
        (words.tried(0, "complete", None, 2.8143), "trial 0 (baseline, val_bpb 2.8143)"),
        (words.tried(3, "failed", None, None), "trial 3 (failed)"),
        (words.activity(True, "run"), "running"),
        (words.activity(True, "pause"), "running, paused"),
        (words.activity(False, "pause"), "not running, paused"),
    ],
)
def test_a_number_reads_the_same_everywhere(said: str, expected: str) -> None:
    assert said == expected


def test_a_value_from_a_model_cannot_steer_the_terminal() -> None:
    said = words.change({"precision": "\x1b[2J\u202ebf16\n"}, {})
    assert "\x1b" not in said and "\u202e" not in said and "\n" not in said


@pytest.mark.parametrize("pattern", [r":\+?\.4f\}", r" \+- ", r"\bWh\b", r"\} (trials|runs|seeds)\b"])
def test_nobody_else_words_a_score_an_interval_an_energy_or_a_count(pattern: str) -> None:
    # A probability is no score; an axis' ticks are worded where they are drawn.
    left_alone = {"words.py", "decide.py", "charts.py"}
    code = Path(words.__file__).parent
    found = {
        (path.name, line.strip())
        for path in code.rglob("*.py")
        if path.name not in left_alone
        for line in path.read_text("utf-8").splitlines()
        if re.search(pattern, line) and '"""' not in line
    }
    assert found == set(), "words.py has a function for it"
