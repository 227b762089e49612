"""One piece, as first_light.py starts it: python -m light.pieces NAME PLAN FOUND."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_LOOKS = 0.5  # at whether first_light.py is still there


@dataclass(frozen=True)
class Plan:
    """What to measure on. All but the first three are what the piece `environment` found."""

    device: str  # auto, cpu, cuda or cuda:N; after `environment` without auto
    quick: bool
    work: str  # a folder for what nobody needs afterwards
    preset: str = ""
    data_dir: str = ""
    precisions: tuple[str, ...] = ()  # proven
    memory_bytes: int = 0  # the card's or the machine's
    uuids: tuple[str, ...] = ()  # of cuda:0, cuda:1, ... as torch has them

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def steps(self) -> int:
        """Of a run whose speed counts."""
        return 4 if self.quick else 40 if self.on_gpu else 16


@dataclass
class Notes:
    """What a piece has found so far, in a file that is whole at any moment."""

    path: Path
    found: dict[str, Any] = field(default_factory=dict)

    def __call__(self, **facts: Any) -> None:
        self.found |= facts
        self._write()

    def add(self, rows: str, row: dict[str, Any]) -> None:
        """One more row of a table."""
        self.found.setdefault(rows, []).append(row)
        self._write()

    def nothing_to_do(self, why: str) -> None:
        self(ended=["skipped", why])

    def _write(self) -> None:
        partial = self.path.with_suffix(".tmp")
        partial.write_text(json.dumps(self.found))
        partial.replace(self.path)


def main() -> None:
    name, asked, found = sys.argv[1:]
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    plan = json.loads(Path(asked).read_text())
    plan |= {name: tuple(plan.get(name, ())) for name in ("precisions", "uuids")}
    import_module(f"light.{name}").measure(Plan(**plan), Notes(Path(found)))


def _end_with(parent: int) -> None:
    """This process leads a session of its own, so that nothing else ends it when first_light.py is killed."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
