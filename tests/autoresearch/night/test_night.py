"""Real nights through the real command: real text, real training, real signals."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import tomlkit
from studies import assert_git_and_database_agree, change, query

from autoresearch.config import PRESETS
from autoresearch.study.folder import StudyFolder, create_study
from autoresearch.workers.machine import look

AUTORESEARCH = (sys.executable, "-m", "autoresearch")
SETTINGS = {
    "tokens = 200_000": "tokens = 3_200",  # 25 steps, the fewest that the menu's constraint admits
    "val_bytes = 131_072": "val_bytes = 20_000",
    "test_bytes = 131_072": "test_bytes = 20_000",
    "baseline_runs = 3": "baseline_runs = 2",
    "reference_runs = 3 ": "reference_runs = 2 ",
    "reference_max = 24": "reference_max = 2",
    "max_runs = 12": "max_runs = 2",
    "vocab_size = 2048": "vocab_size = 512",
}
RECIPE = {"n_layer": (4, 1), "d_model": (128, 64), "batch_size": (8, 2), "seq_len": (256, 64)}


class Home:
    """A home for studies with one small one in it, and the command to run it."""

    def __init__(self, path: Path, text: Path) -> None:
        self.path = path
        self.env = {**os.environ, "AUTORESEARCH_HOME": str(path), "TERM": "dumb"}
        self.env = {name: value for name, value in self.env.items() if not name.startswith("OPENAI_")}
        create_study(path, "mine", "cpu-nano", look("cpu"), {"data.source": str(text)}).store.close()

    def command(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run([*AUTORESEARCH, *arguments], env=self.env, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*AUTORESEARCH, *arguments], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def propose(self, raw: str) -> None:
        self.study.store.queue_idea(raw)

    def edit(self, changes: dict[str, str]) -> None:
        settings = self.path / "mine" / "study.toml"
        settings.write_text(replaced(settings.read_text(), changes))

    @property
    def study(self) -> StudyFolder:
        return StudyFolder(self.path, "mine")


def replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped ones, cpu-nano with a model and a budget for a fraction of a second."""
    copy = tmp_path_factory.mktemp("presets") / "presets"
    shutil.copytree(PRESETS, copy)
    settings, menu = copy / "cpu-nano" / "study.toml", copy / "cpu-nano" / "menu.toml"
    settings.write_text(replaced(settings.read_text(), SETTINGS))
    knobs = tomlkit.parse(menu.read_text())
    for name, (usual, small) in RECIPE.items():
        assert knobs["knobs"][name]["default"] == usual
        knobs["knobs"][name]["default"] = small
    menu.write_text(tomlkit.dumps(knobs))
    return copy


@pytest.fixture
def home(tmp_path: Path, presets: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr("autoresearch.study.preset.PRESETS", presets)
    text = tmp_path / "text"
    text.mkdir()
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    for source in library[:20]:
        (text / f"{source.stem}.txt").write_bytes(source.read_bytes())
    return Home(tmp_path / "home", text)


def lines_until(process: subprocess.Popen[str], pattern: str) -> Iterator[str]:
    """The process's lines up to the first that matches."""
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        if re.search(pattern, line):
            return
    raise AssertionError(f"the night ended before {pattern!r}")


def workers_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "trainer.worker" in " ".join(child.cmdline())]


def test_a_night_of_real_training_from_text_to_table(home: Home) -> None:
    home.command("propose", "mine", "--knob", "lr", "--value", "0.004", "--reason", "short runs want more")
    said = home.command("run", "mine", "--trials", "2")
    assert "1 trial done" not in said and "2 trials done, as asked" in said
    assert re.search(r"1 +queue +lr 0\.001 -> 0\.004", said)
    folder = home.study
    runs = [run for run in folder.store.runs() if run.state == "complete"]
    assert len(runs) >= 4
    for run in runs:
        assert 1.0 < (run.val_bpb or 0) < 8.0
        assert run.tokens and run.tokens >= 25 * 128 and run.params and (run.tokens_per_second or 0) > 0
        assert (run.peak_memory_bytes or 0) > 2**26 and (run.energy_joules or 0) > 0
    assert query(folder, "SELECT COUNT(*) FROM runs WHERE json_array_length(curve) < 10") == [(0,)]
    assert_git_and_database_agree(folder)
    assert said.splitlines()[-1].startswith("Report: ") and said.rstrip().endswith("mine/report/index.html")
    assert "2 changes were trained" in (home.study.path / "report" / "report.md").read_text()


def test_ctrl_c_ends_at_the_trial_boundary_and_the_next_night_goes_on(home: Home) -> None:
    process = home.start("run", "mine", "--trials", "50")
    list(lines_until(process, r"trial 1 seed \d: \w+ ="))
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate()
    assert process.returncode == 0, rest
    assert "ended by SIGINT" in rest and "Traceback" not in rest
    folder = home.study
    assert folder.store.open_trials() == [] and len(folder.store.trials()) >= 2
    assert_git_and_database_agree(folder)


def test_a_second_ctrl_c_ends_at_once_and_nothing_is_lost(home: Home) -> None:
    home.edit({"tokens = 3_200": "tokens = 25_600"})  # long enough to be caught in the middle
    home.propose(change("d_ff", 256))
    process = home.start("run", "mine", "--trials", "1")
    list(lines_until(process, r"trial 1 seed \d: d_ff"))
    workers = workers_of(process.pid)
    for worker in workers:
        worker.suspend()  # so that the run is not over before the second signal
    process.send_signal(signal.SIGINT)
    list(lines_until(process, "once more to end at once"))
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate()
    assert process.returncode == 130 and "Traceback" not in rest
    psutil.wait_procs(workers, timeout=10)
    assert not any(worker.is_running() for worker in workers)
    home.propose(change("d_ff", 768))
    home.command("run", "mine", "--trials", "1")
    assert [trial.changes for trial in home.study.store.trials()[1:]] == [{"d_ff": 256}, {"d_ff": 768}]
    assert_git_and_database_agree(home.study)


def test_kill_9_of_worker_and_runner_loses_nothing_and_leaves_no_process(home: Home) -> None:
    home.propose(change("d_ff", 256))
    process = home.start("run", "mine", "--trials", "1")
    list(lines_until(process, r"trial 0 seed 0: baseline"))
    while not (workers := workers_of(process.pid)):
        time.sleep(0.05)
    workers[0].kill()
    list(lines_until(process, r"trial 1 seed \d: d_ff"))
    workers = workers_of(process.pid)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive, "a worker whose runner is gone ends by itself"
    home.propose(change("d_ff", 768))
    home.command("run", "mine", "--trials", "1")
    folder = home.study
    assert [trial.state for trial in folder.store.trials()] == ["complete"] * 3
    # The run that lost its worker may have been under way again when the runner was killed.
    assert query(folder, "SELECT MAX(attempts) FROM runs WHERE trial = 0") in ([(2,)], [(3,)])
    assert_git_and_database_agree(folder)


def test_the_daemon_runs_its_window_and_stops_when_told(home: Home) -> None:
    home.edit(
        {'start = "22:00"': 'start = "00:00"', 'stop = "07:00"': 'stop = "00:00"', "# trials = 100": "trials = 1"}
    )
    process = home.start("daemon", "mine")
    list(lines_until(process, "resting until"))
    assert home.study.store.trials()[1].state in ("complete", "failed")
    home.command("stop", "mine")
    rest, _ = process.communicate()
    assert process.returncode == 0 and "daemon stopped" in rest


def test_a_study_that_must_compile_and_cannot_ends_before_it_begins(home: Home) -> None:
    create_study(home.path, "must", "cpu-nano", look("cpu"), {"data.source": "stdlib", "compile": True}).store.close()
    home.env |= {"CXX": "/nowhere/g++"}
    (line,) = [line for line in home.command("run", "must", code=2).splitlines() if "compile is true" in line]
    assert "No working C++ compiler found" in line and "apt install g++" in line and 'set compile = "auto"' in line
    assert not list((home.path / "must" / "runs").glob("*"))
