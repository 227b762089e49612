"""The worker as a launcher sees it: a real process, its events and its result files."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from worker_process import Worker

from trainer.metric import EVALUATION_TOKENS
from trainer.protocol import RunRequest

RequestFor = Callable[..., RunRequest]
NewWorker = Callable[..., Worker]

FOREVER = {"steps": 10_000_000}


def test_one_seed_repeats_to_the_last_bit_in_fresh_and_warm_workers(
    new_worker: NewWorker, warm_worker: Worker, request_for: RequestFor
) -> None:
    fresh = new_worker().run(request_for(score_test=True))

    warm = [warm_worker.run(request_for(score_test=True)) for _ in range(3)]
    other_shape = warm_worker.run(request_for(n_layer=3, d_model=64, batch_size=3, seq_len=48, seed=5))
    failed = warm_worker.run(request_for(lr=1e3, grad_clip=1e3))
    refused = warm_worker.run(request_for(n_head=5))
    warm.append(warm_worker.run(request_for(score_test=True)))

    assert (other_shape.state, failed.failure, refused.failure) == ("complete", "diverged", "error")
    assert fresh.state == "complete"
    for result in warm:
        assert (result.val_bpb, result.test_bpb, result.curve) == (fresh.val_bpb, fresh.test_bpb, fresh.curve)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_another_seed_gives_another_number(warm_worker: Worker, request_for: RequestFor, precision: str) -> None:
    scores = {warm_worker.run(request_for(precision=precision, seed=seed)).val_bpb for seed in (0, 1, 0)}
    assert len(scores) == 2


def test_training_brings_the_score_far_below_a_guess(warm_worker: Worker, request_for: RequestFor) -> None:
    short = warm_worker.run(request_for(budget={"steps": 1}))
    long = warm_worker.run(request_for(budget={"steps": 300}))
    assert short.val_bpb is not None and long.val_bpb is not None
    assert long.val_bpb < 0.85 * short.val_bpb


def test_a_result_accounts_for_the_run(warm_worker: Worker, request_for: RequestFor) -> None:
    request = request_for(budget={"tokens": 100 * 4 * 32 + 17}, score_test=True)
    result = warm_worker.run(request)

    assert (result.run_id, result.seed, result.state, result.failure) == (request.run_id, 0, "complete", None)
    assert (result.steps, result.tokens, result.device) == (100, 100 * 4 * 32, "cpu")
    assert result.params == (512 + 32) * 32 + 2 * (4 * 32 * 32 + 2 * 32 * 64 + 4 * 32) + 2 * 32
    assert [point[0] for point in result.curve] == list(range(2, 101, 2))
    assert result.curve[0][1] == pytest.approx(math.log(512), rel=0.05)
    assert result.train_seconds and result.eval_seconds and result.total_seconds and result.cpu_seconds
    assert result.total_seconds > result.train_seconds + result.eval_seconds
    assert result.first_step_seconds and result.first_step_seconds < result.total_seconds
    assert result.started_at < result.finished_at
    assert result.versions.keys() == {"torch", "python"}


def test_looks_at_the_validation_text_on_the_way_change_nothing(warm_worker: Worker, request_for: RequestFor) -> None:
    plain = warm_worker.run(request_for(dropout=0.1, score_test=True))
    watched = warm_worker.run(request_for(dropout=0.1, score_test=True, val_points=3))

    assert (watched.val_bpb, watched.test_bpb, watched.curve) == (plain.val_bpb, plain.test_bpb, plain.curve)
    assert plain.val_curve == [] and watched.steps is not None
    steps, nats = zip(*watched.val_curve, strict=True)
    assert list(steps) == [round(watched.steps * share) for share in (0.25, 0.5, 0.75)]
    assert math.log(512) > nats[0] > nats[-1] > 0


def test_a_result_says_where_a_step_went_and_how_well_the_device_was_used(
    warm_worker: Worker, request_for: RequestFor
) -> None:
    result = warm_worker.run(request_for(budget={"steps": 50}))
    assert list(result.step_seconds) == ["data", "forward", "backward", "optimizer"]
    assert all(seconds > 0 for seconds in result.step_seconds.values())
    assert result.tokens_per_second and result.tokens_per_second <= 4 * 32 / sum(result.step_seconds.values())
    weights = 2 * (4 * 32 * 32 + 2 * 32 * 64) + 512 * 32
    assert result.flops_per_token == 6 * weights + 12 * 2 * 32 * 32
    assert result.peak_flops and result.peak_flops_source == "measured"
    assert result.mfu == pytest.approx(result.flops_per_token * result.tokens_per_second / result.peak_flops)


def test_a_run_for_speed_alone_scores_nothing(warm_worker: Worker, request_for: RequestFor) -> None:
    result = warm_worker.run(request_for(score=False, random_tokens=True))
    assert (result.state, result.val_bpb, result.test_bpb) == ("complete", None, None)
    assert result.tokens_per_second and result.curve[-1][1] < result.curve[0][1]  # one batch, so it learns it


def test_passes_gathered_into_a_step_train_as_one_large_batch(warm_worker: Worker, request_for: RequestFor) -> None:
    whole = warm_worker.run(request_for(batch_size=4))
    parts = warm_worker.run(request_for(batch_size=1, grad_accumulation=4))
    assert (parts.tokens, parts.steps) == (whole.tokens, whole.steps)
    assert parts.val_bpb == pytest.approx(whole.val_bpb, abs=1e-4)


@pytest.mark.parametrize(
    "knobs",
    [
        {"norm": "rmsnorm"},
        {"activation": "relu2"},
        {"activation": "swiglu"},
        {"position": "rope"},
        {"n_kv_head": 1},
        {"qk_norm": True},
        {"tied_embeddings": False},
        {"optimizer": "muon"},
        {"schedule": "linear"},
        {"schedule": "wsd"},
        {"final_lr_fraction": 0.5},
        {"init_std": 0.05},
        {"dropout": 0.1},
        {"logit_softcap": 5.0},
        {"z_loss": 0.01},
        {"embedding_lr_multiplier": 4.0},
        {"ema_decay": 0.9},
    ],
)
def test_each_knob_of_the_wider_menu_trains_and_changes_the_number(
    warm_worker: Worker, request_for: RequestFor, knobs: dict[str, Any]
) -> None:
    budget = {"steps": 60}
    guess = warm_worker.run(request_for(budget={"steps": 1}))
    plain, changed, again = (warm_worker.run(request_for(budget=budget, **knobs)) for knobs in ({}, knobs, knobs))
    assert changed.state == "complete" and changed.val_bpb is not None and guess.val_bpb is not None
    assert changed.val_bpb < 0.97 * guess.val_bpb
    assert changed.val_bpb != plain.val_bpb
    assert changed.val_bpb == again.val_bpb


def test_a_budget_in_seconds_ends_on_time(warm_worker: Worker, request_for: RequestFor) -> None:
    result = warm_worker.run(request_for(budget={"seconds": 0.5}))
    assert result.state == "complete"
    assert result.train_seconds == pytest.approx(0.5, abs=0.3)
    assert result.steps is not None and result.steps > 5


def test_peak_memory_is_of_the_run_and_not_of_an_earlier_one(warm_worker: Worker, request_for: RequestFor) -> None:
    before = warm_worker.run(request_for())
    big = warm_worker.run(request_for(n_layer=1, d_ff=8192, budget={"steps": 1}))
    after = warm_worker.run(request_for())
    assert before.peak_memory_bytes and big.peak_memory_bytes and after.peak_memory_bytes
    hidden_bytes = EVALUATION_TOKENS * 8192 * 4  # of the widest layer in scoring
    assert big.peak_memory_bytes > before.peak_memory_bytes + hidden_bytes
    assert after.peak_memory_bytes < before.peak_memory_bytes + hidden_bytes * 0.2


def test_a_diverging_run_fails_with_its_step(warm_worker: Worker, request_for: RequestFor) -> None:
    result = warm_worker.run(request_for(lr=1e3, grad_clip=1e3, budget={"steps": 500}))
    assert (result.state, result.failure, result.val_bpb) == ("failed", "diverged", None)
    assert result.failed_step is not None and result.failed_step < 100
    assert f"diverged at step {result.failed_step}" in result.message
    assert result.curve


def test_a_budget_in_flops_trains_the_steps_that_it_pays_for(warm_worker: Worker, request_for: RequestFor) -> None:
    in_steps = warm_worker.run(request_for(budget={"steps": 6}))
    assert in_steps.flops is not None and in_steps.flops == in_steps.flops_per_token * in_steps.tokens  # type: ignore[operator]
    in_flops = warm_worker.run(request_for(budget={"flops": in_steps.flops * 7.5 / 6}))
    assert (in_flops.state, in_flops.steps) == ("complete", 7)
    again = warm_worker.run(request_for(budget={"flops": in_steps.flops}))
    assert (again.steps, again.val_bpb, again.flops) == (6, in_steps.val_bpb, in_steps.flops)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_head": 5}, "d_model is 32; it must be a multiple of n_head (5)"),
        ({"budget": {"tokens": 100}}, "budget of 100 tokens does not pay for one step of 128 tokens"),
        ({"budget": {"flops": 1e6}}, "budget of 1000000 flops does not pay for one step of "),
        ({"backend": "tpu"}, "backend 'tpu' is unknown"),
        ({"device": "cuda:99"}, "device 'cuda:99'"),
        ({"device": "quantum"}, "device 'quantum' is unknown"),
        ({"precision": "fp8"}, "needs a GPU of compute capability 8.9 or above"),
        ({"seq_len": 10_000_000, "budget": {"steps": 1}}, "training tokens are too few for seq_len"),
        ({"data_dir": "/nowhere"}, "/nowhere/manifest.json: no such file"),
    ],
)
def test_what_cannot_be_run_is_a_failed_run_with_a_reason(
    warm_worker: Worker, request_for: RequestFor, changes: dict[str, Any], message: str
) -> None:
    result = warm_worker.run(request_for(**changes))
    assert (result.state, result.failure, result.val_bpb) == ("failed", "error", None)
    assert message in result.message


def test_running_out_of_memory_is_its_own_failure_and_the_worker_goes_on(
    new_worker: NewWorker, request_for: RequestFor
) -> None:
    worker = new_worker(memory_limit_bytes=6 * 2**30)
    too_big = worker.run(request_for(d_ff=2**26))
    assert (too_big.state, too_big.failure) == ("failed", "out_of_memory")
    assert worker.run(request_for()).state == "complete"


def test_events_come_in_order_and_the_result_is_there_when_done_is_said(
    warm_worker: Worker, request_for: RequestFor
) -> None:
    request = request_for(budget={"seconds": 1.5})
    warm_worker.submit(request)
    events = warm_worker.events_until("done")
    assert json.loads(Path(request.result_path).read_text())["val_bpb"] == events[-1]["val_bpb"]

    events = [event for event in events if event["event"] != "ready"]
    assert events[0] == {"event": "start", "run_id": request.run_id}
    progress = events[1:-1]
    assert 2 <= len(progress) <= 6
    assert all(event["event"] == "progress" and event["run_id"] == request.run_id for event in progress)
    assert progress[0].keys() == {"event", "run_id", "phase", "step", "steps", "loss"}
    steps = [event["step"] for event in progress if event["phase"] == "train"]
    assert steps and steps == sorted(steps)


def test_a_request_that_cannot_be_read_is_refused(warm_worker: Worker, request_for: RequestFor, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"run_id": "x"}')
    for path in (broken, tmp_path / "absent.json"):
        warm_worker.send(path)
        refusal = warm_worker.events_until("refused")[-1]
        assert refusal["path"] == str(path)
        assert str(path) in refusal["message"]
    assert warm_worker.run(request_for()).state == "complete"


def test_the_worker_ends_at_once_when_stdin_closes_in_the_middle_of_a_run(
    new_worker: NewWorker, request_for: RequestFor
) -> None:
    worker, request = new_worker(), request_for(budget=FOREVER)
    worker.submit(request)
    worker.events_until("progress")
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    assert worker.process.wait(timeout=3) == 0
    assert not Path(request.result_path).exists()


def test_no_worker_outlives_a_killed_parent(request_for: RequestFor, tmp_path: Path) -> None:
    request = request_for(budget=FOREVER)
    request.write(tmp_path / "request.json")
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time\n"
            "worker = subprocess.Popen([sys.executable, '-m', 'trainer.worker'], stdin=subprocess.PIPE)\n"
            f"worker.stdin.write({str(tmp_path / 'request.json')!r}.encode() + b'\\n')\n"
            "worker.stdin.flush()\n"
            "time.sleep(60)\n",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    worker = psutil.Process(json.loads(parent.stdout.readline())["pid"])
    assert json.loads(parent.stdout.readline())["event"] == "start"
    parent.kill()
    parent.wait()
    gone, _ = psutil.wait_procs([worker], timeout=3)
    assert gone or worker.status() == psutil.STATUS_ZOMBIE
    parent.stdout.close()


def test_ctrl_c_does_not_touch_a_run(new_worker: NewWorker, request_for: RequestFor) -> None:
    worker = new_worker()
    worker.submit(request_for(budget={"seconds": 1.0}))
    worker.events_until("progress")
    os.kill(worker.process.pid, signal.SIGINT)
    assert worker.events_until("done")[-1]["state"] == "complete"


def test_what_a_library_prints_does_not_reach_the_protocol() -> None:
    program = (
        "import os\n"
        "from trainer.worker import _take_pipes\n"
        "lines, events = _take_pipes()\n"
        "print('python says', flush=True)\n"
        "os.write(1, b'a C library says\\n')\n"
        "os.system('echo a child says')\n"
        "events.write('the protocol\\n')\n"
        "events.flush()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "the protocol\n"
    assert done.stderr.count("says") == 3


def test_a_worker_has_one_thread_unless_the_launcher_says_otherwise() -> None:
    program = (
        "import os, threading\n"
        "import trainer.worker as worker\n"
        "threading.Thread.start = lambda self: None\n"
        "class Stop(Exception): pass\n"
        "def stop(*_): raise Stop\n"
        "worker._serve = stop\n"
        "worker.Orders.next = lambda self: (0, '')\n"
        "try: worker.main()\n"
        "except Stop: import torch; print(torch.get_num_threads())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    for setting, threads in (({}, "1"), ({"OMP_NUM_THREADS": "2"}, "2")):
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment | setting, capture_output=True, text=True, check=True
        )
        assert done.stderr.strip().endswith(threads)


def test_a_busy_neighbour_does_not_change_a_number(warm_worker: Worker, request_for: RequestFor) -> None:
    alone = warm_worker.run(request_for())
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        crowded = warm_worker.run(request_for())
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    assert crowded.val_bpb == alone.val_bpb
