"""What every training child does: it tells how it stands in JSON lines on stdout, and lives as long as its stdin."""

from __future__ import annotations

import fcntl
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoresearch.distill.teach.messages import LOCK
from autoresearch.errors import UserError

REFUSED = 2


Tell = Callable[..., None]


class Teller:
    """Writes events, one JSON object a line."""

    def __init__(self, events: Any) -> None:
        self._events = events

    def __call__(self, event: str, **facts: Any) -> None:
        # json has no NaN; what diverged is told without its loss
        told = {
            key: None if isinstance(fact, float) and not math.isfinite(fact) else fact for key, fact in facts.items()
        }
        print(json.dumps({"event": event, "cpu_seconds": time.process_time(), **told}), file=self._events, flush=True)


def serve(train: Callable[[Path, Tell], None]) -> None:
    """Runs `train` in the folder that the command line names; what a person can mend is told, with exit code 2."""
    folder = Path(sys.argv[1])
    tell = Teller(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)  # what libraries print goes into the log
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with (folder / LOCK).open("w") as lock:
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    "another process is at this training: wait for its end, or take another --out"
                ) from None
            train(folder, tell)
        except UserError as error:
            tell("refused", message=str(error))
            sys.exit(REFUSED)
    tell("done")


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)
