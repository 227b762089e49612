"""What each worker of a cluster does just now, and which nodes a person wants to empty: two files beside a study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autoresearch import words
from autoresearch.errors import UserError
from rails import clean


@dataclass(frozen=True)
class Place:
    """A slot. node: Ray's id of it. does: a run's id, or what else. busy: share of its time, `seconds`, with a run."""

    slot: int
    host: str
    node: str
    device: str
    does: str
    draining: bool
    runs: int
    busy: float
    seconds: float


@dataclass(frozen=True)
class Cluster:
    """The slots that a night has now, and what it has had: `most` slots at once, on `nodes` (Ray's ids of them).

    seconds: that slots were there, summed over all, those that are gone too; busy_seconds: of these, with a run.
    """

    slots: list[Place] = field(default_factory=list)
    most: int = 0
    nodes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    busy_seconds: float = 0.0

    def now(self) -> str:
        """ "2 slots on 1 node; so far slots were busy 91 % of their time"."""
        nodes = len({slot.node for slot in self.slots})
        there = f"{words.count(len(self.slots), 'slot')} on {words.count(nodes, 'node')}"
        head = there if self.slots else "no slot: the night waits for a node"
        return f"{head}; so far slots were busy {self._busy()} of their time" if self.seconds else head

    def in_all(self) -> str:
        """ "up to 6 slots at once on 3 nodes, busy 91 % of their time"."""
        if not self.seconds:
            return "no slot all night"
        most, nodes = words.count(self.most, "slot"), words.count(len(self.nodes), "node")
        return f"up to {most} at once on {nodes}, busy {self._busy()} of their time"

    def _busy(self) -> str:
        return words.percent(self.busy_seconds / self.seconds)


class Fleet:
    """Written by the night that runs, read by whoever looks; forgotten when the night is over."""

    def __init__(self, study: Path) -> None:
        self._slots, self._drain = study / "workers.json", study / "drain.json"

    def write(self, slots: Sequence[Place]) -> None:
        """What there is now; what was there before and is no more has had its time, which counts on.

        A reader sees all of it or none. A full disk is no reason to end a night."""
        before, here = self.read() or Cluster(), {slot.slot for slot in slots}
        stayed = [slot for slot in before.slots if slot.slot in here]
        now = Cluster(
            slots=[*slots],
            most=max(before.most, len(slots)),
            nodes=sorted({*before.nodes, *(slot.node for slot in slots)}),
            seconds=before.seconds + _seconds(slots) - _seconds(stayed),
            busy_seconds=before.busy_seconds + _busy_seconds(slots) - _busy_seconds(stayed),
        )
        _replace(self._slots, asdict(now))

    def read(self) -> Cluster | None:
        """What was last written, its words made safe to show: other machines told them. None: nothing was."""
        with suppress(OSError, ValueError, TypeError):
            told = json.loads(self._slots.read_text("utf-8"))
            return Cluster(**{**told, "slots": [_place(**slot) for slot in told["slots"]]})
        return None

    def forget(self) -> None:
        self._slots.unlink(missing_ok=True)
        self._drain.unlink(missing_ok=True)

    def drained(self) -> frozenset[str]:
        """Ids of nodes on which no run is to be begun any more in this night."""
        with suppress(OSError, ValueError):
            return frozenset(map(str, json.loads(self._drain.read_text("utf-8"))))
        return frozenset()

    def drain(self, name: str) -> Place:
        """Asks for it, by a node's host or the first letters of its id. Raises UserError unless that is one node's."""
        there = (self.read() or Cluster()).slots
        found = {
            place.node: place
            for place in there
            if place.host == name or (len(name) >= 4 and place.node.startswith(name))
        }
        if len(found) != 1:
            named = ", ".join(sorted({f"{place.host} ({place.node[:8]})" for place in there}))
            problem = "names several nodes" if found else "is no node with a slot"
            raise UserError(f"{name!r} {problem}: give the id of one of {named or 'none, since no night runs'}")
        ((node, place),) = found.items()
        _replace(self._drain, sorted({*self.drained(), node}))
        return place


def _place(host: str, device: str, does: str, **rest: Any) -> Place:
    return Place(host=clean(host, 80), device=clean(device, 80), does=clean(does, 40), **rest)


def _seconds(slots: Sequence[Place]) -> float:
    return sum(slot.seconds for slot in slots)


def _busy_seconds(slots: Sequence[Place]) -> float:
    return sum(slot.busy * slot.seconds for slot in slots)


def _replace(path: Path, content: object) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    with suppress(OSError):
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(path)
