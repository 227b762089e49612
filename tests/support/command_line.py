"""The command line in this process, with an empty home and no language model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from autoresearch import cli


class Said(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Said]


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> Said:
    """autoresearch ARGUMENTS."""
    monkeypatch.setattr(sys, "argv", ["autoresearch", *arguments])
    capsys.readouterr()
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return Said(code, out, err)
