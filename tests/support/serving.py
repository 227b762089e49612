"""Servers for tests: a real one in a thread of this process, or in a process of its own where signals are real."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from autoresearch.morning.serve import make_app

TOKEN = "a-token-that-nobody-guesses"


@contextmanager
def served(home: Path, token: str | None = None) -> Iterator[httpx.Client]:
    """A client of a server in a thread."""
    config = uvicorn.Config(make_app(home, "one", token), log_level="warning", ws="none")
    server, listener = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextmanager
def process(home: Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """`serve` in a process of its own, where signals are real."""
    call = f"serve(Path({str(home)!r}), 'one', **{options!r})"
    code = f"from pathlib import Path; from autoresearch.morning.serve import serve; {call}"
    env = {name: value for name, value in os.environ.items() if name != "AUTORESEARCH_TOKEN"}
    running = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def address(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    found = re.search(r"http://\S+", running.stdout.readline())
    assert found
    return found[0]


def output_of(running: subprocess.Popen[str]) -> str:
    """What else it had to say when it has ended."""
    assert running.stdout is not None
    text = running.stdout.read()
    running.wait(timeout=60)
    return text
