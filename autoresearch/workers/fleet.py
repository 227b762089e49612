"""What each worker of a cluster does just now, and which nodes a person wants to empty: two files beside a study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from autoresearch.errors import UserError


@dataclass(frozen=True)
class Place:
    """A slot. node: Ray's id of it. does: a run's id, or what else. busy: share of its time with a run."""

    slot: int
    host: str
    node: str
    device: str
    does: str
    draining: bool
    runs: int
    busy: float


class Fleet:
    """Written by the night that runs, read by whoever looks; gone when the night is."""

    def __init__(self, study: Path) -> None:
        self._places, self._drain = study / "workers.json", study / "drain.json"

    def write(self, places: Sequence[Place]) -> None:
        """So that a reader sees all of it or none. A full disk is no reason to end a night."""
        _replace(self._places, [asdict(place) for place in places])

    def read(self) -> list[Place] | None:
        """None: no night runs on a cluster."""
        with suppress(OSError, ValueError, TypeError):
            return [Place(**place) for place in json.loads(self._places.read_text("utf-8"))]
        return None

    def forget(self) -> None:
        self._places.unlink(missing_ok=True)
        self._drain.unlink(missing_ok=True)

    def drained(self) -> frozenset[str]:
        """Ids of nodes on which no run is to be begun any more in this night."""
        with suppress(OSError, ValueError):
            return frozenset(map(str, json.loads(self._drain.read_text("utf-8"))))
        return frozenset()

    def drain(self, name: str) -> Place:
        """Asks for it, by a node's host or the first letters of its id. Raises UserError unless that is one node's."""
        found = {
            place.node: place
            for place in self.read() or []
            if place.host == name or (len(name) >= 4 and place.node.startswith(name))
        }
        if len(found) != 1:
            there = ", ".join(sorted({f"{place.host} ({place.node[:8]})" for place in self.read() or []}))
            problem = "names several nodes" if found else "is no node with a slot"
            raise UserError(f"{name!r} {problem}: give the id of one of {there or 'none, since no night runs'}")
        ((node, place),) = found.items()
        _replace(self._drain, sorted({*self.drained(), node}))
        return place


def _replace(path: Path, content: object) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    with suppress(OSError):
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(path)
