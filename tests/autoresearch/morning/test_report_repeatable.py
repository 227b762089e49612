"""A study whose numbers need not repeat says so wherever its numbers are read, and asks its workers for it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from studies import MACHINE, make_study

from autoresearch import words
from autoresearch.evidence.status import status
from autoresearch.morning.report.facts import facts
from autoresearch.morning.report.markdown import markdown
from autoresearch.study.requests import make_request
from autoresearch.terminal.status import status_view


@pytest.mark.parametrize("repeatable", [True, False])
def test_numbers_that_do_not_repeat_are_said_not_to(tmp_path: Path, repeatable: bool) -> None:
    folder = make_study(tmp_path / "home", repeatable=repeatable)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(status_view(status(folder)))
    seen = console.export_text(), *facts(folder).warnings, markdown(facts(folder))
    assert sum(words.NOT_REPEATABLE.split(" (")[0] in text for text in seen) == (0 if repeatable else 3)
    assert status(folder).repeatable is repeatable

    request = make_request(
        folder, MACHINE, tmp_path, run_id="0", recipe={}, seed=0, budget={"steps": 1}, place=tmp_path / "0",
        score_test=False,
    )  # fmt: skip
    assert request.repeatable is repeatable
