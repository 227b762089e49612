"""What torch can do here, asked in a process of its own: torch takes seconds and memory to load, and may crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from typing import Any

from autoresearch.workers import nvml

# Loading torch from a cold disk, starting CUDA and compiling a small model take a minute together; where others use the
# machine, several.
PROBE_SECONDS = 600.0


class ProbeFailed(Exception):
    """No answer; why, in one line."""


@lru_cache
def ask(*arguments: str) -> dict[str, Any]:
    """What `python -m trainer.capability ARGUMENTS` answers. Raises ProbeFailed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.capability", *arguments],
        env={**os.environ, **nvml.ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # so that a compiler that it has started can be ended with it
    )
    with process:
        try:
            said, complained = process.communicate(timeout=PROBE_SECONDS)
        except BaseException as error:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise ProbeFailed(f"it took longer than {PROBE_SECONDS:g} s") from None
            raise
    if process.returncode:
        last = (complained.strip() or "no message").splitlines()[-1].removeprefix("error: ")
        raise ProbeFailed(last if process.returncode > 0 else f"ended by {_signal(-process.returncode)}: {last}")
    return json.loads(said)


def _signal(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
