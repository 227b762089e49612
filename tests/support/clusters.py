"""A Ray cluster of two nodes on this machine, for tests: nodes are added and killed, and a launcher is put on it."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studies import BAD, GOOD, MACHINE, change, query, wait_until

from autoresearch.config import LimitSettings, Settings, WorkerSettings
from autoresearch.night.limits import StopRule
from autoresearch.night.loop import StudyLoop
from autoresearch.proposers.classic import ScriptedProposer
from autoresearch.study.folder import StudyFolder
from autoresearch.study.preset import load_preset
from autoresearch.workers.fleet import Fleet
from autoresearch.workers.launcher import Note

if TYPE_CHECKING:
    from autoresearch.workers.ray_launcher import RayLauncher

STORE_BYTES = 80 * 2**20  # the least that Ray takes
# Slots take so much of a node's single core, so that a node carries two.
CPUS = 0.5
# A short night, and the proposals for it.
SHORT: dict[str, Any] = {
    "decision__baseline_runs": 2,
    "decision__reference_runs": 3,
    "decision__reference_max": 3,
    "decision__max_runs": 3,
}
ANSWERS = [change("lr", 99.0), change("lr", GOOD), change("lr", BAD), change("n_head", 2), change("beta2", 0.9)]


class TwoNodes:
    """`head` is where the driver is, `other` may be killed; slots are placed by the labels site=head, site=other."""

    def __init__(self, folder: str) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "include_dashboard": False,
                "temp_dir": folder,
                "object_store_memory": STORE_BYTES,
                "labels": {"site": "head"},
            },
        )
        self.other = self.add()

    def add(self, site: str = "other", **environment: str) -> Any:
        return self.cluster.add_node(
            num_cpus=1, object_store_memory=STORE_BYTES, labels={"site": site}, env_vars=environment or None
        )

    @contextmanager
    def peculiar(self, site: str, folder: Path, code: str, **environment: str) -> Iterator[None]:
        """One more node of that site, whose Pythons run the code first."""
        (folder / "sitecustomize.py").write_text(code)
        path = os.pathsep.join([str(folder), *filter(None, sys.path)])
        node = self.add(site, PYTHONPATH=path, **environment)
        try:
            yield
        finally:
            self.kill(node)

    def kill(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)


@contextmanager
def head(port: int) -> Iterator[str]:
    """A cluster of one node, killed at the end; its address."""
    from ray.cluster_utils import Cluster

    with _surroundings() as place:
        args = {"gcs_server_port": port, "num_cpus": 1, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        cluster = Cluster(initialize_head=True, head_node_args={**args, "temp_dir": place})
        try:
            yield cluster.address
        finally:
            cluster.shutdown()


@contextmanager
def _surroundings() -> Iterator[str]:
    """What Ray finds in the environment; yields the folder that it is to write to."""
    # A short path: the names of Ray's sockets are in it. Not Ray's usual place, which is one for the whole machine.
    with tempfile.TemporaryDirectory(prefix="ray") as folder, tempfile.TemporaryDirectory() as pids:
        # A person's own token is not ours.
        ours = {"RAY_TMPDIR": folder, "STUB_PIDS": pids, "RAY_AUTH_MODE": "disabled"}
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        place = Path(folder) / "ray"  # as Ray would have it
        place.mkdir()
        try:
            yield str(place)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def two_nodes(as_driver: bool = True) -> Iterator[TwoNodes]:
    """The cluster, with this process as a driver of it."""
    import ray

    with _surroundings() as place:
        nodes = TwoNodes(place)
        try:
            if as_driver:
                ray.init(address=nodes.cluster.address, log_to_driver=False, logging_level=logging.ERROR)
            yield nodes
        finally:
            ray.shutdown()
            nodes.cluster.shutdown()


def here() -> str:
    """The address of the cluster that this process is a driver of."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def cluster_settings(**asked: Any) -> Settings:
    """Of the smallest preset, on Ray."""
    workers = WorkerSettings(launcher="ray", **{"cpus": CPUS, **asked})
    return load_preset("cpu-nano").settings.model_copy(update={"device": "cpu", "workers": workers})


def driver_on(log: Path, command: Sequence[str], slots: int | None = None, **asked: Any) -> Any:
    """A launcher with as many slots as it is to have, `most` by default; it has heard nothing else yet."""
    from autoresearch.workers.ray_driver import RayDriver

    settings = cluster_settings(**asked)
    launcher = RayDriver(settings, log, command=command)
    wait_for_slots(launcher, slots or settings.workers.most or 1)
    return launcher


def launcher_on(
    address: str, log: Path, command: Sequence[str], fleet: Fleet | None = None, slots: int = 1
) -> RayLauncher:
    """A launcher with Ray in a process of its own and as many slots."""
    from autoresearch.workers.ray_launcher import RayLauncher

    launcher = RayLauncher(cluster_settings(address=address, most=slots), log, fleet=fleet, command=command)
    wait_for_slots(launcher, slots)
    return launcher


def told(event: object) -> list[str]:
    """What an event tells a person; that there is no room or there is again, as on a busy machine, is left out."""
    waits = ("has room again", "the night waits for one")
    return [event.text] if isinstance(event, Note) and not any(text in event.text for text in waits) else []


def wait_for_slots(launcher: Any, count: int) -> list[str]:
    """Returns what was told meanwhile."""
    notes: list[str] = []

    def there() -> bool:
        event = launcher.next_event(0.05)
        assert event is None or isinstance(event, Note), event
        notes.extend([event.text] if event else [])
        return launcher.capacity == count

    wait_until(there, 60.0)
    return notes


def night_on(launcher: Any, folder: StudyFolder, answers: list[str], stop: StopRule | None = None) -> str:
    """One night; the launcher is closed. `answers` are the scripted proposals for trials 1, 2, ..."""
    stop = stop or StopRule(folder, LimitSettings(min_free_disk_bytes=0))
    try:
        return StudyLoop(folder, launcher, ScriptedProposer(answers), MACHINE, folder.path, stop).run()
    finally:
        launcher.close()


def facts(folder: StudyFolder) -> list[object]:
    """What a night without a fault gives, to the last bit."""
    return [
        query(folder, "SELECT number, state, decision, changes, val_bpb, n_runs FROM trials ORDER BY number"),
        query(folder, "SELECT trial, seed, purpose, state, val_bpb FROM runs ORDER BY trial, seed"),
    ]
