"""A warm worker out of a function: ten lines for its author, and all that a trainer's worker does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launching import finished, progress
from programs import PYTHON, script
from studies import is_running, wait_until

from autoresearch.config import EnergySettings, TrainerSettings
from autoresearch.program import told
from autoresearch.workers.launcher import Progress
from autoresearch.workers.local import LocalLauncher
from trainer.protocol import RunRequest, RunResult

SCRIPT = """
import os, time
from autoresearch.adapter import serve

def train(recipe, seed, budget, report):
    print("hello from", seed)
    what = recipe["what"]
    for step in range(1, budget["steps"] + 1):
        report(step, recipe.get("loss", 3.0) / step)
    while what == "waits":
        time.sleep(0.01)
        report(step, 1.0)
    return {"score": 0.5, "dict": {"accuracy": 0.75, "steps": 9, "other": 1}, "nothing": None, "nan": float("nan"),
            "text": "0.5", "pid": os.getpid(), "empty": {}}[what]

serve(train)
"""


class Served:
    def __init__(self, folder: Path, text: str = SCRIPT, **trainer: Any) -> None:
        self.folder, self.numbers = folder, iter(range(100))
        command = [PYTHON, str(script(folder, text))]
        self.settings = TrainerSettings(command=command, recipe="adapter", score="accuracy", **trainer)
        self.launcher = LocalLauncher(
            ["cpu"], EnergySettings(), folder / "workers.log", command,
            environment=lambda device: told.environment(device, True, 1), folder=folder,
        )  # fmt: skip

    def begin(self, what: str, stop_above: list[list[float]] | None = None, **knobs: Any) -> str:
        run_id = f"{next(self.numbers):04d}-0"
        run, recipe = self.folder / run_id, {"what": what, **knobs}
        budget: dict[str, float] = {"steps": 20}
        run.mkdir()
        program = told.tell(self.settings, recipe, 3, budget, run)
        place = str(run / "result.json")
        request = RunRequest(run_id, recipe, 3, budget, "", place, program=program, stop_above=stop_above or [])
        self.launcher.submit(request, 60.0)
        return run_id

    def result(self, what: str, stop_above: list[list[float]] | None = None, **knobs: Any) -> RunResult:
        self.begin(what, stop_above, **knobs)
        return finished(self.launcher).result


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.launcher.close()


def test_a_function_that_returns_a_number_is_a_trainer(served: Served, tmp_path: Path) -> None:
    result = served.result("score")
    assert (result.state, result.val_bpb, result.steps) == ("complete", 0.5, 20), result.message
    assert result.curve[-1] == [20, 3.0 / 20] and result.total_seconds is not None
    assert "hello from 3" in (tmp_path / "0000-0" / "worker.log").read_text()


def test_a_dict_tells_more(served: Served) -> None:
    result = served.result("dict")
    assert (result.val_bpb, result.steps) == (0.75, 9)


def test_a_higher_score_is_kept_as_a_lower_number(tmp_path: Path) -> None:
    served = Served(tmp_path, lower_is_better=False)
    assert served.result("score").val_bpb == -0.5
    served.launcher.close()


def test_one_process_does_run_after_run(served: Served) -> None:
    assert served.result("pid").val_bpb == served.result("pid").val_bpb


@pytest.mark.parametrize(
    ("what", "failure", "said"),
    [
        ("nothing", "error", "accuracy is 'None', which is no number"),
        ("text", "error", "accuracy is '0.5', which is no number"),
        ("nan", "diverged", "accuracy is nan"),
        ("empty", "error", "the result has no accuracy; it has: nothing"),
        ("unknown", "error", "KeyError: 'unknown'"),
    ],
)
def test_what_is_no_score_is_a_failed_run_and_the_worker_goes_on(
    served: Served, what: str, failure: str, said: str
) -> None:
    result = served.result(what)
    assert (result.state, result.failure, result.message) == ("failed", failure, said)
    assert served.result("score").state == "complete"


def test_a_cancelled_run_ends_where_it_reports_and_its_worker_stays(served: Served) -> None:
    before = served.result("pid").val_bpb
    run_id = served.begin("waits")
    assert isinstance(progress(served.launcher), Progress)
    served.launcher.cancel(run_id)
    result = finished(served.launcher).result
    assert (result.state, result.message) == ("cancelled", "cancelled after step 20")
    assert served.result("pid").val_bpb == before


def test_a_hopeless_run_ends_where_it_reports(served: Served) -> None:
    result = served.result("score", stop_above=[[0.5, 0.1]])
    assert (result.state, result.steps) == ("stopped", 10)
    assert served.result("score", stop_above=[[0.5, 0.5]]).state == "complete"


def test_a_long_curve_is_kept_in_few_points(served: Served) -> None:
    result = served.result("score", loss=3.0)
    assert len(result.curve) == 20
    from autoresearch.adapter import CURVE_POINTS, Report

    report = Report({"budget": {}, "run_id": "1"}, lambda *_, **__: None, lambda: False)
    for step in range(1, 10_001):
        report(step, float(step))
    assert len(report.curve) <= CURVE_POINTS and report.curve[-1][0] == 10_000
    assert sum(loss for _, loss in report.curve) / len(report.curve) == pytest.approx(5000, rel=0.05)


def test_a_script_that_does_not_start_says_why(tmp_path: Path) -> None:
    served = Served(tmp_path, "import nothing_of_that_name")
    result = served.result("score")
    served.launcher.close()
    assert result.failure == "worker_died"
    assert "ModuleNotFoundError: No module named 'nothing_of_that_name'" in result.message


def test_what_a_program_writes_in_the_place_of_a_result_is_not_believed(tmp_path: Path) -> None:
    lies = SCRIPT.replace(
        'print("hello from", seed)',
        'import adapter_lies; adapter_lies.lie(os.environ["AUTORESEARCH_FOLDER"])',
    )
    script(
        tmp_path,
        "import json, os, pathlib, sys\n"
        "def lie(place):\n"
        "    run = pathlib.Path(place).parent\n"
        "    told = dict(run_id=run.name, seed=3, state='complete', val_bpb='much', message='\\x1b[2J')\n"
        "    (run / 'result.json').write_text(json.dumps(told))\n"
        "    os._exit(0)\n",
        "adapter_lies.py",
    )
    served = Served(tmp_path, lies)
    result = served.result("score")
    served.launcher.close()
    assert result.state == "failed" and result.val_bpb is None


def test_the_worker_ends_with_its_runner(served: Served) -> None:
    served.result("score")
    process = served.launcher._workers[0]._process
    assert process.stdin is not None
    process.stdin.close()
    wait_until(lambda: not is_running(process.pid))


def test_the_adapter_needs_no_other_file_and_no_other_package(tmp_path: Path) -> None:
    """So it can be copied beside a script whose Python has nothing of ours."""
    import autoresearch.adapter as adapter

    (tmp_path / "adapter.py").write_bytes(Path(adapter.__file__).read_bytes())
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import sys; sys.path.insert(0, '.'); from adapter import serve, Stopped"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
