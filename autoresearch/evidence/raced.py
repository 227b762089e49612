"""Reads the race of a student, which lies in its folder as `autoresearch race --out` and `distill` write it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from autoresearch.evidence.shares import Average, Share

FILE = "race.json"
MOST_BYTES = 2**27

Count = Annotated[int, Field(ge=0, le=2**40)]
Number = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Hits(_Part):
    hits: Count
    n: Count

    @model_validator(mode="after")
    def _are_some_of_all(self) -> Hits:
        if self.hits > self.n:
            raise ValueError("more hits than there were")
        return self

    @property
    def share(self) -> Share:
        return Share.of(self.hits, self.n)


class Gain(_Part):
    """In bits per byte, positive is better."""

    mean: Number | None
    low: Number | None
    high: Number | None


class Earned(Gain):
    known: Hits

    @property
    def average(self) -> Average:
        return Average(self.known.hits, self.mean, self.low, self.high)


class Racer(_Part):
    """On held-out states. valid: first samples that passed the rails."""

    name: str
    valid: Hits
    earned: Earned


class Lead(_Part):
    """In whole searches, against the teacher."""

    proposer: str
    nights: Count
    gain: Gain


class Searches(_Part):
    """runs: of a night. winner: None: the teacher stays."""

    teacher: str
    nights: Count
    runs: Count
    winner: str | None
    verdict: str
    leads: list[Lead]

    def lead(self, label: str) -> Lead | None:
        return next((lead for lead in self.leads if lead.proposer == label), None)


class Raced(_Part):
    """What one reads of a race. All text in it may be hostile. outcome: of whole searches; None: there were none."""

    studies: list[str]
    hold_out: Number
    seed: int
    verdict: str
    racers: list[Racer]
    outcome: Searches | None

    def racer(self, form: str) -> Racer | None:
        """The first that is named as `form` says, a student's name without its folder, which may have moved since."""
        return next((racer for racer in self.racers if racer.name.startswith(f"{form}:")), None)


def read_race(folder: Path) -> Raced | None:
    """Of the student in that folder; None: there is none that can be read."""
    path = folder / FILE
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return None
        return Raced.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
