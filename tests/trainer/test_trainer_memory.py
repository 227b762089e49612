"""What a run leaves behind, and what it may take: also after a GPU error that stays with the process."""

import json
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from worker_process import Worker

from trainer.memory import MemoryPeak, limit_memory, release_memory
from trainer.protocol import RunRequest, RunResult

RequestFor = Callable[..., RunRequest]
GPU = torch.device("cuda", 1)
GIB = 2**30

# A worker whose GPU, from the first run on, answers each call as CUDA does after a fault that stays with its context.
BROKEN = """
import torch, trainer.run, trainer.worker

def broken(*_, **__):
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

def run(request, report, is_cancelled, facts, started):
    facts |= {"device": "cuda:0", "steps": 7}
    HOW

torch.cuda.is_available = lambda: True
torch.cuda.empty_cache = torch.cuda.synchronize = torch.cuda.get_device_name = broken
torch.manual_seed = lambda seed: None
trainer.run._train_and_score = run
trainer.worker.main()
"""


def left_by(request: RunRequest, how: str) -> tuple[RunResult, int, str]:
    """The result of a run in such a worker, the worker's exit code and its last words."""
    path = request.result_path + ".request"
    request.write(path)
    with subprocess.Popen(
        [sys.executable, "-c", BROKEN.replace("HOW", how)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdin is not None and worker.stdout is not None and worker.stderr is not None
        print(path, file=worker.stdin, flush=True)
        events = [json.loads(line)["event"] for line in worker.stdout]  # until it has ended by itself
        words = worker.stderr.read()
    assert events[-1] == "done"
    return RunResult.read(request.result_path), worker.wait(), words


def test_a_gpu_error_that_stays_ends_the_worker_with_a_result_written(request_for: RequestFor) -> None:
    result, code, words = left_by(request_for(), "broken()")
    assert (result.state, result.failure, result.steps) == ("failed", "error", 7)
    assert "illegal memory access" in result.message
    assert code == 1 and "start another worker" in words


def test_a_gpu_that_breaks_after_the_last_step_costs_no_result_and_no_other_run(request_for: RequestFor) -> None:
    facts = "facts['processes'] = 1; return {'state': 'complete', 'val_bpb': 2.5}"
    result, code, words = left_by(request_for(), facts)
    assert (result.state, result.val_bpb, result.peak_flops) == ("complete", 2.5, None)
    assert code == 1 and "start another worker" in words


def test_a_peak_that_a_gpu_no_longer_tells_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    peak = MemoryPeak(GPU)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * GIB)
    assert peak.bytes_if_told() == peak.bytes() == 3 * GIB

    def broken(device: torch.device) -> int:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", broken)
    assert peak.bytes_if_told() is None
    assert (MemoryPeak(torch.device("cpu")).bytes_if_told() or 0) > 0


@pytest.mark.parametrize(("allowed", "fraction"), [(None, 1.0), (30 * GIB, 0.25), (240 * GIB, 1.0)])
def test_a_process_is_held_to_its_part_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, allowed: int | None, fraction: float
) -> None:
    told: list[tuple[float, torch.device]] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=120 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: told.append(given))
    limit_memory(torch.device("cpu"), allowed)
    assert told == []
    limit_memory(GPU, allowed)
    assert told == [(fraction, GPU)]


def test_memory_is_released_where_there_is_no_gpu() -> None:
    release_memory()


@pytest.mark.gpu
def test_a_run_over_its_part_of_a_gpu_is_out_of_memory_and_the_next_one_works(
    warm_worker: Worker, request_for: RequestFor
) -> None:
    for compiled in (False, True):
        small = request_for(device="cuda", memory_bytes=2 * GIB, compile=compiled)
        large = request_for(device="cuda", memory_bytes=2 * GIB, compile=compiled, d_ff=2**24)
        first, refused, again = (warm_worker.run(request) for request in (small, large, small))
        assert (first.state, refused.failure, again.state) == ("complete", "out_of_memory", "complete")
        assert first.peak_memory_bytes and again.peak_memory_bytes
        assert again.peak_memory_bytes < 1.05 * first.peak_memory_bytes
