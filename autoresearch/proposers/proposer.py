"""The seam where changes come from: a proposer answers one untrusted text per trial."""

from __future__ import annotations

from typing import Protocol

from autoresearch.trial import History, Proposal


class NothingLeft(Exception):
    """The proposer has nothing more to propose: the night ends."""


class Taken(Protocol):
    """Joules, and where they come from."""

    @property
    def joules(self) -> float: ...

    @property
    def source(self) -> str: ...


class Meter(Protocol):
    """Meters a question to a model on this machine, one at a time; `end` gives None where it is not known."""

    def begin(self) -> None: ...

    def end(self) -> Taken | None: ...


class Proposer(Protocol):
    """`propose` may be slow; what it returns is data, never trusted. Raises NothingLeft to end the night.

    One whose `takes_long(history)` says so is asked in a thread of its own, while runs go on, and ahead of need; its
    `hang_up()` is called from another thread when nobody waits for the answer any more. One that asks a model which may
    run on this machine is handed, by `metered_by(meter)`, what meters the GPUs. Others have none of these.
    """

    name: str

    def propose(self, history: History) -> Proposal: ...
