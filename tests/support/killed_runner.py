"""A night on a cluster that kills itself once it has handed out its Nth run: ADDRESS HOME N, answers by stdin."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from clusters import launcher_on, night_on
from studies import STUB

from autoresearch.study.folder import StudyFolder


def main() -> None:
    address, home, fatal = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    folder = StudyFolder(home, "one")
    launcher: Any = launcher_on(address, folder.path / "workers.log", STUB)
    usual, count = launcher.submit, 0

    def submit(*arguments: Any) -> None:
        nonlocal count
        usual(*arguments)
        count += 1
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    launcher.submit = submit
    night_on(launcher, folder, json.load(sys.stdin))


if __name__ == "__main__":
    main()
