"""The night as it happens: plain lines where the output is no terminal, a live table in one."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from studies import GOOD, change, make_study, run_study

from autoresearch.night.display import Display

ANSWERS = [change("lr", GOOD), change("beta1", 0.55), change("lr", 9.0, "\x1b[2Jreason"), "\x1b[2J no JSON"]


def watched(home: Path, *, terminal: bool) -> tuple[str, Display]:
    console = Console(width=160, height=40, file=io.StringIO(), force_terminal=terminal, highlight=False)
    folder = make_study(home)
    with Display(folder, console) as display:
        run_study(folder, ANSWERS, workers=1, observer=display)
        display.note("a note\x1b[2J")
    return console.file.getvalue(), display  # type: ignore[attr-defined]


def test_without_a_terminal_each_step_is_a_line(tmp_path: Path) -> None:
    said, _ = watched(tmp_path, terminal=False)
    lines = said.splitlines()
    assert lines[0] == "trial 0 seed 0: baseline" and lines[1].startswith("trial 0 seed 0: val_bpb 2.9")
    assert "trial 1 seed 1: lr = 0.004" in lines
    assert any(line.startswith("trial 1: lr 0.001 -> 0.004: keep (P(better) ") for line in lines)
    assert "trial 2 seed 1: diverged: loss is NaN" in lines
    assert any(line.startswith("trial 3: lr 0.004 -> 9: blocked (") for line in lines)
    assert any(line.startswith("trial 4: no readable change: blocked (") for line in lines)
    assert lines[-1].startswith("a note") and "\x1b" not in said


def test_in_a_terminal_the_table_stands_with_the_outcome_above_it(tmp_path: Path) -> None:
    _, display = watched(tmp_path, terminal=True)
    console = Console(width=200, file=io.StringIO(), highlight=False)
    console.print(display)
    picture = console.file.getvalue()  # type: ignore[attr-defined]
    assert picture.startswith("one, ") and "The best recipe, trial 1's, is better than the baseline by" in picture
    assert "lr 0.001 -> 0.004" in picture and "keep" in picture and "failed" in picture
    assert "a note" in picture and "\x1b" not in picture
