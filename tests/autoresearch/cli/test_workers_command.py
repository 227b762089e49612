"""autoresearch workers: what each slot does, and a node that is to be emptied."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Command
from studies import make_study

from autoresearch.study.lock import RunnerLock
from autoresearch.workers.fleet import Fleet, Place

PLACES = [
    Place(1, "ant", "aaaa1111", "Some GPU", "0001-0", False, 3, 0.5, 60.0),
    Place(2, "bee", "bbbb2222", "Some GPU", "idle", True, 1, 0.25, 20.0),
]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Of a study that is run."""
    study = make_study(tmp_path / "home")
    with RunnerLock(study.path):
        yield Fleet(study.path)


def test_a_study_without_a_cluster_says_so(command: Command, fleet: Fleet) -> None:
    assert "no night on a cluster; no run is in flight" in command("workers", "one").out
    assert json.loads(command("workers", "one", "--json").out) is None
    assert "\ncluster" not in command("status", "one").out
    assert "cluster" not in json.loads(command("status", "one", "--json").out)


def test_each_slot_has_its_line(command: Command, fleet: Fleet) -> None:
    fleet.write(PLACES)
    told = command("workers", "one").out
    assert "2 slots on 2 nodes; so far slots were busy 44 % of their time" in told
    assert "ant (aaaa1111)" in told and "0001-0" in told and "idle, then is closed" in told
    found = json.loads(command("workers", "one", "--json").out)
    assert [slot["does"] for slot in found["slots"]] == ["0001-0", "idle"]
    assert (found["most"], found["seconds"], found["busy_seconds"]) == (2, 80.0, 35.0)


def test_status_has_the_cluster_node_by_node(command: Command, fleet: Fleet) -> None:
    fleet.write([*PLACES, replace(PLACES[0], slot=3, does="idle", host="a\x1b[2Jnt")])
    told = command("status", "one").out
    assert "3 slots on 2 nodes; so far" in told
    assert "ant (aaaa1111), Some GPU: 0001-0, idle" in told and "bee (bbbb2222), Some GPU, drained: idle" in told
    found, alone = (json.loads(command(*words, "one", "--json").out) for words in (["status"], ["workers"]))
    assert found["cluster"] == alone


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
    assert "slot" not in command("status", "one").out
    assert "nothing to drain" in command("workers", "one", "--drain", "ant").err
