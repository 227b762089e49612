"""Output that takes whatever happens to it: a signal handler that speaks while somebody else does."""

from __future__ import annotations

import subprocess
import sys

SPEAKS = """
import os, signal, sys, threading, time
from autoresearch.terminal.streams import outlive_readers
outlive_readers()
signal.signal(signal.SIGUSR1, lambda number, frame: print("heard", flush=True))
def speak_up():
    for _ in range(300):
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.0005)
thread = threading.Thread(target=speak_up)
thread.start()
while thread.is_alive():
    print("x" * 200, flush=True)
"""


def test_a_signal_handler_may_speak_while_a_line_is_being_written() -> None:
    done = subprocess.run([sys.executable, "-c", SPEAKS], capture_output=True, text=True)
    assert done.returncode == 0 and "heard" in done.stdout, done.stderr[-500:]
