"""The trainer on a GPU: repeatable at full length, compiled once, on time, and alive after it ran out of memory.

`python benchmarks/first_light.py` runs these first. Where the same code is cheap on a CPU it runs there too.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from worker_process import RECIPE, Worker

from trainer.backends.torch_gpt import TorchBackend
from trainer.protocol import RunRequest
from trainer.recipe import Recipe
from trainer.worker import CACHE, ENVIRONMENT

RequestFor = Callable[..., RunRequest]
NewWorker = Callable[..., Worker]

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# Wide enough for the fused kernels that a real model takes.
MEDIUM: dict[str, Any] = {"n_layer": 3, "n_head": 4, "d_model": 256, "d_ff": 1024, "batch_size": 8}
WIDE: dict[str, Any] = {
    "norm": "rmsnorm",
    "activation": "swiglu",
    "position": "rope",
    "n_kv_head": 1,
    "qk_norm": True,
    "tied_embeddings": False,
    "optimizer": "muon",
    "ema_decay": 0.9,
    "dropout": 0.1,
    "logit_softcap": 15.0,
    "z_loss": 1e-4,
    "grad_accumulation": 2,
}
ODD_VOCABULARY = 509  # a prime: no width of the head is a multiple of anything

TWICE = """
import json, sys
from torch._dynamo.utils import counters
from trainer.protocol import RunRequest
from trainer.run import execute

facts = []
for path in sys.argv[1:]:
    result = execute(RunRequest.read(path), lambda *progress: None)
    graphs = counters["stats"]["unique_graphs"]
    facts.append([result.state, result.message, graphs, result.first_step_seconds])
print(json.dumps(facts))
"""


def on(device: str, **sizes: Any) -> dict[str, Any]:
    """A request's fields for the device: on a GPU compiled, as a study has it, and of a size that fills its kernels."""
    return {"device": device, **(MEDIUM | {"compile": True} if device == "cuda" else {}), **sizes}


@pytest.mark.parametrize("knobs", [{}, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("device", DEVICES)
def test_one_seed_repeats_to_the_last_bit_in_bf16_at_1024_tokens(
    new_worker: NewWorker, warm_worker: Worker, request_for: RequestFor, device: str, knobs: dict[str, Any]
) -> None:
    asked = on(device, precision="bf16", seq_len=1024, batch_size=2, budget={"steps": 4}, **knobs)
    results = [worker.run(request_for(**asked)) for worker in (new_worker(), warm_worker, warm_worker)]
    assert [(result.state, result.message) for result in results] == [("complete", "")] * 3
    assert len({(result.val_bpb, str(result.curve)) for result in results}) == 1


@pytest.mark.gpu
def test_without_repeatability_a_gpu_trains_to_about_the_same_number(
    warm_worker: Worker, request_for: RequestFor
) -> None:
    asked = on("cuda", precision="bf16", seq_len=512)
    strict, free = (warm_worker.run(request_for(**asked, repeatable=value)) for value in (True, False))
    assert (free.state, free.message) == ("complete", "")
    assert free.val_bpb == pytest.approx(strict.val_bpb, rel=0.02)


@pytest.mark.gpu
def test_a_second_run_of_a_shape_compiles_nothing(request_for: RequestFor, tmp_path: Path) -> None:
    asked = on("cuda", precision="bf16", seq_len=256)
    paths = []
    for changes in ({}, {"lr": 0.001, "beta2": 0.9, "n_layer": 4, "seed": 1}):
        request = request_for(**asked | changes)
        paths.append(Path(request.result_path).with_suffix(".request.json"))
        request.write(paths[-1])
    environment = {**os.environ, **ENVIRONMENT, CACHE: str(tmp_path / "cache")}
    command = [sys.executable, "-c", TWICE, *map(str, paths)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    first, second = json.loads(done.stdout)
    assert (first[:2], second[:2]) == (["complete", ""], ["complete", ""])
    (*_, graphs, cold_seconds), (*_, graphs_then, warm_seconds) = first, second
    assert graphs_then == graphs > 0
    assert warm_seconds < cold_seconds / 3, "until the first step was done"


@pytest.mark.gpu
def test_a_budget_in_seconds_trains_for_as_long_though_it_must_compile_first(
    new_worker: NewWorker, request_for: RequestFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    worker = new_worker()
    cold, warm = (worker.run(request_for(**on("cuda", budget={"seconds": 2.0}, precision="bf16"))) for _ in range(2))
    assert [(result.state, result.message) for result in (cold, warm)] == [("complete", "")] * 2
    assert cold.steps is not None and warm.steps is not None
    assert cold.steps > warm.steps / 3 > 3
    assert cold.train_seconds == pytest.approx(2.0, abs=0.5)


@pytest.mark.gpu
def test_a_worker_goes_on_after_a_gpu_ran_out_of_memory(warm_worker: Worker, request_for: RequestFor) -> None:
    asked = on("cuda", precision="bf16", compile=False)
    before = warm_worker.run(request_for(**asked))
    # Half a terabyte of activations in one layer; all before it is small.
    too_big = warm_worker.run(request_for(device="cuda", seq_len=1024, batch_size=2048, d_ff=65_536))
    after = warm_worker.run(request_for(**asked))
    assert (too_big.state, too_big.failure) == ("failed", "out_of_memory"), too_big.message
    assert (after.state, after.val_bpb, after.curve) == ("complete", before.val_bpb, before.curve)
    assert before.peak_memory_bytes and after.peak_memory_bytes
    assert after.peak_memory_bytes < 1.1 * before.peak_memory_bytes, "what the failed run held is given back"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("knobs", [{}, WIDE | {"dropout": 0.0}], ids=["narrow", "wide"])
def test_a_gpu_computes_what_a_cpu_does_with_a_vocabulary_of_no_round_number(
    precision: str, knobs: dict[str, Any]
) -> None:
    recipe = Recipe.from_mapping({**RECIPE, **MEDIUM, **knobs, "precision": precision, "seq_len": 128})
    tokens = torch.randint(0, ODD_VOCABULARY, (4, 129), generator=torch.Generator().manual_seed(0))
    costs, gradients = [], []
    weights = None
    for device in (torch.device("cpu"), torch.device("cuda", 0)):
        model = TorchBackend().build(recipe, ODD_VOCABULARY, device, seed=0)
        weights = weights or {name: weight.clone() for name, weight in model.state_dict().items()}
        model.load_state_dict(weights)  # a GPU draws others
        cost = model(tokens[:, :-1].to(device), tokens[:, 1:].to(device))
        cost.mean().backward()
        costs.append(cost.detach().float().cpu())
        found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        gradients.append(torch.cat([gradient.detach().float().cpu().flatten() for gradient in found]))
    tolerance = 1e-3 if precision == "fp32" else 0.05
    torch.testing.assert_close(costs[1], costs[0], rtol=tolerance, atol=tolerance)
    apart = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert apart < tolerance, "relative distance of all gradients"


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["torch", "megatron"])
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_each_backend_trains_in_each_precision_to_about_the_same_number(
    warm_worker: Worker, request_for: RequestFor, backend: str, precision: str
) -> None:
    from trainer.capability import proven_precisions

    if backend == "megatron" and find_spec("megatron") is None:
        pytest.skip("megatron-core is not installed")
    if backend == "megatron" and precision == "fp8" and find_spec("transformer_engine") is None:
        pytest.skip("Transformer Engine is not installed")
    _, refused = proven_precisions(torch.device("cuda", 0), backend)
    if precision in refused:
        pytest.skip(f"{backend} took no step in {precision} on {torch.cuda.get_device_name()}: {refused[precision]}")
    asked: dict[str, Any] = {"seq_len": 256, "budget": {"steps": 60}}
    plain = warm_worker.run(request_for(**on("cuda", **asked, compile=False, precision="bf16")))
    of_torch = backend == "torch"
    other = on("cuda", **asked, backend=backend, compile=of_torch, precision=precision)
    results = [warm_worker.run(request_for(**other)) for _ in range(2)]
    assert [(result.state, result.message) for result in results] == [("complete", "")] * 2
    assert results[0].val_bpb == results[1].val_bpb
    assert results[0].val_bpb == pytest.approx(plain.val_bpb, rel=0.03)
