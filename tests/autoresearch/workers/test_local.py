"""Worker processes: what they say is heard, what they leave behind is cleaned up, and no run is taken for another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from launching import event, finished, progress, submit
from studies import STUB, is_running, wait_until

from autoresearch.config import EnergySettings
from autoresearch.workers import process
from autoresearch.workers.launcher import Finished
from autoresearch.workers.local import LocalLauncher
from autoresearch.workers.process import WorkerProcess
from trainer.protocol import RunRequest

WORKER = """
import json, os, subprocess, sys, time
from pathlib import Path
from trainer.protocol import RunRequest, RunResult

def tell(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)

def complete(request, **facts):
    RunResult(request.run_id, request.seed, "complete", val_bpb=2.5, **facts).write(request.result_path)

START
for line in sys.stdin:
    request = RunRequest.read(line.strip())
BODY
"""
SLEEPER = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
# The process ids of a worker and of a child of it, as a progress event that a test can read.
TELL_PIDS = "tell('progress', run_id=request.run_id, phase='train', step=child.pid, steps=os.getpid(), loss=1.0)"

Start = Callable[..., LocalLauncher]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts workers that do `body` for each request; ends them after the test."""
    launchers: list[LocalLauncher] = []

    def start(body: str | None = None, at_start: str = "", devices: tuple[str, ...] = ("cpu",)) -> LocalLauncher:
        command = list(STUB)
        if body is not None:
            script = tmp_path / "worker.py"
            body = textwrap.indent(textwrap.dedent(body).strip(), "    ")
            script.write_text(WORKER.replace("BODY", body).replace("START", textwrap.dedent(at_start)))
            command[1] = str(script)
        launchers.append(LocalLauncher(devices, EnergySettings(), tmp_path / "workers.log", command=command))
        return launchers[-1]

    yield start
    for launcher in launchers:
        launcher.close()


def worker_pids(folder: Path) -> list[int]:
    """Of those that this process has begun for the test with that folder."""
    children = psutil.Process().children()
    return [child.pid for child in children if is_running(child.pid) and str(folder) in " ".join(child.cmdline())]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of the workers' deadlines; `clock.ahead` seconds before the real one."""
    clock = SimpleNamespace(ahead=0.0)
    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + clock.ahead))
    return clock


def test_each_worker_has_a_device_of_its_own(start: Start, tmp_path: Path) -> None:
    meet = """
        Path(request.result_path).with_name("here").touch()
        other = Path(request.result_path).parents[1] / {"a": "b", "b": "a"}[request.run_id]
        while not (other / "here").exists():
            time.sleep(0.005)
        complete(request, device=request.device)
        tell("done", run_id=request.run_id)"""
    launcher = start(meet, devices=("cuda:0", "cuda:1"))
    assert launcher.capacity == 2
    for run_id in "ab":
        submit(launcher, tmp_path, run_id)
    ends = {end.run_id: end.result.device for end in (finished(launcher), finished(launcher))}
    assert ends == {"a": "cuda:0", "b": "cuda:1"}
    assert [RunRequest.read(tmp_path / run_id / "request.json").device for run_id in "ab"] == ["cuda:0", "cuda:1"]


def test_a_run_that_hangs_is_killed_with_its_children(start: Start, tmp_path: Path, clock: SimpleNamespace) -> None:
    launcher = start(f"child = {SLEEPER}\n{TELL_PIDS}\ntime.sleep(600)")
    submit(launcher, tmp_path, seconds=60)
    pids = progress(launcher)
    assert is_running(pids.step) and is_running(pids.steps)
    assert launcher.next_event(0) is None, "it still has time"
    clock.ahead = 61
    result = finished(launcher).result
    assert (result.state, result.failure, result.val_bpb) == ("failed", "timed_out", None)
    assert "limits.run_seconds" in result.message
    wait_until(lambda: not is_running(pids.step) and not is_running(pids.steps))


def test_a_cancelled_run_that_does_not_end_is_killed_after_a_while(
    start: Start, tmp_path: Path, clock: SimpleNamespace
) -> None:
    launcher = start(f"child = {SLEEPER}\n{TELL_PIDS}\ntime.sleep(600)")
    submit(launcher, tmp_path)
    pids = progress(launcher)
    launcher.cancel("0001-0")
    assert launcher.next_event(0) is None, "it still has time"
    clock.ahead = WorkerProcess.GRACE_SECONDS + 1
    end = finished(launcher)
    assert (end.result.state, end.result.failure, end.result.curve) == ("cancelled", None, [])
    assert end.result.message == "it did not end when it was cancelled" and end.energy.joules > 0
    wait_until(lambda: not is_running(pids.step) and not is_running(pids.steps))


@pytest.mark.parametrize(("end", "code"), [("os._exit(7)", 7), ("os.kill(os.getpid(), 9)", -9)])
def test_a_worker_that_dies_is_reported_with_its_exit_code(start: Start, tmp_path: Path, end: str, code: int) -> None:
    launcher = start(end)
    submit(launcher, tmp_path)
    assert f"exit code {code}" in finished(launcher).result.message


@pytest.mark.parametrize(
    ("kills", "failure"),
    [([4, 4, 5], "out_of_memory"), ([4, 4, 4], "worker_died"), ([None] * 3, "out_of_memory")],
    ids=["the kernel's", "somebody's", "nobody counts"],
)
def test_a_worker_that_the_kernel_killed_ran_out_of_memory(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: list[int | None], failure: str
) -> None:
    monkeypatch.setattr(process, "oom_kills", iter(kills).__next__)
    launcher = start("os.kill(os.getpid(), 9)")
    submit(launcher, tmp_path)
    assert finished(launcher).result.failure == failure


def test_a_worker_that_dies_between_runs_costs_no_run(start: Start, tmp_path: Path) -> None:
    once = """
        complete(request, device=str(os.getpid()))
        tell("done", run_id=request.run_id)
        sys.exit()"""
    launcher = start(once)
    submit(launcher, tmp_path)
    first = int(finished(launcher).result.device)
    wait_until(lambda: not is_running(first))
    submit(launcher, tmp_path, "0002-0")
    assert int(finished(launcher).result.device) != first


def test_the_children_of_a_worker_that_dies_go_with_it(start: Start, tmp_path: Path) -> None:
    # A fork holds the worker's pipes open: their end cannot be what tells of its death.
    body = """
        child = os.fork()
        if not child:
            time.sleep(600)
        tell("progress", run_id=request.run_id, phase="train", step=child, steps=1, loss=None)
        os._exit(3)"""
    launcher = start(body)
    submit(launcher, tmp_path)
    child = progress(launcher).step
    assert "exit code 3" in finished(launcher).result.message
    wait_until(lambda: not is_running(child))


def test_a_worker_that_cannot_start_is_an_event_and_no_exception(start: Start, tmp_path: Path) -> None:
    launcher = start("pass", at_start="import no_such_module_here")
    submit(launcher, tmp_path)
    assert "exit code 1" in finished(launcher).result.message
    wait_until(lambda: not any(map(is_running, worker_pids(tmp_path))))
    submit(launcher, tmp_path, "0002-0")  # to a process that ends while it is spoken to, or has ended
    assert finished(launcher).result.failure == "worker_died"


def test_noise_on_stdout_is_no_event(start: Start, tmp_path: Path) -> None:
    noise = r"""
        print("loading 10 %")
        print("[1, 2]\nnull\n\"done\"\n{}\n{\"run_id\": \"0001-0\"}\n")
        sys.stdout.flush()
        sys.stdout.buffer.write(b"\xff\xfe\x00\n" + b"x" * 300_000 + b"\n")
        sys.stdout.buffer.flush()
        tell("sung", run_id=request.run_id)
        tell("progress", run_id="0000-0", phase="train", step=1, steps=2, loss=9.0)
        tell("done", run_id="0000-0", state="complete")
        complete(request)
        tell("done", run_id=request.run_id)"""
    launcher = start(noise)
    submit(launcher, tmp_path)
    heard = event(launcher)
    assert isinstance(heard, Finished) and heard.result.state == "complete"


def test_a_result_written_before_the_worker_died_counts(start: Start, tmp_path: Path) -> None:
    launcher = start("complete(request)\nos._exit(9)")
    submit(launcher, tmp_path)
    assert finished(launcher).result.val_bpb == 2.5


@pytest.mark.parametrize("left", ["", "Path(request.result_path).write_text('{half')"], ids=["none", "half"])
def test_a_run_without_a_readable_result_is_an_error(start: Start, tmp_path: Path, left: str) -> None:
    launcher = start(f"{left}\ntell('done', run_id=request.run_id, state='complete', val_bpb=2.5)")
    submit(launcher, tmp_path)
    result = finished(launcher).result
    assert (result.state, result.failure, result.val_bpb) == ("failed", "error", None)
    assert "result file" in result.message


def test_a_refused_request_is_an_error_with_the_workers_reason(start: Start, tmp_path: Path) -> None:
    launcher = start("tell('refused', path=line, message='disk is full')")
    submit(launcher, tmp_path)
    result = finished(launcher).result
    assert result.failure == "error" and "disk is full" in result.message


def test_the_last_words_of_a_run_are_in_its_own_log(start: Start, tmp_path: Path) -> None:
    # More than a reader that lags behind the events would have read when the run ends.
    body = """
        for number in range(3000):
            sys.stderr.write(f"{request.run_id} line {number}\\n")
        complete(request)
        tell("done", run_id=request.run_id)"""
    launcher = start(body)
    for run_id in ("0001-0", "0002-0"):
        folder = submit(launcher, tmp_path, run_id)
        finished(launcher)
        lines = (folder / "worker.log").read_text().splitlines()
        assert lines == [f"{run_id} line {number}" for number in range(3000)]


def test_the_last_words_of_a_worker_that_dies_are_in_the_log_of_its_run(start: Start, tmp_path: Path) -> None:
    launcher = start("sys.stderr.write('Traceback ...\\n' * 3000 + 'out of memory')\nsys.stderr.flush()\nos._exit(1)")
    folder = submit(launcher, tmp_path)
    finished(launcher)
    assert (folder / "worker.log").read_text().splitlines()[-1] == "out of memory"


def test_a_second_attempt_adds_to_the_log_of_the_first(start: Start, tmp_path: Path) -> None:
    launcher = start("print('about to die', file=sys.stderr, flush=True)\nos._exit(1)")
    for _ in range(2):
        folder = submit(launcher, tmp_path)
        finished(launcher)
    assert (folder / "worker.log").read_text().splitlines() == ["about to die"] * 2


def test_what_a_worker_says_at_its_start_is_in_the_studys_log(start: Start, tmp_path: Path) -> None:
    launcher = start(
        "complete(request)\ntell('done', run_id=request.run_id)",
        at_start="print('a warning from a library', file=sys.stderr)",
    )
    log = tmp_path / "workers.log"
    wait_until(lambda: log.exists() and log.read_text() == "a warning from a library\n")
    folder = submit(launcher, tmp_path)
    finished(launcher)
    assert (folder / "worker.log").read_text() == ""


ENVIRONMENT = """
    complete(request, versions={"threads": os.environ.get("OMP_NUM_THREADS", "not set")})
    tell("done", run_id=request.run_id)"""


@pytest.mark.parametrize("said", ["8", "", None])
def test_a_cpu_worker_has_one_thread_whatever_the_shell_says(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None
) -> None:
    if said is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    launcher = start(ENVIRONMENT)
    submit(launcher, tmp_path)
    assert finished(launcher).result.versions == {"threads": "1"}


def test_the_threads_of_a_gpu_worker_are_left_alone(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    launcher = start(ENVIRONMENT, devices=("cuda:0",))
    submit(launcher, tmp_path)
    assert finished(launcher).result.versions == {"threads": "8"}


def test_ctrl_c_in_the_terminal_does_not_reach_the_workers(start: Start, tmp_path: Path) -> None:
    launcher = start("complete(request, device=str(os.getsid(0)))\ntell('done', run_id=request.run_id)")
    submit(launcher, tmp_path)
    assert int(finished(launcher).result.device) != os.getsid(0)


def test_closing_leaves_no_child_of_a_worker(start: Start, tmp_path: Path) -> None:
    launcher = start(f"child = {SLEEPER}\n{TELL_PIDS}\ntime.sleep(600)", devices=("cpu", "cpu"))
    submit(launcher, tmp_path)
    pids = progress(launcher)
    workers = worker_pids(tmp_path)
    assert len(workers) == 2 and pids.steps in workers
    launcher.close()
    wait_until(lambda: not any(is_running(pid) for pid in (*workers, pids.step)))


def test_when_the_runner_is_killed_no_worker_stays(tmp_path: Path) -> None:
    runner = f"""
import time
from pathlib import Path
from autoresearch.config import EnergySettings
from autoresearch.workers.local import LocalLauncher
LocalLauncher(["cpu"] * 2, EnergySettings(), Path({str(tmp_path)!r}) / "workers.log", command={STUB!r})
print("started", flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", runner], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        workers = [child.pid for child in psutil.Process(process.pid).children()]
        assert len(workers) == 2
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(is_running(pid) for pid in workers))
