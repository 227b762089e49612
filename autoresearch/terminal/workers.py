"""The slots of a cluster, as a person reads them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from rich.console import Group, RenderableType
from rich.text import Text

from autoresearch import words
from autoresearch.terminal.console import listing
from autoresearch.workers.fleet import Cluster, Place

COLUMNS = ("slot", "node", "device", "does", "runs", "busy")


def workers_view(cluster: Cluster) -> RenderableType:
    """What there is in all, and one line a slot."""
    table = listing(*COLUMNS, right=("slot", "runs", "busy"))
    for row in slot_rows(cluster):
        table.add_row(*map(Text, row))
    return Group(Text(cluster.now()), *([table] if cluster.slots else []))


def slot_rows(cluster: Cluster) -> list[list[str]]:
    """A cell for each of COLUMNS; slots of one node stand together."""
    return [
        [
            str(it.slot),
            _node(it),
            it.device,
            f"{it.does}, then is closed" if it.draining else it.does,
            f"{it.runs:,}",
            words.percent(it.busy),
        ]
        for it in _by_node(cluster)
    ]


def node_lines(cluster: Cluster) -> Iterator[str]:
    """ "ant (aaaa1111), Some GPU: 0012-0, idle", one line a node."""

    def head(slot: Place) -> str:
        return f"{_node(slot)}, {slot.device}{', drained' if slot.draining else ''}"

    for node, slots in groupby(_by_node(cluster), head):
        yield f"{node}: {', '.join(slot.does for slot in slots)}"


def _by_node(cluster: Cluster) -> list[Place]:
    return sorted(cluster.slots, key=lambda slot: (slot.host, slot.node, slot.slot))


def _node(slot: Place) -> str:
    return f"{slot.host} ({slot.node[:8]})"
