"""The command line with stub workers, `python stub_cli.py COMMAND ...`: all else is as when a person runs it."""

from __future__ import annotations

from functools import partial

from studies import STUB

from autoresearch.cli import main
from autoresearch.study import requests
from autoresearch.workers.local import LocalLauncher

if __name__ == "__main__":
    setattr(requests, "LocalLauncher", partial(LocalLauncher, command=STUB))  # noqa: B010  a type is not assigned to
    main()
