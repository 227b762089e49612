"""first_light.py, for real on a CPU: what it needs, what it writes, and what is left of it when it is cut off."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import psutil
import pytest
from light.aims import aims, ratio
from light.page import markdown
from studies import wait_until

ROOT = Path(__file__).parents[1]
SCRIPT = (sys.executable, str(ROOT / "benchmarks" / "first_light.py"))
NEEDED = {"torch", "numpy", "tokenizers"}
# Python runs a module of this name at its start, wherever on its path it lies.
REFUSING = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refusing())
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing that the project declares can be imported but what the trainer needs."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    names = {re.split(r"[\[<>=~ ,]", line)[0].lower() for line in declared} - NEEDED
    refused = {module for module, owners in packages_distributions().items() if {o.lower() for o in owners} & names}
    assert {"pydantic", "rich", "optuna", "psutil", "pynvml"} <= refused
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(REFUSING.format(refused=sorted(refused)))
    return {**os.environ, "PYTHONPATH": str(tmp_path / "site")}


def content_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "first_light.json").read_text("utf-8"))


def test_torch_numpy_tokenizers_and_pytest_are_enough(bare: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*SCRIPT, "--quick", "--device", "cpu", "--out", str(out), "--pieces", "first_step,references,tests"]
    done = subprocess.run(command, env=bare, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "first_light.md" in done.stdout.splitlines()[-1]
    pieces = content_of(out)["pieces"]
    assert {name: piece["state"] for name, piece in pieces.items()} == dict.fromkeys(
        ("environment", "first_step", "references", "tests"), "done"
    )

    found = {name: piece["found"] for name, piece in pieces.items()}
    assert found["environment"]["precisions"] == ["fp32", "bf16"]
    assert found["first_step"]["repeats"] is True
    cold, warm, _ = (row["first_step_seconds"] for row in found["first_step"]["rows"])
    assert 0 < warm < cold, "a cold one loads and measures what later ones find"
    assert {row["name"] for row in found["references"]["rows"]} >= {"torch", "plain"}
    tests = found["tests"]["rows"]
    assert {(row["outcome"], row["message"]) for row in tests} == {
        ("skipped", "needs an NVIDIA GPU, and torch sees none")
    }

    page = (out / "first_light.md").read_text("utf-8")
    assert page.splitlines()[0].startswith("# First light without a GPU")
    for told in (
        "## First step",
        "## Beside others",
        "/ plain, not repeatable: ",
        "## Memory",
        f"- skipped, {len(tests)} tests: ",
    ):
        assert told in page
    assert f"commit {content_of(out)['commit']}, shape cpu-nano, shrunk" in page and "Aims" not in page


@pytest.mark.parametrize(
    ("end", "done", "running"), [(signal.SIGKILL, "speed", "memory"), (signal.SIGTERM, "memory", "tests")]
)
def test_what_was_measured_survives_the_end_and_no_process_does(
    end: signal.Signals, done: str, running: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [*SCRIPT, "--quick", "--device", "cpu", "--out", str(out), "--pieces", f"{done},{running}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def state(piece: str) -> str:
        return content_of(out)["pieces"][piece]["state"]

    wait_until(lambda: (out / "first_light.json").exists() and state(running) == "running", 200)
    wait_until(psutil.Process(process.pid).children)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(end)
    assert process.wait(60) == (-end if end == signal.SIGKILL else 1)
    assert not psutil.wait_procs(children, timeout=30)[1]

    assert (state("environment"), state(done)) == ("done", "done")
    assert state(running) == ("running" if end == signal.SIGKILL else "cut off")
    assert f"| {done} | done |" in (out / "first_light.md").read_text("utf-8")
    rows = content_of(out)["pieces"][done]["found"]["rows"]
    assert all(row["state"] == "complete" and row["tokens_per_second"] > 0 for row in rows)
    assert all(row["peak_memory_bytes"] and row["predicted_memory_bytes"] and row["energy_source"] for row in rows)


def test_a_piece_that_is_late_is_killed_and_what_needs_it_is_left_out(tmp_path: Path) -> None:
    out = tmp_path / "out"
    # Half a second for the first piece: Python starts, torch does not load.
    command = [*SCRIPT, "--quick", "--minutes", "0.06", "--out", str(out), "--pieces", "speed,memory"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    states = {name: (piece["state"], piece["message"]) for name, piece in content_of(out)["pieces"].items()}
    assert states["environment"] == ("late", "killed when its time was up")
    assert states["speed"][0] == states["memory"][0] == "skipped"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pieces", "speed,magic"], "--pieces magic: choose from environment, first_step, speed, references"),
        (["--minutes", "0"], "--minutes 0: must be above 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(arguments: list[str], message: str) -> None:
    done = subprocess.run([*SCRIPT, *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr


# --- the page of a card ---


def run(name: str, tokens_per_second: float, number: int = 0, gib: float = 24.0) -> dict[str, Any]:
    return {
        "name": name,
        "round": number,
        "state": "complete",
        "message": "",
        "tokens_per_second": tokens_per_second,
        "peak_memory_bytes": int(gib * 2**30),
        "predicted_memory_bytes": 24 * 2**30,
        "mfu": 0.45,
        "tokens": 655_360,
        "joules": 2100.0,
        "energy_source": "nvml",
    }


def on_card(card: str, quick: bool = False) -> dict[str, Any]:
    """What a card that meets some aims would leave."""
    environment = {
        "versions": {"torch": "2.13.0", "transformer-engine": None},
        "processor": "x86_64, 16 cores",
        "system": "Linux",
        "is_gpu": True,
        "card": card,
        "memory_bytes": 139 * 2**30,
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "driver": "580.1",
        "cuda": "13.0",
        "cudnn": 91400,
        "plan": {"preset": "gpt-354m"},
    }
    strict, free = "bf16, compiled, repeatable", "bf16, compiled, not repeatable"
    speed = [run(free, 210e3, n) for n in range(3)] + [run(strict, s, n) for n, s in enumerate((170e3, 172e3, 171e3))]
    speed += [run("fp8, compiled, repeatable", 180e3, n) for n in range(3)]
    warm = run("warm worker, seen shape", 2e5) | {"first_step_seconds": 0.6, "total_seconds": 6.0, "val_bpb": 2.1}
    ours = [{"name": "torch", "round": 0, "repeatable": False, "ours": True, "tokens_per_second": 210e3}]
    theirs = [
        {"name": name, "round": 0, "repeatable": False, "ours": False, "tokens_per_second": speed}
        for name, speed in (("huggingface", 80e3), ("huggingface, padded", 140e3), ("plain", 90e3))
    ]
    tests = [
        {"name": "t.py::test_a", "outcome": "failed", "seconds": 1.0, "message": "assert 1 == 2"},
        {"name": "t.py::test_b", "outcome": "passed", "seconds": 1.0, "message": ""},
    ]
    found: dict[str, Any] = {
        "environment": environment,
        "first_step": {"rows": [warm], "repeats": False},
        "speed": {"rows": speed},
        "references": {"rows": ours + theirs},
        "tests": {"rows": tests, "running": "t.py::test_c"},
    }
    pieces = {name: {"state": "done", "message": "a | b\nc", "found": noted} for name, noted in found.items()}
    return {"started_at": "2026-11-21T06:12:00+00:00", "commit": "abc", "quick": quick, "pieces": pieces}


def test_aims_stand_beside_what_was_measured_on_the_card_they_are_for() -> None:
    verdicts = {aim.split(":")[0]: verdict for aim, _, verdict in aims(on_card("NVIDIA H200"))}
    assert verdicts == {
        "bf16, not repeatable": "met",
        "bf16, repeatable": "missed",
        "at least 1.3 times Hugging Face's speed": "met",
        "fp8 not slower than bf16, ratio": "met",
        "peak memory in bf16": "met",
        "warm worker, seen shape": "met",
    }
    assert aims(on_card("NVIDIA H100")) == [] and aims(on_card("NVIDIA H200", quick=True)) == []
    nothing = {"pieces": {"environment": on_card("NVIDIA H200")["pieces"]["environment"]}, "quick": False}
    assert {verdict for *_, verdict in aims(nothing)} == {"not measured"}


def test_the_page_of_a_card_says_what_a_reader_must_not_miss() -> None:
    page = markdown(on_card("NVIDIA H200"))
    assert page.startswith("# First light on NVIDIA H200\n\n2026-11-21 06:12 UTC, commit abc, shape gpt-354m.")
    assert "| bf16, repeatable: at least 175,000 tokens/s | 171,000 tokens/s | missed |" in page
    assert "Repeatable over not repeatable, bf16, same rounds: 0.814 [0.803, 0.826] (3 rounds)." in page
    assert "fp8 over bf16, repeatable, same rounds: 1.053" in page
    assert "gave NOT the same numbers" in page
    assert "1 passed, 1 failed, 0 skipped." in page and "- failed: `t.py::test_a`: assert 1 == 2" in page
    assert "- not finished: `t.py::test_c`" in page
    assert "| environment | done |  | a / b c |" in page, "a message breaks no table"
    assert "3,204 (nvml)" in page, "joules a million tokens"


def test_a_ratio_is_taken_within_rounds() -> None:
    def speeds(values: list[float]) -> list[dict[str, Any]]:
        return [run("", value, number) for number, value in enumerate(values)]

    found = ratio(speeds([110.0, 220.0, 55.0]), speeds([100.0, 200.0, 50.0]))
    assert found is not None and found.rounds == 3
    assert (found.middle, found.low, found.high) == pytest.approx((1.1, 1.1, 1.1))
    assert ratio(speeds([1.0]), []) is None
    assert str(ratio(speeds([3.0]), speeds([2.0]))) == "1.500 (1 round)"
