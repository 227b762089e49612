"""A training's state on disk: all of it or what was there before, also where a kill comes in between."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save_state(state: dict[str, Any], path: Path) -> None:
    """Tensors, numbers and containers of them."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_state(path: Path) -> dict[str, Any]:
    """On the processor."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
