"""Looks the machine over before a night is trusted to it."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from autoresearch import words
from autoresearch.config import EnergySettings, WorkerSettings
from autoresearch.errors import UserError
from autoresearch.workers.energy import EnergyMeter
from autoresearch.workers.machine import Machine, look
from autoresearch.workers.ray_slot import versions_there

MIN_FREE_BYTES = 5 * 2**30


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `fine` is False where a night would fail."""

    what: str
    found: str
    fine: bool = True


def examine(home: Path) -> list[Finding]:
    """All findings, in the order in which a person would mend them."""
    there = next(path for path in (home.resolve(), *home.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free
    machine = None
    try:
        machine = look(compile="auto")
        device = Finding("device", _device(machine))
    except UserError as error:
        device = Finding("device", str(error), False)
    return [
        Finding("Python", sys.version.split()[0], sys.version_info >= (3, 11)),
        _git(),
        Finding("disk", f"{free / 2**30:.0f} GiB free where studies live ({there})", free >= MIN_FREE_BYTES),
        device,
        _torch(),
        *([_compile(machine)] if machine is not None else []),
        Finding("energy", f"source: {_energy(machine)}"),
    ]


def examine_cluster(address: str) -> list[Finding]:
    """What a Ray cluster offers, and whether each node has what runs need; one that differs from here is no good."""
    from autoresearch.workers import ray_cluster

    try:
        asked = WorkerSettings(launcher="ray", address=address)
    except ValueError:
        return [Finding("cluster", f"{address!r} is no address: write auto, HOST:PORT or ray://HOST:10001", False)]
    try:
        ray = ray_cluster.join(asked)
    except UserError as error:
        return [Finding("cluster", str(error), False)]
    nodes, here = ray_cluster.nodes(ray), versions_there()
    whole = {name: sum(node.resources.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    offered = ", ".join(f"{amount:g} {name}" for name, amount in whole.items() if amount)
    findings = [
        Finding(
            "cluster", f"Ray {ray.__version__} at {address}, {words.count(len(nodes), 'node')}: {offered or 'nothing'}"
        )
    ]
    for node in nodes:
        what = f"node {node.host} ({node.id[:8]})"
        parts = [f"{node.resources[name]:g} {name}" for name in ("CPU", "GPU") if node.resources.get(name)]
        parts += [f"{node.resources.get('memory', 0.0) / 2**30:.0f} GiB"]
        parts += [f"{name}={value}" for name, value in node.labels.items() if name != ray_cluster.NODE_ID_LABEL]
        try:
            there = ray_cluster.versions(ray, node)
        except UserError as error:
            findings.append(Finding(what, f"{', '.join(parts)}; {error}", False))
            continue
        told = ", ".join(f"{name} {version}" for name, version in there.items())
        unlike = ", ".join(name for name in here if there.get(name) != here[name])
        differs = f"; other than here: {unlike}" if unlike else ""
        findings.append(Finding(what, f"{', '.join(parts)}; {told}{differs}", not unlike))
    return findings


def _device(machine: Machine) -> str:
    shared = ", memory shared with the system" if machine.is_integrated else ""
    name = f"{machine.devices} x {machine.name} ({machine.kind}{shared})"
    return f"{name}, {', '.join(machine.precisions)}"


def _compile(machine: Machine) -> Finding:
    if machine.kind == "cpu":
        return Finding("torch.compile", "not tried: on a CPU it is off unless study.toml says compile = true")
    if machine.compile_fault is None:
        return Finding("torch.compile", "works")
    return Finding("torch.compile", f"does not work, so runs go without: {machine.compile_fault}")


def _energy(machine: Machine | None) -> str:
    if machine is None or machine.kind == "cpu":
        return EnergyMeter(EnergySettings()).source()
    source = EnergyMeter(EnergySettings(), machine.uuids).source([0])
    return f"{source}, from energy.gpu_watts: NVML tells nothing of this GPU" if source == "estimate" else source


def _git() -> Finding:
    git = shutil.which("git")
    if not git:
        return Finding("git", "not found: install it", False)
    version = subprocess.run([git, "--version"], capture_output=True, text=True, check=False).stdout.split()[-1]
    return Finding("git", version)


def _torch() -> Finding:
    # In a process of its own: torch takes seconds and memory that nothing else here needs.
    code = "import torch; print(torch.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return Finding("torch", f"does not import: {(done.stderr.strip() or '?').splitlines()[-1]}", False)
    others = [f"{name} {_version(name)}" for name in ("megatron-core", "transformer-engine")]
    return Finding("torch", f"{done.stdout.strip()}; {', '.join(others)}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
