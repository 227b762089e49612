"""Whether a class of device may do a study's runs: a cluster's driver asks, and who knows the study answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from autoresearch.workers.energy import Energy
from trainer.protocol import RunRequest, RunResult


@dataclass(frozen=True)
class Admitted:
    """Its workers may have any run."""


@dataclass(frozen=True)
class Refused:
    """No run of this study is done on such a device."""

    why: str


@dataclass(frozen=True)
class Repeat:
    """First a run is repeated there whose score on another class is known."""

    request: RunRequest
    timeout_seconds: float


# None: not yet; it is asked again.
Answer = Admitted | Refused | Repeat | None


@dataclass(frozen=True)
class Ask:
    """A worker on such a device is idle and waits for an answer."""

    device: str


@dataclass(frozen=True)
class Repeated:
    """A run has ended that was to be repeated, or is lost."""

    device: str
    run_id: str
    result: RunResult
    energy: Energy


class Admission(Protocol):
    """What is answered. Both may give a person a line to read."""

    def answer(self, device: str) -> Answer: ...

    def repeated(self, repeated: Repeated) -> str | None: ...

    def forget(self) -> None:
        """All that was to be repeated and has not ended is lost."""
