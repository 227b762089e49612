"""autoresearch workers: what each slot does, and a node that is to be emptied."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Command
from studies import make_study

from autoresearch.study.lock import RunnerLock
from autoresearch.workers.fleet import Fleet, Place

PLACES = [
    Place(1, "ant", "aaaa1111", "Some GPU", "0001-0", False, 3, 0.5),
    Place(2, "bee", "bbbb2222", "Some GPU", "idle", True, 1, 0.25),
]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Of a study that is run."""
    study = make_study(tmp_path / "home")
    with RunnerLock(study.path):
        yield Fleet(study.path)


def test_a_study_without_a_cluster_says_so(command: Command, fleet: Fleet) -> None:
    assert "no night on a cluster; no run is in flight" in command("workers", "one").out
    assert json.loads(command("workers", "one", "--json").out) == []


def test_each_slot_has_its_line(command: Command, fleet: Fleet) -> None:
    fleet.write(PLACES)
    told = command("workers", "one").out
    assert "2 slots on 2 nodes, busy 38" in told
    assert "ant (aaaa1111)" in told and "0001-0" in told and "idle, then is closed" in told
    assert [place["does"] for place in json.loads(command("workers", "one", "--json").out)] == ["0001-0", "idle"]


def test_a_node_is_drained(command: Command, fleet: Fleet) -> None:
    fleet.write(PLACES)
    assert "bee (bbbb2222) is emptied" in command("workers", "one", "--drain", "bee").out
    assert fleet.drained() == {"bbbb2222"}
    failed = command("workers", "one", "--drain", "cow")
    assert failed.code == 2 and "'cow' is no node" in failed.err


def test_what_a_killed_night_left_is_not_shown(command: Command, tmp_path: Path) -> None:
    fleet = Fleet(make_study(tmp_path / "home").path)
    fleet.write(PLACES)
    assert "no night on a cluster" in command("workers", "one").out
    assert "nothing to drain" in command("workers", "one", "--drain", "ant").err
