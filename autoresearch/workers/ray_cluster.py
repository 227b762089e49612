"""A Ray cluster: joined, its nodes listed, asked what machine a run would have there."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from typing import Any

from autoresearch.config import Settings, WorkerSettings
from autoresearch.errors import UserError
from autoresearch.workers.energy import Energy
from autoresearch.workers.launcher import Finished
from autoresearch.workers.machine import Machine
from autoresearch.workers.ray_slot import look_there, versions_there
from trainer.protocol import RunRequest, RunResult

ANSWER_SECONDS = 30.0  # of a node that is asked what it has installed
CONNECT_SECONDS = 10.0
NODE_ID_LABEL = "ray.io/node-id"


@dataclass(frozen=True)
class Node:
    """A living node. id: Ray's, new each time that it starts."""

    id: str
    host: str
    address: str
    resources: dict[str, float]
    labels: dict[str, str]

    def fits(self, asked: WorkerSettings) -> int:
        """Slots that it carries when nothing else runs there."""
        wanted = {"CPU": asked.cpus, "GPU": asked.gpus, "memory": asked.memory_bytes or 0}
        if any(self.labels.get(name) != value for name, value in wanted_labels(asked).items()):
            return 0
        rooms = [int(self.resources.get(name, 0.0) / amount + 1e-9) for name, amount in wanted.items() if amount]
        return min(rooms, default=1)


def join(asked: WorkerSettings) -> Any:
    """The module `ray`, connected. Raises UserError where Ray is not installed or no cluster answers."""
    try:
        import ray
    except ImportError:
        raise UserError("workers.launcher is 'ray', which is not installed: pip install -e '.[ray]'") from None
    if ray.is_initialized():
        return ray
    options: dict[str, Any] = {"address": asked.address, "logging_level": "ERROR", "log_to_driver": False}
    if asked.address == "local":
        options["include_dashboard"] = False
    try:
        if ":" in asked.address:  # Ray itself takes minutes to find that nobody listens, and then ends this process
            host, _, port = asked.address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray.init(**options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"no Ray cluster lets us in at workers.address {asked.address!r} ({line}): start one with `ray start "
            "--head`, or set address = 'local'"
        ) from None
    return ray


def nodes(ray: Any) -> list[Node]:
    """Those that are alive."""
    return [
        Node(
            node["NodeID"],
            node["NodeManagerHostname"],
            node["NodeManagerAddress"],
            dict(node["Resources"]),
            dict(node.get("Labels") or {}),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def wanted_labels(asked: WorkerSettings) -> dict[str, str]:
    """Name -> value."""
    return dict(label.split("=", 1) for label in asked.labels)


def options(asked: WorkerSettings, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """What an actor or a task asks Ray for. Lost ones are never begun again by Ray: a run is queued again by its study.

    without: ids of nodes that are to be left alone.
    """
    labels = wanted_labels(asked)
    if without:
        labels[NODE_ID_LABEL] = f"!in({','.join(sorted(without))})"
    found: dict[str, Any] = {"num_cpus": asked.cpus, "num_gpus": asked.gpus}
    if asked.memory_bytes:
        found["memory"] = asked.memory_bytes
    return {**found, **({"label_selector": labels} if labels else {})}


def device_there(settings: Settings) -> str:
    """The device of a run, by its name on the node: Ray shows a worker only the GPUs that are its own.

    Raises UserError where study.toml asks for a GPU and sets none aside.
    """
    gpus, processes = settings.workers.gpus, settings.tensor_parallel * settings.data_parallel
    if settings.device.startswith("cuda:"):
        raise UserError(f"device is {settings.device!r}, but on a cluster Ray chooses the GPU: write device = 'cuda'")
    if gpus == 0 and settings.device == "cuda":
        raise UserError("device is 'cuda', but workers.gpus is 0: set it to the GPUs that one run takes")
    if settings.device == "cpu" and gpus:
        raise UserError("device is 'cpu', but workers.gpus is above 0: leave one of them out")
    if gpus and processes > 1 and gpus != processes:
        raise UserError(f"tensor_parallel x data_parallel is {processes}, so workers.gpus must be {processes} too")
    return "cuda" if gpus else "cpu"


def machine_there(settings: Settings, seconds: float) -> Machine | None:
    """The machine of the first node that has what a run asks for; None where none is free for so long."""
    asked = settings.workers
    ray = join(asked)
    task = ray.remote(max_retries=3, **options(asked))(look_there)
    answer = task.remote(device_there(settings), settings.backend, settings.compile)
    if not ray.wait([answer], timeout=seconds)[0]:
        ray.cancel(answer)
        return None
    try:
        machine: Machine = ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        raise UserError(f"on a node of the cluster: {error.cause}") from None
    if machine.kind == "cpu" and asked.memory_bytes:
        machine = replace(machine, memory_bytes=asked.memory_bytes)
    return machine


def versions(ray: Any, node: Node) -> dict[str, str]:
    """Of what a node has installed for runs. Raises UserError where it does not say so in time, or cannot."""
    task = ray.remote(num_cpus=0, max_retries=0, label_selector={NODE_ID_LABEL: node.id})(versions_there)
    try:
        found: dict[str, str] = ray.get(task.remote(), timeout=ANSWER_SECONDS)
    except ray.exceptions.GetTimeoutError:
        raise UserError(f"says nothing within {ANSWER_SECONDS:g} s") from None
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise UserError(f"cannot do runs: {(str(cause).strip() or '?').splitlines()[-1]}") from None
    return found


def what(asked: WorkerSettings) -> str:
    """What a run asks for, in words."""
    parts = [f"{asked.cpus:g} CPU"] if asked.cpus else []
    parts += [f"{asked.gpus:g} GPU"] if asked.gpus else []
    parts += [f"{asked.memory_bytes / 2**30:g} GiB"] if asked.memory_bytes else []
    return ", ".join(parts + asked.labels) or "nothing"


def lost(settings: Settings, run: RunRequest, seconds: float, message: str, cancelled: bool) -> Finished:
    """The end of a run of which nothing more is heard, its energy estimated."""
    energy, asked = settings.energy, settings.workers
    watts = asked.gpus * energy.gpu_watts or max(asked.cpus, 1.0) * energy.watts_per_core
    result = RunResult(run.run_id, run.seed, "failed", failure="worker_died", message=message)
    return Finished(run.run_id, unwanted(result) if cancelled else result, Energy(seconds * watts, "estimate"))


def unwanted(result: RunResult) -> RunResult:
    """What became of a run that nobody wanted any more is no failure of it."""
    return replace(result, state="cancelled", failure=None)
