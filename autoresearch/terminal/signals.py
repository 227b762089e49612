"""Ends work politely at the first Ctrl-C, at once at the second, and not at all for a terminal that is closed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def polite_signals(first: Callable[[str], None]) -> Iterator[None]:
    """Calls `first` with the signal's name at the first SIGINT or SIGTERM; the second raises KeyboardInterrupt."""
    heard = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if heard:
            raise KeyboardInterrupt
        heard = True
        first(signal.Signals(number).name)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def outlive_terminal() -> Iterator[None]:
    """A terminal that is closed ends nothing in here: SIGHUP is ignored, always, whoever started it and how.

    Ignored and not handled, for so it stays in the processes that are started meanwhile (git), which share the
    terminal. What is said to the terminal then goes nowhere: see terminal.streams.
    """
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
