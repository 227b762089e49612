"""Several processes that do one run together give the number that one process gives."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from worker_process import Worker

from trainer.data import prepare
from trainer.protocol import RunRequest, RunResult

RequestFor = Callable[..., RunRequest]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("pair"), command=[*TORCHRUN, "-m", "trainer.worker"])
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def odd_data_dir(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a vocabulary that two processes cannot share evenly, and that fills no fast product's tile."""
    return prepare(str(texts), tmp_path_factory.mktemp("data"), vocab_size=511, val_bytes=10_000, test_bytes=10_000)


@pytest.mark.parametrize(
    "knobs",
    [{}, {"grad_accumulation": 2, "optimizer": "muon", "ema_decay": 0.9}, {"precision": "bf16"}],
    ids=["plain", "all at once", "bf16"],
)
def test_two_processes_that_share_each_batch_train_as_one(
    pair: Worker, warm_worker: Worker, request_for: RequestFor, knobs: dict[str, Any]
) -> None:
    alone = warm_worker.run(request_for(score_test=True, **knobs))
    shared = pair.run(request_for(score_test=True, data_parallel=2, **knobs))
    assert (shared.state, shared.processes, shared.params) == ("complete", 2, alone.params)
    assert shared.val_bpb == pytest.approx(alone.val_bpb, abs=1e-3)
    assert shared.test_bpb == pytest.approx(alone.test_bpb, abs=1e-3)
    assert [loss for _, loss in shared.curve] == pytest.approx([loss for _, loss in alone.curve], abs=1e-2)
    assert (shared.tokens, shared.steps) == (alone.tokens, alone.steps)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"activation": "swiglu", "qk_norm": True, "position": "rope", "n_head": 4, "n_kv_head": 2, "norm": "rmsnorm"},
        {"tied_embeddings": False, "precision": "bf16", "dropout": 0.0, "ema_decay": 0.9},
    ],
    ids=["plain", "gated, grouped, rotated", "untied"],
)
def test_two_processes_that_share_each_matrix_train_as_one(
    pair: Worker, warm_worker: Worker, odd_data_dir: Path, request_for: RequestFor, knobs: dict[str, Any]
) -> None:
    knobs |= {"backend": "megatron", "data_dir": str(odd_data_dir)}
    alone = warm_worker.run(request_for(**knobs))
    shared = pair.run(request_for(tensor_parallel=2, **knobs))
    assert (shared.state, shared.message, shared.processes) == ("complete", "", 2)
    assert (shared.params, shared.flops_per_token) == (alone.params, alone.flops_per_token)
    assert shared.tokens == alone.tokens
    assert shared.val_bpb == pytest.approx(alone.val_bpb, abs=1e-3)
    assert [loss for _, loss in shared.curve] == pytest.approx([loss for _, loss in alone.curve], abs=1e-2)


def test_megatron_shares_batches_too(pair: Worker, warm_worker: Worker, request_for: RequestFor) -> None:
    alone = warm_worker.run(request_for(backend="megatron"))
    shared = pair.run(request_for(backend="megatron", data_parallel=2))
    assert shared.val_bpb == pytest.approx(alone.val_bpb, abs=1e-3)


@pytest.mark.parametrize("shares", [{"data_parallel": 2}, {"tensor_parallel": 2, "backend": "megatron"}])
def test_two_processes_score_at_a_fixed_window_as_one(
    pair: Worker, warm_worker: Worker, request_for: RequestFor, shares: dict[str, Any]
) -> None:
    knobs = {"seq_len": 64, "batch_size": 2, "position": "rope", "score_window": 32}
    alone, shared = warm_worker.run(request_for(**knobs)), pair.run(request_for(**knobs, **shares))
    assert (shared.state, shared.processes) == ("complete", 2)
    assert shared.window_bpb == pytest.approx(alone.window_bpb, abs=1e-3)
    assert alone.window_bpb is not None and alone.window_bpb != alone.val_bpb


def test_a_budget_in_seconds_ends_for_both_at_the_same_step(pair: Worker, request_for: RequestFor) -> None:
    result = pair.run(request_for(data_parallel=2, budget={"seconds": 0.5}))
    assert result.state == "complete" and result.steps


def test_a_cancelled_run_ends_for_both_at_the_same_step_and_the_next_is_done(
    pair: Worker, request_for: RequestFor
) -> None:
    before = pair.run(request_for(data_parallel=2))
    request = request_for(data_parallel=2, budget={"steps": 10_000_000})
    pair.submit(request)
    pair.events_until("progress")
    pair.cancel(request.run_id)
    pair.events_until("done")
    result = RunResult.read(request.result_path)
    assert (result.state, result.processes, result.val_bpb) == ("cancelled", 2, None)
    assert result.steps and result.curve[-1][0] == result.steps
    after = pair.run(request_for(data_parallel=2))
    assert (after.state, after.val_bpb, after.curve) == ("complete", before.val_bpb, before.curve)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_parallel": 2, "batch_size": 3}, "batch_size is 3; it must be a multiple of data_parallel (2)"),
        ({}, "takes 1 processes, but the worker was started as 2"),
        ({"tensor_parallel": 2}, "only backend 'megatron' shares matrices"),
    ],
)
def test_what_cannot_be_shared_is_said_and_the_processes_end(
    tmp_path: Path, request_for: RequestFor, changes: dict[str, Any], message: str
) -> None:
    worker = Worker(tmp_path, command=[*TORCHRUN, "-m", "trainer.worker"])
    try:
        result = worker.run(request_for(**changes))
        assert (result.state, result.failure) == ("failed", "error")
        assert message in result.message
        assert worker.process.wait(timeout=30) != 0
    finally:
        worker.close()


def test_one_process_alone_says_how_to_start_more(warm_worker: Worker, request_for: RequestFor) -> None:
    result = warm_worker.run(request_for(data_parallel=2))
    assert "started as 1: start it through torchrun with --nproc-per-node 2" in result.message


def test_no_process_outlives_torchrun(tmp_path: Path, request_for: RequestFor) -> None:
    worker = Worker(tmp_path, command=[*TORCHRUN, "-m", "trainer.worker"])
    worker.submit(request_for(data_parallel=2, budget={"steps": 10_000_000}))
    worker.events_until("progress")
    children = psutil.Process(worker.process.pid).children(recursive=True)
    assert len(children) >= 2
    worker.process.kill()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert not alive and len(gone) == len(children)
    worker.close()
