"""A precision is offered only where a step in it has been taken."""

import json
import subprocess
import sys

import pytest
import torch

from trainer import capability
from trainer.capability import proven_precisions


@pytest.mark.parametrize("backend", [[], ["torch"], ["megatron"]])
def test_a_cpu_trains_fp32_and_bf16(backend: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "trainer.capability", "cpu", *backend], capture_output=True, text=True)
    assert json.loads(done.stdout) == ["fp32", "bf16"]


def test_a_precision_that_the_device_promises_but_cannot_do_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(capability, "precisions", lambda device: ("fp32", "bf16", "fp8"))
    assert proven_precisions(torch.device("cpu")) == ["fp32", "bf16"]
    assert "fp8 on cpu" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that must be missing")
def test_a_gpu_that_torch_does_not_see_is_one_clear_line() -> None:
    done = subprocess.run([sys.executable, "-m", "trainer.capability", "cuda"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: device 'cuda': torch sees 0 GPUs") and done.stderr.count("\n") == 1


@pytest.mark.gpu
def test_a_gpu_of_this_generation_trains_bf16() -> None:
    assert "bf16" in proven_precisions(torch.device("cuda"))
