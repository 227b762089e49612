"""torch.compile: the same numbers, compiled once per shape, and never again in a later run, worker or night."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from worker_process import RECIPE

PROGRAM = """
import json, sys, torch
from torch._dynamo.utils import counters
from trainer.backends.torch_gpt import TorchBackend
from trainer.optimizer import Optimizer
from trainer.recipe import Recipe

recipe = json.loads(sys.argv[1])
tokens = torch.randint(1, 512, (4, 33), generator=torch.Generator().manual_seed(0))

def train(compiled, seed=0, **changes):
    made = Recipe.from_mapping(recipe | changes)
    model = TorchBackend().build(made, 512, torch.device("cpu"), seed)
    if compiled:
        model.compile_blocks()
    optimizer = Optimizer(model, made)
    for step in range(2):
        loss = model(tokens[:, :-1], tokens[:, 1:]).mean()
        loss.backward()
        optimizer.step(made.lr / (step + 1))
    return loss.item()

def graphs():
    return counters["stats"]["unique_graphs"]

facts = {"plain": train(False), "compiled": train(True), "graphs": [graphs()]}
train(True, seed=1, lr=0.3, beta1=0.5, weight_decay=0.3, grad_clip=9.0)
facts["graphs"].append(graphs())
train(True, n_layer=3)
facts["graphs"].append(graphs())
inductor = counters["inductor"]
print(json.dumps(facts | {"hits": inductor["fxgraph_cache_hit"], "misses": inductor["fxgraph_cache_miss"]}))
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_a_shape_is_compiled_once_for_all_runs_and_processes(tmp_path: Path) -> None:
    def process() -> dict[str, Any]:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", PROGRAM, json.dumps(RECIPE)]
        return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)

    first, second = process(), process()
    assert first["compiled"] == pytest.approx(first["plain"], abs=1e-5)
    assert second["compiled"] == first["compiled"]

    after_first, after_other_values, after_more_layers = first["graphs"]
    assert 0 < after_first == after_other_values == after_more_layers
    assert first["misses"] > 0
    assert (second["misses"], second["hits"]) == (0, first["misses"] + first["hits"])
