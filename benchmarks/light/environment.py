"""The piece `environment`: which versions, which card, what it proves to do, and the text that all others train on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import autoresearch
from light.pieces import Notes, Plan
from light.runs import preset_text

PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "tokenizers",
    "pytest",
    "transformers",
    "megatron-core",
    "transformer-engine",
    "nvidia-ml-py",
)
QUICK_TEXT: dict[str, Any] = {"vocab_size": 512, "val_bytes": 10_000, "test_bytes": 10_000, "max_bytes": 600_000}


def measure(plan: Plan, notes: Notes) -> None:
    notes(
        versions={
            "autoresearch": autoresearch.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        system=platform.platform(),
        processor=f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    )
    import torch

    from trainer.capability import gpus, proven_precisions
    from trainer.run import device_named

    device = device_named(plan.device)
    notes(device=str(device), is_gpu=device.type == "cuda")
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        memory_bytes = card.total_memory
        notes(
            card=card.name,
            memory_bytes=memory_bytes,
            compute_capability=f"{card.major}.{card.minor}",
            multiprocessors=card.multi_processor_count,
            driver=_driver(),
            cuda=torch.version.cuda,
            cudnn=torch.backends.cudnn.version(),
        )
    else:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        notes(card="no GPU", memory_bytes=memory_bytes)

    # Before the probe of the precisions: the others need the text, and only some the probe.
    preset = "gpt-354m" if device.type == "cuda" and not plan.quick else "cpu-nano"
    prepared = {
        "device": str(device),
        "preset": preset,
        "memory_bytes": memory_bytes,
        "uuids": [gpu["uuid"] for gpu in gpus()],
        "precisions": ["bf16"],
        "data_dir": _text(plan, preset),
    }
    notes(plan=prepared)

    proven, refused = proven_precisions(device)
    notes(precisions=proven, refused=refused, plan=prepared | {"precisions": proven})


def _text(plan: Plan, preset: str) -> str:
    """A folder of tokens: the standard library's source, which needs no network."""
    from trainer.data import prepare

    if plan.quick:
        settings = QUICK_TEXT
    else:
        data = tomllib.loads(preset_text(preset, "study.toml"))["data"]
        # Neither text is scored for its figure; the presets' own would take as long as the runs.
        settings = {"vocab_size": data["vocab_size"], "val_bytes": 131_072, "test_bytes": 131_072}
    return str(prepare("stdlib", Path(plan.work) / "data", **settings))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None
