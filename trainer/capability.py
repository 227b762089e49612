"""What a device does for sure: `python -m trainer.capability DEVICE BACKEND [compile]` tries, and prints JSON.

A datasheet's word is not enough: the library, the driver and the card must agree, so each precision, and torch.compile,
does a small forward and backward pass before a night is planned on it.
"""

import json
import os
import sys
import tempfile
from typing import Any

import torch

from trainer.backends import backend_named, precisions
from trainer.recipe import Recipe
from trainer.run import device_named

PROBE = {
    "n_layer": 1,
    "n_head": 2,
    "d_model": 64,
    "d_ff": 128,
    "lr": 1e-3,
    "lr_warmup": 0,
    "grad_clip": 1.0,
    "weight_decay": 0.0,
    "beta1": 0.9,
    "beta2": 0.95,
    "batch_size": 2,
    "seq_len": 32,
}
COMPILED_IN = "bf16"
LONGEST_REASON = 300  # characters

# What to do about a compiler that fails, by words of its complaint; the first that fits.
REMEDIES = (
    (("CUDA Capability >=",), "this card is too old for it"),
    (("Python.h",), "install Python's headers (Debian, Ubuntu: apt install python3-dev)"),
    (
        ("no kernel image", "gpu-architecture", "gpu-name", "sm_", "ptxas", "not a recognized processor"),
        "it does not know this card: install a newer torch",
    ),
    (
        ("C++ compiler", "C compiler", "CXX", "g++", "gcc"),
        "install a C and C++ compiler and Python's headers (Debian, Ubuntu: apt install g++ python3-dev)",
    ),
    (("riton",), "install the Triton that belongs to this torch (pip install --force-reinstall torch)"),
)


def proven_precisions(device: torch.device, backend: str = "torch") -> tuple[list[str], dict[str, str]]:
    """The values of a recipe's `precision` with which a small model takes a step, and why others that the device
    promises do not."""
    faults = {precision: fault_of_a_step(precision, device, backend) for precision in precisions(device)}
    refused = {precision: fault for precision, fault in faults.items() if fault is not None}
    return [precision for precision in faults if precision not in refused], refused


def compile_fault(device: torch.device, backend: str = "torch") -> str | None:
    """Why torch.compile cannot be used there, in one line that says what to do about it; None where it can."""
    fault = fault_of_a_step(COMPILED_IN, device, backend, compiled=True)
    if fault is None:
        return None
    remedy = next((remedy for said, remedy in REMEDIES if any(word in fault for word in said)), None)
    return fault if remedy is None else f"{fault}; {remedy}"


def gpus() -> list[dict[str, Any]]:
    """What torch says of cuda:0, cuda:1, ...: a slice of a card is a GPU too."""
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        {
            "name": gpu.name,
            "memory_bytes": gpu.total_memory,
            "is_integrated": bool(gpu.is_integrated),
            "uuid": str(gpu.uuid),
        }
        for gpu in found
    ]


def fault_of_a_step(precision: str, device: torch.device, backend: str, compiled: bool = False) -> str | None:
    """One line; None where the step has been taken."""
    try:
        recipe = Recipe.from_mapping({**PROBE, "precision": precision})
        tokens = torch.zeros(recipe.batch_size, recipe.seq_len, dtype=torch.int64, device=device)
        model = backend_named(backend).build(recipe, 256, device, seed=0)
        if compiled:
            model.compile_blocks()
        model(tokens, tokens).mean().backward()
        finite = all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        return None if finite else "gradients are not finite"
    except Exception as error:  # libraries raise what they like: Transformer Engine asserts, compilers have their own
        return one_line(error)


def one_line(error: BaseException) -> str:
    """The innermost error's name and the line that says most: a compiler's first `error:`, else the first."""
    while isinstance(inner := getattr(error, "inner_exception", None), BaseException):  # of torch.compile's wrappers
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "error:" in line), lines[0] if lines else "")
    return f"{type(error).__name__}: {said}"[:LONGEST_REASON].removesuffix(": ")


def _answer(name: str = "auto", backend: str = "torch", *wanted: str) -> dict[str, Any]:
    device = device_named(name)
    if wanted:
        # Anew, since code of an earlier day says nothing of today's compiler, and by no process that outlives this one.
        with tempfile.TemporaryDirectory(prefix="autoresearch-probe-") as folder:
            os.environ |= {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
            os.environ |= {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": folder}
            return {"compile_fault": compile_fault(device, backend)}
    proven, refused = proven_precisions(device, backend)
    return {"gpus": gpus(), "precisions": proven, "refused": refused}


if __name__ == "__main__":
    try:
        print(json.dumps(_answer(*sys.argv[1:])))
    except ValueError as error:
        sys.exit(f"error: {error}")
