"""The machine is what torch says that it is, asked in a process of its own; a probe that fails is one clear line."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from studies import is_running, wait_until

from autoresearch.config import Settings
from autoresearch.errors import UserError
from autoresearch.study.preset import load_preset
from autoresearch.workers import machine, nvml, probe
from autoresearch.workers.machine import CONTEXT_BYTES, RESERVE_BYTES, Machine, look
from autoresearch.workers.probe import ProbeFailed, ask

GIB = 2**30
H200: dict[str, Any] = {"name": "NVIDIA H200", "memory_bytes": 140 * GIB, "is_integrated": False, "uuid": "aaaa-0"}
SLICE: dict[str, Any] = {
    "name": "H200 MIG 1g.18gb",
    "memory_bytes": 16 * GIB,
    "is_integrated": False,
    "uuid": "cccc-2",
}
GB10: dict[str, Any] = {"name": "NVIDIA GB10", "memory_bytes": 120 * GIB, "is_integrated": True, "uuid": "dddd-3"}

Torch = Callable[..., None]


@pytest.fixture
def torch_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Torch]:
    """Puts a program in the place of trainer.capability; by default one that answers with these GPUs."""
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nvml, "is_there", lambda: True)
    ask.cache_clear()

    def says(
        *gpus: dict[str, Any], precisions: list[str] | None = None, fault: str | None = None, code: str = ""
    ) -> None:
        proven = ["fp32", "bf16"] if precisions is None else precisions
        answer = {"gpus": gpus, "precisions": proven, "refused": {"fp8": "AssertionError: compute capability 8.9"}}
        (tmp_path / "trainer" / "capability.py").write_text(
            f"import json, os, signal, sys, time\n{code}\n"
            f"compiled = {json.dumps(json.dumps({'compile_fault': fault}))}\n"
            f"print(compiled if sys.argv[3:] else {json.dumps(json.dumps(answer))})\n"
        )

    yield says
    ask.cache_clear()


def test_a_gpu_is_what_torch_says(torch_says: Torch) -> None:
    torch_says(SLICE)
    assert look() == Machine("cuda", SLICE["name"], 1, 16 * GIB, ("fp32", "bf16"), ("cccc-2",))


def test_the_second_gpu_is_the_one_that_is_asked_for(torch_says: Torch) -> None:
    torch_says(H200, SLICE)
    assert look("cuda:1").name == SLICE["name"] and look("cuda").name == look().name == H200["name"]
    assert look("cuda:1").uuids == ("aaaa-0", "cccc-2")


def test_a_gpu_that_shares_the_machines_memory_leaves_some_of_what_is_free(
    torch_says: Torch, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_says(GB10)
    for free, given in (
        (100 * GIB, 100 * GIB - RESERVE_BYTES),
        (6 * GIB, 3 * GIB),
        (200 * GIB, 120 * GIB - RESERVE_BYTES),
    ):
        memory = SimpleNamespace(available=free, total=128 * GIB)
        monkeypatch.setattr(machine, "psutil", SimpleNamespace(virtual_memory=lambda memory=memory: memory))
        found = look()
        assert found.is_integrated and found.memory_bytes == given
        assert found.memory_cap("auto", None) == max(given - CONTEXT_BYTES, given // 2), "it is held to it"


def test_workers_that_share_a_gpu_divide_its_memory() -> None:
    gpus = Machine("cuda", "H200", 2, 140 * GIB, ("bf16",))
    assert gpus.memory_cap("auto", None) is gpus.memory_cap("auto", 2) is gpus.memory_cap("cuda:1", 1) is None
    assert gpus.memory_cap("auto", 4) == gpus.memory_cap("auto", 3) == 70 * GIB - CONTEXT_BYTES
    assert gpus.memory_cap("cuda:1", 2) == 70 * GIB - CONTEXT_BYTES
    assert gpus.memory_cap("auto", 2, 2) == 70 * GIB - CONTEXT_BYTES, "two processes a run, two runs on two GPUs"
    assert Machine("cpu", "some", 2, GIB, ("fp32",)).memory_cap("cpu", 8) is None


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "sys.exit(\"error: device 'cuda:0': torch sees 0 GPUs here\")",
            r"\(device 'cuda:0': torch sees 0 GPUs here\)",
        ),
        ("raise OSError('libcuda.so.1: too old')", r"\(OSError: libcuda.so.1: too old\)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"\(ended by SIGSEGV: no message\)"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_one_line(torch_says: Torch, code: str, said: str) -> None:
    torch_says(code=code)
    with pytest.raises(UserError, match=f"torch cannot use it {said}: install torch's CUDA build") as error:
        look()
    assert "\n" not in str(error.value)


def test_a_gpu_that_trains_in_no_precision_says_why(torch_says: Torch) -> None:
    torch_says(H200, precisions=[])
    with pytest.raises(UserError, match="H200 trains in no precision with backend 'megatron': AssertionError: compute"):
        look("cuda", "megatron")


def test_a_gpu_that_is_asked_for_and_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "is_there", lambda: False)
    with pytest.raises(UserError, match="device is 'cuda:1', but this machine shows no NVIDIA GPU"):
        look("cuda:1")
    assert look().kind == "cpu"


@pytest.mark.parametrize(
    ("fault", "code", "found"),
    [
        (None, "", None),
        ("TritonMissing: Cannot find a working triton", "", "TritonMissing: Cannot find a working triton"),
        (None, "if sys.argv[3:]: os.abort()", "ended by SIGABRT: no message"),
    ],
    ids=["works", "fails", "crashes"],
)
def test_auto_compiles_on_a_gpu_only_where_the_probe_did(
    torch_says: Torch, fault: str | None, code: str, found: str | None
) -> None:
    torch_says(H200, fault=fault, code=code)
    settings = load_preset("gpt-354m").settings
    seen = look(compile=settings.compile)
    assert seen.compile_fault == found
    assert settings.compiles(seen.kind, seen.compile_fault is None) is (found is None)
    assert look(compile=False).compile_fault is None, "nobody asked"
    assert look(backend="megatron", compile="auto").compile_fault is None, "nobody would use it"


def test_a_study_that_must_compile_and_cannot_does_not_begin(torch_says: Torch) -> None:
    torch_says(H200, fault="InvalidCxxCompiler: none; install g++")
    with pytest.raises(
        UserError, match=r"compile is true, but cannot be done here \(InvalidCxxCompiler: none; install"
    ):
        look(compile=True)


def test_a_cpu_is_not_asked_to_compile_unless_it_must(torch_says: Torch) -> None:
    torch_says(code="raise AssertionError('asked')")
    assert look("cpu", compile="auto").compile_fault is None
    with pytest.raises(UserError, match="AssertionError: asked"):
        look("cpu", compile=True)
    settings = load_preset("cpu-nano").settings.model_copy(update={"compile": True})
    assert isinstance(settings, Settings) and settings.compiles("cpu")


def test_a_probe_that_hangs_is_ended_with_its_children(
    torch_says: Torch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = "import time; time.sleep(600)"
    torch_says(
        code="import subprocess\n"
        f"child = subprocess.Popen([sys.executable, '-c', {sleep!r}])\n"
        "open('pid', 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    monkeypatch.setattr(probe, "PROBE_SECONDS", 3.0)
    with pytest.raises(ProbeFailed, match="it took longer than 3 s"):
        ask("cuda:0", "torch")
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_running(pid))


def test_a_processor_is_named_by_its_model_where_the_system_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "CPU_FACTS", facts)
    assert look("cpu").name == (platform.processor() or platform.machine())
    facts.write_text("processor\t: 0\nmodel name\t: Some CPU @ 3.00GHz\n\nprocessor\t: 1\n")
    assert look("cpu").name == "Some CPU @ 3.00GHz", "unlike ones are told apart on a cluster"
