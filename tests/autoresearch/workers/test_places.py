"""Where runs are done: chosen devices of this machine, and the class of device that a budget in seconds is bound to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from studies import GOOD, MACHINE, change, make_study, query, run_study

from autoresearch.config import Settings, load_settings, parse_settings
from autoresearch.errors import UserError
from autoresearch.study.requests import machine_of_runs
from autoresearch.workers.fleet import Cluster, Fleet, Place
from autoresearch.workers.machine import CONTEXT_BYTES, Machine

GIB = 2**30
FOUR = Machine("cuda", "Some GPU", 4, 80 * GIB, ("fp32", "bf16"))
PLACES = [
    Place(1, "ant", "aaaa11", "Some GPU", "0001-0", False, 3, 0.5, 60.0),
    Place(2, "bee", "bbbb22", "x", "idle", True, 0, 0.0, 20.0),
]


def settings(workers: str) -> Settings:
    return parse_settings(f'preset = "cpu-nano"\n{workers}\n[budget]\ntokens = 1', "study.toml")


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        ("", ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("workers = 2", ["cuda:0", "cuda:1"]),
        ("workers.most = 2", ["cuda:0", "cuda:1"]),
        ('workers.devices = ["cuda:3", "cuda:0"]', ["cuda:3", "cuda:0"]),
        ('workers.devices = ["cuda:2"]\ntensor_parallel = 2', ["cuda:2"]),
    ],
)
def test_a_study_has_the_devices_that_it_names(workers: str, expected: list[str]) -> None:
    assert FOUR.places(settings(workers)) == expected


def test_workers_that_share_a_named_device_share_its_memory() -> None:
    assert FOUR.run_cap(settings('workers.devices = ["cuda:1", "cuda:1"]')) == 40 * GIB - CONTEXT_BYTES
    assert FOUR.run_cap(settings('workers.devices = ["cuda:1", "cuda:2"]')) is None
    half = settings('workers = { launcher = "ray", gpus = 0.5 }')
    assert FOUR.run_cap(half) == 40 * GIB - CONTEXT_BYTES


@pytest.mark.parametrize("device", ["cuda:4", "cpu"])
def test_a_named_device_that_is_not_here_is_refused(device: str) -> None:
    with pytest.raises(UserError, match=f"names {device}, but here are 4 x Some GPU"):
        FOUR.places(settings(f'workers.devices = ["{device}"]'))


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ('workers.devices = ["gpu0"]', "'gpu0' is no device"),
        ('workers = { launcher = "ray", devices = ["cpu"] }', "devices are of this machine"),
        ('workers.labels = ["site"]', "write NAME=VALUE"),
        ('workers.launcher = "slurm"', "workers.launcher"),
        ('workers.address = "ray://user@host:1"', "workers.address"),
        ("workers.gpu = 1", "nearest valid key is gpus"),
    ],
)
def test_what_workers_cannot_be_is_named(workers: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        settings(workers)


def test_runs_keep_their_device_and_a_budget_in_seconds_stays_on_it(tmp_path: Path) -> None:
    folder = make_study(tmp_path, device="cpu")
    text = (folder.path / "study.toml").read_text("utf-8").replace("tokens = 200_000", "seconds = 1.0")
    (folder.path / "study.toml").write_text(text, "utf-8")
    folder.reread_settings()
    run_study(folder, [change("lr", GOOD)], trials=1)
    assert set(query(folder, "SELECT json_extract(versions, '$.device') FROM runs")) == {(MACHINE.name,)}
    with pytest.raises(UserError, match=f"budget in seconds and runs that were made on {MACHINE.name}; on "):
        machine_of_runs(folder, print)


def test_a_night_on_another_machine_than_the_earlier_ones_is_said(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    notes: list[str] = []
    machine_of_runs(folder, notes.append)
    run_study(folder, [])
    machine_of_runs(folder, notes.append)
    assert len(notes) == 1 and f"were made on {MACHINE.name}, those of this night on" in notes[0]


def test_a_node_is_drained_by_its_host_or_the_start_of_its_id(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    with pytest.raises(UserError, match="no night runs"):
        fleet.drain("ant")
    fleet.write(PLACES)
    assert fleet.read() == Cluster(PLACES, 2, ["aaaa11", "bbbb22"], 80.0, 30.0)
    assert (fleet.drain("ant").slot, fleet.drain("bbbb").slot) == (1, 2)
    assert fleet.drained() == {"aaaa11", "bbbb22"}
    with pytest.raises(UserError, match=r"'cow' is no node with a slot: give the id of one of ant \(aaaa11\)"):
        fleet.drain("cow")
    fleet.forget()
    assert (fleet.read(), fleet.drained()) == (None, frozenset())


def test_a_slot_that_is_gone_counts_on(tmp_path: Path) -> None:
    ant, bee, fleet = *PLACES, Fleet(tmp_path)
    fleet.write([ant, bee])
    fleet.write([replace(ant, busy=0.75, seconds=100.0)])
    fleet.write([])  # the cluster is lost; after it numbers begin again
    fleet.write([replace(bee, slot=1, node="cccc33", busy=0.5, seconds=100.0)])
    found = fleet.read()
    assert found and (len(found.slots), found.most, found.seconds, found.busy_seconds) == (1, 2, 220.0, 125.0)
    assert found.now() == "1 slot on 1 node; so far slots were busy 57 % of their time"
    assert found.in_all() == "up to 2 slots at once on 3 nodes, busy 57 % of their time"


def test_a_cluster_without_a_slot_is_told(tmp_path: Path) -> None:
    assert (Cluster().now(), Cluster().in_all()) == ("no slot: the night waits for a node", "no slot all night")


def test_words_of_other_machines_are_safe_to_show(tmp_path: Path) -> None:
    Fleet(tmp_path).write([replace(PLACES[0], host="a\x1b[2Jnt\n" * 90, device="\u202eGPU")])
    found = Fleet(tmp_path).read()
    assert found and found.slots[0].device == "GPU" and len(found.slots[0].host) <= 80
    assert found.slots[0].host.startswith("ant ant")


def test_a_program_of_ones_own_stays_on_this_machine(tmp_path: Path) -> None:
    folder = make_study(tmp_path, device="cpu")
    text = (folder.path / "study.toml").read_text("utf-8").replace('launcher = "local"', 'launcher = "ray"')
    (folder.path / "study.toml").write_text(f'{text}\n[trainer]\ncommand = "true"\n', "utf-8")
    folder.settings = load_settings(folder.path / "study.toml")
    with pytest.raises(UserError, match="a program of your own is run on this machine only"):
        machine_of_runs(folder, print)
