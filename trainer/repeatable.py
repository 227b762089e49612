"""One seed, one number, on a GPU too: the switches of torch, cuBLAS, NCCL and Transformer Engine for one run."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_THAT_REPEAT = (":4096:8", ":16:8")
# Read once, when GPUs first exchange numbers. NVLink SHARP adds up inside the switch, in the order that they come.
NCCL, NCCL_THAT_REPEATS = "NCCL_ALGO", "^NVLS"
# Transformer Engine reads it for each model that is built; Megatron's own switch (its configuration's
# deterministic_mode, see trainer/backends/megatron_layers.py) insists on it.
TRANSFORMER_ENGINE = "NVTE_ALLOW_NONDETERMINISTIC_ALGO"
# How torch says that an operation cannot be repeated, and that it found the environment so before its first product.
WITHOUT_A_REPEATABLE_FORM = re.compile(r"(\S+) does not have a deterministic implementation")
BY_THE_ENVIRONMENT = "not deterministic because it uses CuBLAS"


@contextmanager
def repeatable(wanted: bool, device: torch.device, compiled: bool = False) -> Iterator[None]:
    """Within it every operation takes its repeatable form, or raises RuntimeError where it has none; or, not wanted,
    its fastest. What was before comes back at the end, so that runs of both kinds may share a process.

    Strict, not `warn_only`: with that, attention keeps the backward pass that adds up in any order. Nothing else need
    be said of attention. Strictly, torch passes by cuDNN's, takes flash attention's repeatable backward pass, and where
    flash attention cannot (fp32) memory-efficient attention's, whose keys then are not split; and compiled code is
    made, and kept, for each mode apart. Raises ValueError where the environment stands against it.
    """
    if device.type == "cuda":
        # For both: torch looks at it once, before its first product, which may be of a run that need not repeat.
        workspace = os.environ.setdefault(CUBLAS, CUBLAS_THAT_REPEAT[0])
        if wanted and workspace not in CUBLAS_THAT_REPEAT:
            raise ValueError(
                f"{CUBLAS} is {workspace!r} in the environment, and products on a GPU do not repeat with it: unset it, "
                "or set repeatable = false"
            )
        if wanted:
            os.environ.setdefault(NCCL, NCCL_THAT_REPEATS)
    cudnn = torch.backends.cudnn
    with ExitStack() as undo:
        undo.callback(torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode())
        # This, as use_deterministic_algorithms would load the compiler, 4 s and 70 MiB, only to tell it so.
        torch.set_deterministic_debug_mode("error" if wanted else "default")
        if compiled:
            from torch._inductor import config

            undo.enter_context(config.patch(deterministic=wanted))
        # Would fill every new tensor with NaN first, for programs that read what they never wrote.
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  not in its type stubs
        undo.callback(setattr, cudnn, "deterministic", cudnn.deterministic)
        cudnn.deterministic = wanted
        if wanted:
            undo.callback(_put_back, TRANSFORMER_ENGINE, os.environ.get(TRANSFORMER_ENGINE))
            os.environ[TRANSFORMER_ENGINE] = "0"
        yield


def without_a_repeatable_form(error: Exception) -> str | None:
    """What to tell of an error by which torch refused, within `repeatable`, what it cannot repeat; else None."""
    if BY_THE_ENVIRONMENT in str(error):
        return (
            f"{CUBLAS} came too late: this process had done products on a GPU before. Start the program with "
            f"{CUBLAS}={CUBLAS_THAT_REPEAT[0]}, or set repeatable = false"
        )
    found = WITHOUT_A_REPEATABLE_FORM.search(str(error))
    if found is None:
        return None
    return (
        f"{found[1]} has no form that repeats on this device: set repeatable = false, and numbers need not repeat, "
        "or leave out the knob that needs it"
    )


def _put_back(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
