"""The slots of a cluster, as a person reads them in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from autoresearch import words
from autoresearch.terminal.console import listing
from autoresearch.workers.fleet import Place
from rails import clean


def workers_view(places: Sequence[Place]) -> RenderableType:
    """One line a slot, and what they come to."""
    table = listing("slot", "node", "device", "does", "runs", "busy", right=("slot", "runs", "busy"))
    for place in sorted(places, key=lambda place: (place.host, place.node, place.slot)):
        node = f"{clean(place.host, 40)} ({place.node[:8]})"
        does = f"{place.does}, then is closed" if place.draining else place.does
        table.add_row(
            str(place.slot), Text(node), Text(clean(place.device, 40)), Text(does), str(place.runs),
            words.percent(place.busy),
        )  # fmt: skip
    nodes = words.count(len({place.node for place in places}), "node")
    busy = sum(place.busy for place in places) / len(places) if places else 0.0
    head = f"{words.count(len(places), 'slot')} on {nodes}, busy {words.percent(busy)} of their time"
    return Group(Text(head if places else "no slot: the night waits for a node"), table)
