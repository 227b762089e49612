"""Runs of several processes, as a study sees them: which devices they take, what they cost, and that they end."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from studies import wait_until

from autoresearch.config import EnergySettings
from autoresearch.errors import UserError
from autoresearch.study.preset import load_preset
from autoresearch.workers.energy import estimate
from autoresearch.workers.launcher import Finished, Progress
from autoresearch.workers.local import LocalLauncher
from autoresearch.workers.machine import Machine
from trainer.data import prepare
from trainer.protocol import RunRequest, RunResult

GPUS = Machine("cuda", "H200", 5, 140 * 2**30, ("fp32", "bf16"))
CORES = Machine("cpu", "some", 8, 2**30, ("fp32", "bf16"))
NANO = load_preset("cpu-nano").recipe | {"n_layer": 1, "d_model": 64, "d_ff": 128, "seq_len": 64}


@pytest.mark.parametrize(
    ("device", "workers", "processes", "expected"),
    [
        ("auto", None, 1, ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:4"]),
        ("auto", None, 2, ["cuda:0", "cuda:2"]),
        ("cuda:1", None, 4, ["cuda:1"]),
        ("cuda:3", 2, 1, ["cuda:3", "cuda:3"]),
        ("auto", 3, 2, ["cuda:0", "cuda:2", "cuda:0"]),
    ],
)
def test_each_worker_has_as_many_gpus_as_a_run_has_processes(
    device: str, workers: int | None, processes: int, expected: list[str]
) -> None:
    assert GPUS.worker_devices(device, workers, processes) == expected


def test_cores_are_shared_out_among_processes() -> None:
    assert [len(CORES.worker_devices("cpu", None, processes)) for processes in (1, 2, 3, 16)] == [8, 4, 2, 1]


@pytest.mark.parametrize(("device", "processes", "left"), [("auto", 6, 5), ("cuda:3", 4, 2)])
def test_too_few_gpus_for_one_run_is_said(device: str, processes: int, left: int) -> None:
    with pytest.raises(UserError, match=rf"data_parallel is {processes}, but device '{device}' leaves {left} GPUs"):
        GPUS.worker_devices(device, None, processes)


def test_an_estimate_counts_every_process() -> None:
    settings = EnergySettings(watts_per_core=10.0, gpu_watts=300.0)
    result: dict[str, Any] = {"run_id": "a", "seed": 0, "state": "complete", "processes": 4}
    assert estimate(settings, RunResult(**result, device="cpu", cpu_seconds=2.0)).joules == 80.0
    assert estimate(settings, RunResult(**result, device="cuda:0", total_seconds=2.0)).joules == 2400.0


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = tmp_path_factory.mktemp("texts")
    for name in ("argparse", "ast", "decimal", "inspect"):
        source = Path(sysconfig.get_paths()["stdlib"]) / f"{name}.py"
        (texts / f"{name}.txt").write_bytes(source.read_bytes())
    return prepare(str(texts), tmp_path_factory.mktemp("data"), vocab_size=512, val_bytes=10_000, test_bytes=10_000)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[LocalLauncher]:
    energy = EnergySettings(watts_per_core=10.0)
    launcher = LocalLauncher(["cpu"], energy, tmp_path / "workers.log", processes=2)
    yield launcher
    launcher.close()


def request(folder: Path, data_dir: Path, name: str, steps: int) -> RunRequest:
    (folder / name).mkdir()
    return RunRequest(
        name, NANO, 0, {"steps": steps}, str(data_dir), str(folder / name / "result.json"), data_parallel=2
    )


def finished(launcher: LocalLauncher) -> Finished:
    while True:
        event = launcher.next_event(60)
        assert event is not None, "the workers are silent"
        if isinstance(event, Finished):
            return event


def test_a_run_of_two_processes_is_one_run_and_pays_for_both(
    pair: LocalLauncher, tmp_path: Path, data_dir: Path
) -> None:
    pair.submit(request(tmp_path, data_dir, "run", 5), 60)
    done = finished(pair)
    assert (done.result.state, done.result.processes, done.result.steps) == ("complete", 2, 5)
    assert done.result.cpu_seconds is not None
    assert done.energy.joules == pytest.approx(10.0 * 2 * done.result.cpu_seconds)


def test_a_run_that_takes_too_long_takes_all_its_processes_with_it_and_the_next_is_done(
    pair: LocalLauncher, tmp_path: Path, data_dir: Path
) -> None:
    pair.submit(request(tmp_path, data_dir, "warm", 1), 60)
    assert finished(pair).result.state == "complete"
    processes = [p for p in psutil.Process().children(recursive=True) if "trainer.worker" in " ".join(p.cmdline())]
    assert len(processes) == 3  # torchrun and two of its own
    pair.submit(request(tmp_path, data_dir, "endless", 10**7), 1.0)
    while not isinstance(event := pair.next_event(10), Finished):
        assert event is None or isinstance(event, Progress)
    assert event.result.failure == "timed_out"
    wait_until(lambda: not any(process.is_running() for process in processes))
    pair.submit(request(tmp_path, data_dir, "next", 2), 60)
    assert finished(pair).result.state == "complete"
