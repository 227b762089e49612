"""One seed, one number: what the switch `repeatable` does to torch, to its environment and to a run."""

import os
from collections.abc import Callable

import pytest
import torch

from trainer import repeatable as switches
from trainer.protocol import RunRequest, RunResult
from trainer.repeatable import repeatable, without_a_repeatable_form
from trainer.run import execute

RequestFor = Callable[..., RunRequest]

CPU, GPU = torch.device("cpu"), torch.device("cuda")
STRICT, OFF = 2, 0


def ignore(*_: object) -> None: ...


def use_what_cannot_be_repeated(*_: object) -> None:
    torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))


def modes() -> tuple[int, bool, str | None]:
    return (
        torch.get_deterministic_debug_mode(),
        torch.backends.cudnn.deterministic,
        os.environ.get(switches.TRANSFORMER_ENGINE),
    )


@pytest.mark.parametrize("device", [CPU, GPU])
def test_both_kinds_of_run_find_their_own_modes_and_leave_those_of_before(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    for name in (switches.CUBLAS, switches.NCCL):
        monkeypatch.delenv(name, raising=False)
    for of_before in (None, "1"):
        if of_before is not None:
            monkeypatch.setenv(switches.TRANSFORMER_ENGINE, of_before)
        with repeatable(True, device):
            assert modes() == (STRICT, True, "0")
            with repeatable(False, device):
                assert modes()[:2] == (OFF, False)
            assert modes() == (STRICT, True, "0")
        assert modes() == (OFF, False, of_before)
    of_gpus = (os.environ.get(switches.CUBLAS), os.environ.get(switches.NCCL))
    assert of_gpus == ((":4096:8", "^NVLS") if device == GPU else (None, None))


def test_the_compiler_is_told_too() -> None:
    from torch._inductor import config

    for wanted in (True, False, True):
        with repeatable(wanted, CPU, compiled=True):
            assert config.deterministic is wanted
    assert config.deterministic is False


def test_a_workspace_of_cublas_that_does_not_repeat_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(switches.CUBLAS, ":4096:2")
    with pytest.raises(ValueError, match=r"CUBLAS_WORKSPACE_CONFIG is ':4096:2' .* or set repeatable = false"):
        repeatable(True, GPU).__enter__()
    with repeatable(False, GPU), repeatable(True, CPU):
        pass


def test_an_operation_without_a_repeatable_form_fails_the_run_in_one_line(request_for: RequestFor) -> None:
    failed = execute(request_for(), use_what_cannot_be_repeated)
    assert (failed.state, failed.failure) == ("failed", "error")
    assert failed.message.startswith("put_ has no form that repeats on this device: set repeatable = false")
    assert "\n" not in failed.message
    assert execute(request_for(repeatable=False), use_what_cannot_be_repeated).state == "complete"
    assert torch.get_deterministic_debug_mode() == OFF
    assert without_a_repeatable_form(RuntimeError("out of memory")) is None


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"precision": "bf16", "optimizer": "muon", "ema_decay": 0.9, "dropout": 0.1, "n_kv_head": 1, "z_loss": 0.01},
        {"norm": "rmsnorm", "activation": "swiglu", "position": "rope", "qk_norm": True, "tied_embeddings": False},
        {"activation": "relu2", "logit_softcap": 5.0, "grad_accumulation": 2, "backend": "megatron"},
        {"position": "rope", "qk_norm": True, "n_kv_head": 1, "dropout": 0.1, "backend": "megatron"},
    ],
)
def test_no_knob_needs_an_operation_without_a_repeatable_form(
    request_for: RequestFor, knobs: dict[str, object]
) -> None:
    """On a CPU, where both ways then train the very same."""
    results = [execute(request_for(repeatable=wanted, score_test=True, **knobs), ignore) for wanted in (True, False)]
    strict, fast = ((it.state, it.message, it.val_bpb, it.test_bpb, it.curve) for it in results)
    assert strict[:2] == ("complete", "") and strict == fast


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "knobs",
    [
        {"precision": "bf16"},
        {"precision": "bf16", "dropout": 0.1, "optimizer": "muon", "ema_decay": 0.9, "n_kv_head": 2},
        {"precision": "fp32", "position": "rope"},
    ],
)
def test_one_seed_gives_one_number_on_a_gpu_too(
    request_for: RequestFor, knobs: dict[str, object], compiled: bool
) -> None:
    shape: dict[str, object] = {"d_model": 256, "d_ff": 1024, "n_head": 4, "seq_len": 1024, "batch_size": 4}

    def run(wanted: bool) -> RunResult:
        return execute(
            request_for(device="cuda", repeatable=wanted, compile=compiled, budget={"steps": 8}, **shape | knobs),
            ignore,
        )

    first, fast, second = run(True), run(False), run(True)
    assert [it.message for it in (first, fast, second)] == ["", "", ""]
    assert (first.val_bpb, first.curve) == (second.val_bpb, second.curve)
    assert fast.val_bpb == pytest.approx(first.val_bpb, abs=1e-2)
