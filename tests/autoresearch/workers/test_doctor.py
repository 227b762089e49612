"""The doctor: every finding says what was found, and whether a night would fail of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoresearch.workers import nvml
from autoresearch.workers.doctor import MIN_FREE_BYTES, Finding, examine
from autoresearch.workers.probe import ask

EVERYTHING = ["Python", "git", "disk", "device", "torch", "torch.compile", "energy"]


LIGHT_TORCH = "__version__ = '2.13.0'"


def found(home: Path) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(home)}


def put_torch(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Another torch for the processes that are started."""
    (folder / "other").mkdir()
    (folder / "other" / "torch.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder / "other"))


def test_a_healthy_machine_has_nothing_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=50 * 2**30))
    findings = found(tmp_path / "not" / "there" / "yet")
    assert list(findings) == EVERYTHING
    assert [finding.what for finding in findings.values() if not finding.fine] == []
    assert findings["disk"].found == f"50 GiB free where studies live ({tmp_path})"
    assert findings["git"].found[0].isdecimal() and findings["torch"].found[0].isdecimal()
    assert "megatron-core" in findings["torch"].found and "transformer-engine" in findings["torch"].found
    assert findings["energy"].found in ("source: nvml", "source: rapl", "source: estimate")
    assert findings["torch.compile"].found.startswith("not tried: on a CPU")


def test_without_git_there_is_no_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_torch(tmp_path, monkeypatch, LIGHT_TORCH)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found(tmp_path)["git"] == Finding("git", "not found: install it", False)


@pytest.mark.parametrize(("free", "fine"), [(MIN_FREE_BYTES, True), (MIN_FREE_BYTES - 1, False), (0, False)])
def test_a_full_disk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, fine: bool) -> None:
    put_torch(tmp_path, monkeypatch, LIGHT_TORCH)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    disk = found(tmp_path)["disk"]
    assert disk.fine == fine and disk.found.startswith(f"{free / 2**30:.0f} GiB free")


def test_a_torch_that_does_not_import_is_found_with_its_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_torch(tmp_path, monkeypatch, "print('loading')\nraise OSError('libcudart.so.12: no such file')")
    torch = found(tmp_path)["torch"]
    assert torch == Finding("torch", "does not import: OSError: libcudart.so.12: no such file", False)


def test_a_gpu_that_torch_cannot_use_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "is_there", lambda: True)
    ask.cache_clear()
    put_torch(tmp_path, monkeypatch, "raise RuntimeError('no kernel image for this device')")
    device = found(tmp_path)["device"]
    assert not device.fine
    assert "torch cannot use it (RuntimeError: no kernel image for this device)" in device.found


def test_a_gpu_is_shown_with_its_compiler_and_its_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"name": "NVIDIA GB10", "memory_bytes": 2**37, "is_integrated": True, "uuid": "dddd-3"}
    answer = {"gpus": [gpu], "precisions": ["fp32", "bf16"], "refused": {}, "compile_fault": "no g++; install g++"}
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "__init__.py").touch()
    (tmp_path / "trainer" / "capability.py").write_text(f"import json\nprint(json.dumps({answer!r}))\n")
    put_torch(tmp_path, monkeypatch, LIGHT_TORCH)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nvml, "is_there", lambda: True)
    ask.cache_clear()
    findings = found(tmp_path)
    ask.cache_clear()
    assert findings["device"].found == "1 x NVIDIA GB10 (cuda, memory shared with the system), fp32, bf16"
    assert findings["torch.compile"] == Finding(
        "torch.compile", "does not work, so runs go without: no g++; install g++"
    )
    assert findings["energy"].found == "source: estimate, from energy.gpu_watts: NVML tells nothing of this GPU"
