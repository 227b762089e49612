"""A plain command as a run: each way to be told its recipe, each way to tell its score, and each way to fail."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launching import finished
from programs import ARGUMENTS, CONSTANTS, MENU, PYTHON, SHELL, script
from studies import is_running, wait_until

from autoresearch.config import EnergySettings, TrainerSettings
from autoresearch.program import told
from autoresearch.study.requests import PLAIN_COMMAND
from autoresearch.study.script import Script
from autoresearch.workers.launcher import Finished, Progress
from autoresearch.workers.local import LocalLauncher
from rails import load_menu
from trainer.protocol import RunRequest, RunResult

RECIPE = {**load_menu(MENU).defaults(), "lr": 0.1}
SAID = 0.04 + 0.001 * 3  # by this recipe with seed 3


class Runs:
    """Runs of one command in a folder with its script, through a real launcher."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launcher = LocalLauncher(
            ["cpu"],
            EnergySettings(),
            folder / "workers.log",
            PLAIN_COMMAND,
            environment=lambda device: told.environment(device, True, 1),
        )

    def begin(self, seconds: float = 60.0, stop_above: list[list[float]] | None = None, **trainer: Any) -> Path:
        """Returns the folder that the program writes in."""
        given = {"folder": str(self.folder), **trainer}
        settings = TrainerSettings.model_validate({name: value for name, value in given.items() if value is not None})
        run = self.folder / "runs" / "0001-3"
        budget: dict[str, float] = {"steps": 10}
        run.mkdir(parents=True, exist_ok=True)
        text = Script.read(told.script_of(settings)).at(RECIPE)["train.py"] if settings.script else None
        program = told.tell(settings, RECIPE, 3, budget, run, text)
        request = RunRequest(
            "0001-3", RECIPE, 3, budget, "", str(run / "result.json"), program=program, stop_above=stop_above or []
        )
        self.launcher.submit(request, seconds)
        return run / told.PLACE

    def result(self, seconds: float = 60.0, **trainer: Any) -> RunResult:
        self.begin(seconds, **trainer)
        return finished(self.launcher).result

    def python(self, text: str, **trainer: Any) -> RunResult:
        """Of a script with this text."""
        return self.result(command=[PYTHON, str(script(self.folder, text))], recipe="file", **trainer)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(tmp_path)
    yield runs
    runs.launcher.close()


def test_a_recipe_becomes_constants_in_a_copy_of_the_script(runs: Runs, tmp_path: Path) -> None:
    path = script(tmp_path, CONSTANTS + "\nimport beside\n")
    script(tmp_path, "print('imported')", "beside.py")
    result = runs.result(command=f"{PYTHON} train.py", recipe="constants", script="train.py")
    assert result.val_bpb == pytest.approx(SAID), result.message
    assert path.read_text("utf-8") == CONSTANTS + "\nimport beside\n"
    copy = (tmp_path / "runs" / "0001-3" / told.PLACE / "train.py").read_text("utf-8")
    assert "LR = 0.1      # step size; keep the comment\n" in copy and "SEED = 3\n" in copy


def test_a_recipe_becomes_arguments(runs: Runs, tmp_path: Path) -> None:
    script(tmp_path, ARGUMENTS + 'print("val_bpb =", score)\n')
    assert runs.result(command=f"{PYTHON} train.py").val_bpb == pytest.approx(SAID)


def test_a_command_names_the_place_of_its_arguments_itself(runs: Runs, tmp_path: Path) -> None:
    script(tmp_path, 'echo "args: $* {x}"; echo "val_bpb: $2"\n', "go.sh")
    runs.result(command="sh go.sh -l {lr} --seed={seed} -n {budget} {depth} {unknown} ${{")
    log = (tmp_path / "runs" / "0001-3" / "worker.log").read_text()
    assert "args: -l 0.1 --seed=3 -n 10 4 {unknown} ${{ --kind plain --wide false {x}" in log


def test_a_recipe_becomes_environment_and_a_pattern_finds_the_score(runs: Runs, tmp_path: Path) -> None:
    script(tmp_path, SHELL, "train.sh")
    pattern: dict[str, Any] = {
        "score_pattern": r"accuracy was ([\d.]+) percent",
        "score": "accuracy",
        "lower_is_better": False,
    }
    result = runs.result(command="./train.sh", recipe="environment", **pattern)
    assert result.val_bpb == -4.25, "kept so that lower is better"
    assert "seed 3 budget 10" in (tmp_path / "runs" / "0001-3" / "worker.log").read_text()


def test_a_recipe_is_a_file_and_so_is_the_score(runs: Runs, tmp_path: Path) -> None:
    text = """
import json, os, tomllib
place = os.environ["AUTORESEARCH_FOLDER"]
recipe = json.load(open(os.environ["AUTORESEARCH_RECIPE"]))
assert recipe == tomllib.load(open(place + "/recipe.toml", "rb"))
json.dump({"loss": recipe["lr"], "steps": 7, "peak_memory_bytes": 5, "tokens": "x"}, open(place + "/result.json", "w"))
"""
    result = runs.python(text, score="loss", score_file="result.json")
    assert (result.val_bpb, result.steps, result.peak_memory_bytes, result.tokens) == (0.1, 7, 5, None)


def test_the_last_score_counts_and_memory_and_time_are_measured(runs: Runs) -> None:
    result = runs.python("b = bytearray(30 * 2**20)\nprint('val_bpb: 3')\nprint('val_bpb: 2', end='')")
    assert result.val_bpb == 2
    assert result.peak_memory_bytes is not None and result.peak_memory_bytes > 30 * 2**20
    assert result.total_seconds and result.cpu_seconds


PROGRESS = """
import json
for step in range(1, 11):
    told = {"step": step, "steps": 10, "loss": 5.0, "peak_memory_bytes": 100 + step}
    print("progress:", json.dumps(told), flush=True)
print("progress: {not json}")
print("val_bpb: 1")
"""


def test_progress_is_told_and_becomes_the_curve(runs: Runs, tmp_path: Path) -> None:
    script(tmp_path, PROGRESS)
    runs.begin(command=f"{PYTHON} train.py", recipe="file")
    first = runs.launcher.next_event(60.0)
    assert first == Progress("0001-3", "train", 1, 10, 5.0)
    result = finished(runs.launcher).result
    assert (result.steps, result.curve[-1], result.peak_memory_bytes) == (10, [10, 5.0], 110)


def test_a_hopeless_run_is_stopped_on_its_way(runs: Runs) -> None:
    result = runs.python(PROGRESS + "import time; time.sleep(600)", stop_above=[[0.5, 4.0]])
    assert (result.state, result.steps, result.val_bpb) == ("stopped", 5, None)
    assert "training loss 5, above 4" in result.message


@pytest.mark.parametrize(
    ("text", "failure", "said"),
    [
        ("print('hello')", "error", "it ended well but told no val_bpb; its last lines: hello"),
        ("print('val_bpb: good')", "error", "val_bpb is 'good', which is no number"),
        ("print('val_bpb: nan')", "diverged", "val_bpb is nan"),
        ("print('val_bpb: -inf')", "diverged", "val_bpb is -inf"),
        ("print('val_bpb: 1e300')", "diverged", "val_bpb is 1e+300"),
        ("1 / 0", "error", "it ended with exit code 1: ZeroDivisionError: division by zero (before that: "),
        ("import os; os.kill(os.getpid(), 11)", "error", "it was ended by Segmentation fault: it said nothing"),
        ("raise MemoryError", "out_of_memory", "MemoryError"),
        ("import sys; sys.exit('CUDA out of memory. Tried')", "out_of_memory", "CUDA out of memory"),
        ("print('\\x1b[31mred\\x1b[0m \\u202e'); raise SystemExit(3)", "error", "it ended with exit code 3: red"),
    ],
)
def test_what_failed_says_why_in_one_clean_line(runs: Runs, text: str, failure: str, said: str) -> None:
    result = runs.python(text)
    assert (result.state, result.failure) == ("failed", failure)
    assert said in result.message and result.message.isprintable()


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (None, "it ended well but left no score.json in its folder"),
        ("{", "score.json is no JSON"),
        ("[1]", "score.json holds no JSON object"),
        ('{"other": 1}', "score.json has no val_bpb; it has: other"),
        ('{"val_bpb": "0.9"}', "val_bpb is '0.9', which is no number"),
        ('{"val_bpb": true}', "val_bpb is 'True', which is no number"),
        ('{"val_bpb": NaN}', "val_bpb is nan"),
    ],
)
def test_a_score_file_without_a_score_says_what_is_in_it(runs: Runs, left: str | None, said: str) -> None:
    text = f"import os; open(os.environ['AUTORESEARCH_FOLDER'] + '/score.json', 'w').write({left!r})" if left else ""
    result = runs.python(text, score_file="score.json")
    assert result.state == "failed" and said in result.message


def test_a_score_file_of_an_earlier_attempt_does_not_count(runs: Runs) -> None:
    write = "import os; open(os.environ['AUTORESEARCH_FOLDER'] + '/score.json', 'w').write('{\"val_bpb\": 1}')"
    assert runs.python(write, score_file="score.json").state == "complete"
    assert runs.python("", score_file="score.json").state == "failed"


def test_a_missing_program_is_a_failed_run(runs: Runs) -> None:
    result = runs.result(command="no-such-program --fast")
    assert result.state == "failed" and "no-such-program cannot be started" in result.message


HANGS = """
import os, subprocess, sys, time
inside = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
apart = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("about to hang", flush=True)
with open(os.environ["AUTORESEARCH_FOLDER"] + "/pids.tmp", "w") as file:
    print(os.getpid(), inside.pid, apart.pid, file=file)
os.rename(file.name, file.name[:-4])
"""


def pids(place: Path) -> list[int]:
    wait_until((place / "pids").exists)
    return [int(pid) for pid in (place / "pids").read_text().split()]


def test_a_run_that_takes_too_long_dies_with_its_children_also_those_in_sessions_of_their_own(
    runs: Runs, tmp_path: Path
) -> None:
    script(tmp_path, HANGS + "time.sleep(600)")
    place = runs.begin(2.0, command=f"{PYTHON} train.py", recipe="file")
    started = pids(place)
    result = finished(runs.launcher).result
    assert result.failure == "timed_out" and result.message.endswith("the last it said: about to hang")
    wait_until(lambda: not any(map(is_running, started)))
    assert runs.python("print('val_bpb: 1')").val_bpb == 1, "the next run has a worker again"


def test_a_child_that_outlives_its_run_is_ended_and_does_not_hold_it_up(runs: Runs, tmp_path: Path) -> None:
    script(tmp_path, HANGS + "apart.kill(); print('val_bpb: 1')")
    place = runs.begin(command=f"{PYTHON} train.py", recipe="file")
    result = finished(runs.launcher).result
    assert result.val_bpb == 1
    wait_until(lambda: not any(map(is_running, pids(place)[:2])))


def test_a_cancelled_run_ends_with_its_children_and_its_curve(runs: Runs, tmp_path: Path) -> None:
    script(tmp_path, 'print(\'progress: {"step": 1, "loss": 2.5}\', flush=True)\n' + HANGS + "time.sleep(600)")
    place = runs.begin(command=f"{PYTHON} train.py", recipe="file")
    assert isinstance(runs.launcher.next_event(60.0), Progress)
    started = pids(place)
    runs.launcher.cancel("0001-3")
    result = finished(runs.launcher).result
    assert (result.state, result.curve, result.message) == ("cancelled", [[1, 2.5]], "cancelled after step 1")
    wait_until(lambda: not is_running(started[0]) and not is_running(started[1]))


def test_a_program_dies_with_the_runner(runs: Runs, tmp_path: Path) -> None:
    script(tmp_path, HANGS + "time.sleep(600)")
    place = runs.begin(command=f"{PYTHON} train.py", recipe="file")
    started = pids(place)
    worker = runs.launcher._workers[0]._process
    assert worker.stdin is not None
    worker.stdin.close()  # as the system does with a runner that was killed
    wait_until(lambda: not is_running(started[0]) and not is_running(started[1]))


def test_much_output_is_kept_in_part_and_its_end_is_read(runs: Runs, tmp_path: Path) -> None:
    result = runs.python("for i in range(60_000): print('x' * 99)\nprint('y' * 10**6)\nprint('val_bpb: 4')")
    assert result.val_bpb == 4
    log = (tmp_path / "runs" / "0001-3" / "worker.log").read_bytes()
    assert len(log) < 2 * 2**20 and log.endswith(b"val_bpb: 4\n\n") and b"is not kept" in log


def test_the_language_models_key_is_not_the_programs(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-secret")
    runs.launcher._workers[0].kill()  # it was started before
    result = runs.python("import os; raise SystemExit(os.environ.get('OPENAI_API_KEY', 'no key'))")
    assert result.message == "it ended with exit code 1: no key"


def test_a_folder_with_modules_named_as_ours_does_no_harm(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("trainer.py", "rails.py", "json.py", "autoresearch.py"):
        script(tmp_path, "raise SystemExit('the wrong one')", name)
    monkeypatch.chdir(tmp_path)
    runs.launcher._workers[0].kill()
    assert runs.result(command="echo val_bpb: 1", recipe="file").val_bpb == 1


def test_what_the_request_holds_can_be_run_by_hand(runs: Runs, tmp_path: Path) -> None:
    script(tmp_path, CONSTANTS)
    runs.result(command=f"{PYTHON} train.py", recipe="constants", script="train.py")
    program = json.loads((tmp_path / "runs" / "0001-3" / "request.json").read_text())["program"]
    assert program["command"] == [PYTHON, str(tmp_path / "runs/0001-3/program/train.py")]
    assert program["environment"]["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path)


def test_each_of_several_workers_sees_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert told.environment("cuda:1", False, 2)["CUDA_VISIBLE_DEVICES"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in told.environment("cuda:0", True, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-6")
    assert told.environment("cuda:1", False, 2)["CUDA_VISIBLE_DEVICES"] == "GPU-6"
    assert told.environment("cpu", False, 2)["CUDA_VISIBLE_DEVICES"] == "4,GPU-6"
    assert told.environment("cpu", False, 2)["OMP_NUM_THREADS"] == "5", "the person's own word counts"


def test_a_finished_run_is_heard_of_once(runs: Runs) -> None:
    runs.begin(command="echo val_bpb: 1", recipe="file")
    assert isinstance(finished(runs.launcher), Finished)
    assert runs.launcher.next_event(0.1) is None
