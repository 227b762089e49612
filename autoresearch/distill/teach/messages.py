"""The files in which a training and whoever ordered it speak to each other: a request in, a result out."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

REQUEST, RESULT, STATE, ENERGY, LOCK = "request.json", "result.json", "state.pt", "energy.json", "lock"
MADE = "made"  # the folder of what becomes of it


def write(message: Any, path: Path) -> None:
    """A dataclass or a dict, so that a reader sees all of it or none."""
    text = json.dumps(message if isinstance(message, dict) else asdict(message), indent=1, allow_nan=False)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(f"{text}\n", encoding="utf-8")
    partial.replace(path)
