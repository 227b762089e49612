"""A precision, or a compiler, is offered only where a step with it has been taken."""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch

from trainer import capability
from trainer.capability import compile_fault, fault_of_a_step, one_line, proven_precisions

CPU = torch.device("cpu")


def asked(*arguments: str, **environment: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "trainer.capability", *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("backend", [[], ["torch"], ["megatron"]])
def test_a_cpu_trains_fp32_and_bf16(backend: list[str]) -> None:
    assert asked("cpu", *backend) == {"gpus": capability.gpus(), "precisions": ["fp32", "bf16"], "refused": {}}


def test_a_precision_that_the_device_promises_but_cannot_do_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capability, "precisions", lambda device: ("fp32", "bf16", "fp8"))
    proven, refused = proven_precisions(CPU)
    assert proven == ["fp32", "bf16"] and list(refused) == ["fp8"]
    assert refused["fp8"].startswith("ValueError: recipe: precision 'fp8' needs a GPU of compute capability 8.9")


@pytest.mark.parametrize("kind", [AssertionError, ImportError, KeyError, RuntimeError, AttributeError])
def test_whatever_a_library_raises_is_a_refusal(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    """Transformer Engine asserts that the card can do fp8."""

    def build(*_: object, **__: object) -> None:
        raise kind("Device compute capability 8.9 or higher required for FP8 execution.\nmore")

    monkeypatch.setattr("trainer.backends.torch_gpt.TorchBackend.build", build)
    fault = fault_of_a_step("fp32", CPU, "torch")
    assert fault is not None and fault.startswith(f"{kind.__name__}: ") and "capability 8.9" in fault
    assert "\n" not in fault


def test_without_a_compiler_it_says_so_and_what_to_install() -> None:
    found = asked("cpu", "torch", "compile", CXX="/nowhere/g++")["compile_fault"]
    assert found.startswith("InvalidCxxCompiler: No working C++ compiler found") and "'/nowhere/g++'" in found
    assert found.endswith(
        "; install a C and C++ compiler and Python's headers (Debian, Ubuntu: apt install g++ python3-dev)"
    )
    assert "\n" not in found


def test_a_backend_that_is_not_compiled_says_so() -> None:
    fault = compile_fault(CPU, "megatron")
    assert fault is not None and "backend 'megatron' is not compiled" in fault


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
@pytest.mark.timeout(900)
def test_where_there_is_a_compiler_a_step_is_compiled() -> None:
    assert asked("cpu", "torch", "compile") == {"compile_fault": None}


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("RuntimeError: Failed to find C compiler. Please specify via CC environment variable", "apt install g++"),
        ("CppCompileError: fatal error: Python.h: No such file or directory", "apt install python3-dev"),
        (
            "CalledProcessError: Command '['/usr/bin/gcc', '/tmp/main.c']' returned non-zero exit status 1.",
            "apt install g",
        ),
        ("TritonMissing: Cannot find a working triton installation.", "pip install --force-reinstall torch"),
        ("ModuleNotFoundError: No module named 'triton'", "pip install --force-reinstall torch"),
        ("PTXASError: ptxas fatal : Value 'sm_121a' is not defined for option 'gpu-name'", "install a newer torch"),
        ("GPUTooOldForTriton: only supports devices of CUDA Capability >= 7.0", "this card is too old"),
    ],
)
def test_each_way_to_fail_has_its_remedy(monkeypatch: pytest.MonkeyPatch, said: str, remedy: str) -> None:
    monkeypatch.setattr(capability, "fault_of_a_step", lambda *_, **__: said)
    fault = compile_fault(CPU)
    assert fault is not None and fault.startswith(f"{said}; ") and remedy in fault


def test_a_long_complaint_is_one_line_with_the_compilers_first_error() -> None:
    class Wrapper(RuntimeError):
        inner_exception = RuntimeError(
            "C++ compile error\n\nCommand:\ng++ -x\nOutput:\na.cpp:1: fatal error: omp.h: No such"
        )

    assert one_line(Wrapper("backend='inductor' raised:\n...")) == "RuntimeError: a.cpp:1: fatal error: omp.h: No such"
    assert one_line(AssertionError()) == "AssertionError"
    assert len(one_line(RuntimeError("x" * 9999))) == capability.LONGEST_REASON


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that must be missing")
def test_a_gpu_that_torch_does_not_see_is_one_clear_line() -> None:
    done = subprocess.run([sys.executable, "-m", "trainer.capability", "cuda"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: device 'cuda': torch sees 0 GPUs") and done.stderr.count("\n") == 1


@pytest.mark.gpu
def test_a_gpu_of_this_generation_trains_bf16_and_compiles() -> None:
    found = asked("cuda")
    assert "bf16" in found["precisions"] and len(found["gpus"]) == torch.cuda.device_count()
    assert found["gpus"][0]["memory_bytes"] > 2**30 and len(found["gpus"][0]["uuid"]) == 36
    assert asked("cuda", "torch", "compile") == {"compile_fault": None}
