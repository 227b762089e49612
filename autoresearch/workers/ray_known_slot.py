"""A slot of a cluster as the driver knows it: its actor, where that is, and the run that it has."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from autoresearch.workers.fleet import Place
from autoresearch.workers.ray_slot import Offer
from trainer.protocol import RunRequest


@dataclass(eq=False)
class KnownSlot:
    """A slot as the runner knows it. node: Ray's id; '' while Ray looks for room. is_told: its actor has the run."""

    number: int
    actor: Any
    node: str = ""
    host: str = ""
    offer: Offer | None = None
    ready: bool = False  # it can take runs: the text is there
    run: RunRequest | None = None
    repeats: bool = False  # its run is another slot's, done once more to compare classes of device
    is_told: bool = False
    cancelled: bool = False
    begun: float = 0.0
    heard: float = 0.0
    born: float = 0.0  # when Ray had found room
    busy_seconds: float = 0.0
    runs: int = 0

    @property
    def device(self) -> str:
        """Its class; '' until it is known."""
        return self.offer.device if self.offer else ""

    def place(self, does: str, is_draining: bool) -> Place:
        """As a person sees it."""
        now = time.monotonic()
        busy = self.busy_seconds + (now - self.begun if self.run is not None else 0.0)
        seconds = max(now - self.born, 1e-9)
        return Place(
            self.number, self.host, self.node, self.device, does, is_draining, self.runs, busy / seconds, seconds
        )
