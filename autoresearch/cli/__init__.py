"""The command line: `autoresearch COMMAND`. Bad input is one line and exit code 2."""

import os
import sqlite3
import sys

# Before numpy is loaded: its threads wait for one another, and beside workers that keep all cores busy the matrices of
# a proposal, which one thread does in 0.03 s, took 0.6 to 3 s.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# ruff: noqa: I001, F401 - each of these adds its commands, which --help shows in this order
from autoresearch.cli import night, adopt, look, cluster, morning, machine, one_go, distill, race
from autoresearch.cli.app import app
from autoresearch.cli.faults import line_of
from autoresearch.errors import UserError
from autoresearch.terminal.console import accept_any_encoding
from autoresearch.terminal.streams import outlive_readers
from rails import RailsError

__all__ = ["app", "main"]


def main() -> None:
    """Entry point: turns the person's mistakes into one line on stderr and exit code 2."""
    outlive_readers()
    accept_any_encoding()
    try:
        app()
    except KeyboardInterrupt:
        print("ended at once; the next run goes on where this one was", file=sys.stderr)
        sys.exit(130)
    except (UserError, RailsError) as error:
        print("error:", "; ".join(filter(None, map(str.strip, str(error).splitlines()))), file=sys.stderr)
        sys.exit(2)
    except (OSError, sqlite3.Error) as error:
        if (line := line_of(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
