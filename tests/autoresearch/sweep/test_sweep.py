"""The sweep: every point is a row, a failure is a point, and table, file and chart say the same."""

from __future__ import annotations

import csv
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, product, repeat
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console
from studies import MACHINE

from autoresearch import cli
from autoresearch.config import LimitSettings
from autoresearch.sweep import measure as envelope
from autoresearch.sweep.command import make_grid, sweep
from autoresearch.sweep.measure import Grid
from autoresearch.workers import process
from autoresearch.workers.machine import Machine
from trainer.data import manifest_of

GPU = Machine("cuda", "test GPU", 1, 80 * 2**30, ("fp32", "bf16", "fp8"))
TOO_MANY = 2**43  # sequences: more bytes than a process can address, so that no machine is tried in earnest
BATCH, RANDOM, STEPS = range(3)  # in what `requests` gives

Measure = Callable[[Grid], list[dict[str, str]]]

# Notes each request; a run's speed is the next in `speeds` for its kind of tokens. It dies of batch 4 and hangs on 8.
STUB = """
import json, os, signal, sys, time
from pathlib import Path
from trainer.data import manifest_of
from trainer.protocol import RunRequest, RunResult

speeds = {True: [100.0, 120.0, 110.0], False: [99.0, 99.0, 121.0]}
notes = Path(__file__).with_name("requests")
for line in sys.stdin:
    request = RunRequest.read(line.strip())
    recipe, steps = request.recipe, request.budget["steps"]
    facts = [request.random_tokens, steps, request.score, manifest_of(request.data_dir).vocab_size]
    with notes.open("a") as file:
        file.write(json.dumps([recipe["batch_size"], *facts]) + chr(10))
    if recipe["batch_size"] == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    if recipe["batch_size"] == 8:
        time.sleep(600)
    speed = speeds[request.random_tokens].pop(0) if steps > 1 else 1.0
    parts = {"data": 0.001, "forward": 0.3, "backward": 0.6, "optimizer": 0.099}
    RunResult(
        request.run_id, 0, "complete", tokens=steps * 640, steps=steps, tokens_per_second=speed, step_seconds=parts,
        flops_per_token=10, peak_flops=4000.0, peak_flops_source="datasheet", peak_memory_bytes=2**30, cpu_seconds=1.0,
    ).write(request.result_path)
    print(json.dumps({"event": "done", "run_id": request.run_id}), flush=True)
"""


@pytest.fixture
def measured(tmp_path: Path) -> Measure:
    """Sweeps with the stub; returns the rows of the CSV file. What was printed is in tmp_path/printed."""
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)

    def run(grid: Grid) -> list[dict[str, str]]:
        with (tmp_path / "printed").open("w") as file:
            console = Console(file=file, width=140)
            sweep(grid, tmp_path / "home", tmp_path / "out", console, worker=(sys.executable, str(stub)))
        return rows(tmp_path / "out")

    return run


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def requests(tmp_path: Path) -> list[list[Any]]:
    """[batch size, random tokens, steps, score, vocabulary] of each run that the stub was asked for."""
    return [json.loads(line) for line in (tmp_path / "requests").read_text().splitlines()]


def nano(batch: str = "2", seq: str = "64", precision: str = "bf16", **asked: Any) -> Grid:
    return make_grid("cpu-nano", MACHINE, batch=batch, seq=seq, precision=precision, steps=5, **asked)


def run_command(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["autoresearch", "sweep", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_real_trainer_is_swept_and_what_fails_is_a_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("autoresearch.workers.machine.look", lambda **_: MACHINE)
    numbers = random.Random(0)
    text = tmp_path / "text.jsonl"
    text.write_text("".join(f'{{"text": "{[numbers.randrange(1000) for _ in range(100)]}"}}\n' for _ in range(1200)))
    out = tmp_path / "results"
    points = ["--batch", f"1,{TOO_MANY}", "--seq", "32", "--precision", "bf16,fp8", "--steps", "4"]
    rest = ["--data", "--source", str(text), "--rounds", "1", "--out", str(out), "--home", str(tmp_path / "home")]
    assert run_command([*points, *rest], monkeypatch) == 0
    said = capsys.readouterr().out

    found = rows(out)
    assert [(row["batch_size"], row["precision"], row["outcome"]) for row in found] == [
        ("1", "bf16", "ok"),
        (str(TOO_MANY), "bf16", "out_of_memory"),
        ("1", "fp8", "error"),
        (str(TOO_MANY), "fp8", "error"),
    ]
    ok, too_large, refused, _ = found
    assert "memory" in too_large["reason"] and "GPU" in refused["reason"]
    assert too_large["tokens_per_second"] == refused["tokens_per_second"] == "", "a failure is never a number"
    figures = {name: float(ok[name]) for name in ("tokens_per_second", "step_seconds", "mfu", "watts", "data_share")}
    assert figures["step_seconds"] * figures["tokens_per_second"] == pytest.approx(32, rel=0.2)
    assert 0 < figures["mfu"] < 1 and 0 < figures["data_share"] < 1 and figures["watts"] > 0
    assert int(ok["peak_memory_bytes"]) > 2**26 and ok["watts_source"] in ("rapl", "estimate")
    assert ok["peak_flops_source"] == "measured" and "torch" in ok["versions"]
    assert float(ok["slowdown"]) < 1 and float(ok["real_tokens_per_second"]) > 0
    (prepared,) = (tmp_path / "home" / ".data").glob("text-*")
    assert manifest_of(prepared).source == str(text), "it is shared with the studies of this home"

    shown = [line for line in said.splitlines() if re.match(r" *(1|8796093022208) +32 ", line)]
    assert [re.split(r"  +", line.strip())[-1] for line in shown] == ["ok", "out of memory", "error", "error"]
    assert f" {figures['tokens_per_second']:,.0f} " in shown[0] and f"{figures['mfu']:.1%}" in shown[0]
    assert f"their start included ({ok['watts_source']})" in said and refused["reason"] in said and str(out) in said

    svg = ElementTree.parse(out / "sweep.svg")
    drawn = {element.text for element in svg.iter() if element.text}
    assert svg.getroot().tag.endswith("svg")
    assert {"tokens per second", "batch size", "32", "bf16", "fp8", "\u00d7 out of memory", "\u00d7 error"} <= drawn


def test_the_cost_of_text_is_measured_in_turns_and_shown_with_its_spread(measured: Measure, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(map(str, range(100_000))))
    (row,) = measured(nano(data=True, source=str(tmp_path / "text.txt")))
    warm_up, *runs = requests(tmp_path)
    assert warm_up[STEPS] == 1, "what is loaded and compiled at first is in no figure"
    assert [run[RANDOM] for run in runs] == [True, False, False, True, True, False]
    assert float(row["tokens_per_second"]) == 110 and float(row["real_tokens_per_second"]) == 99
    assert float(row["tokens_per_second_low"]) == 100 and float(row["tokens_per_second_high"]) == 120
    assert float(row["step_seconds"]) == pytest.approx(640 / 110)
    assert float(row["mfu"]) == pytest.approx(110 * 10 / 4000)
    assert float(row["data_share"]) == pytest.approx(0.001)
    spread = [float(row[name]) for name in ("slowdown_low", "slowdown", "slowdown_high")]
    assert spread == pytest.approx([1 - 121 / 110, 1 - 99 / 110, 1 - 99 / 120])
    printed = (tmp_path / "printed").read_text()
    assert "110 [100, 120]" in printed and "0.100%" in printed and "+10.00% [-10.00%, +17.50%]" in printed


def test_random_tokens_need_no_text_but_the_vocabulary_of_the_preset(measured: Measure, tmp_path: Path) -> None:
    (row,) = measured(nano())
    assert row["outcome"] == "ok" and row["slowdown"] == row["data_share"] == ""
    assert [run[1:] for run in requests(tmp_path)] == [[True, 1, False, 2048], [True, 5, False, 2048]]
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("kills", "outcome", "reason"),
    [(count(), "out_of_memory", "the kernel killed the worker"), (repeat(0), "worker_died", "exit code -9")],
)
def test_a_killed_worker_is_out_of_memory_only_if_the_kernel_says_so(
    measured: Measure, monkeypatch: pytest.MonkeyPatch, kills: Iterator[int], outcome: str, reason: str
) -> None:
    monkeypatch.setattr(process, "oom_kills", lambda: next(kills))
    before, killed, after = measured(nano("2,4,6"))
    assert killed["outcome"] == outcome and reason in killed["reason"]
    assert before["outcome"] == after["outcome"] == "ok", "the sweep goes on with another worker"


def test_a_run_that_takes_too_long_is_a_point(measured: Measure) -> None:
    grid = nano("8,2")
    hasty = grid.settings.model_copy(update={"limits": LimitSettings(run_seconds=0.5)})
    slow, quick = measured(replace(grid, settings=hasty))
    assert (slow["outcome"], slow["reason"]) == ("timed_out", "took longer than 0.5 s")
    assert quick["outcome"] == "ok"


def test_ctrl_c_leaves_the_points_so_far(measured: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = envelope.Bench.run, count(1)

    def interrupted(*arguments: Any, **named: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(envelope.Bench, "run", interrupted)
    with pytest.raises(SystemExit) as end:
        measured(nano("2,3,6"))
    assert end.value.code == 130
    assert [row["batch_size"] for row in rows(tmp_path / "out")] == ["2"]
    assert "Ended by Ctrl-C after 1 of 3 points." in (tmp_path / "printed").read_text()


def test_the_points_of_the_large_preset_are_the_published_sixteen() -> None:
    grid = make_grid("gpt-354m", GPU, steps=5)
    points = {(point["batch_size"], point["seq_len"], point["precision"]) for point in grid.points}
    assert points == set(product((2, 4, 8, 16), (1024, 2048), ("bf16", "fp8"))) and len(grid.points) == 16
    assert all(point["d_model"] == 1024 for point in grid.points), "all else is the preset's"
    assert grid.compile and grid.rounds == 1


def test_the_points_of_another_preset_are_what_its_menu_offers() -> None:
    grid = make_grid("cpu-nano", MACHINE, steps=5, data=True)
    assert grid.batch_sizes == (2, 4, 8, 16) and grid.seq_lens == (64, 128, 256, 512)
    assert not grid.compile and grid.rounds == 3


def test_a_sweep_measures_numbers_that_repeat_unless_asked_not_to() -> None:
    asked = [None, True, False]
    grids = [make_grid("cpu-nano", MACHINE, steps=5, repeatable=repeatable) for repeatable in asked]
    assert [grid.settings.repeatable for grid in grids] == [True, True, False]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--batch", "2,x"], "--batch 2,x: 'x' is no whole number above 0; write a list like 2,4,8"),
        (["--batch", "2,0"], "'0' is no whole number above 0"),
        (["--batch", ""], "'' is no whole number above 0"),
        (["--seq", "1024,"], "'' is no whole number above 0"),
        (["--seq", "64,64"], "a value is there twice"),
        (["--seq", "1e3"], "'1e3' is no whole number above 0"),
        (["--precision", "bf16,fp4"], "'fp4' is no precision; choose from bf16, fp8, fp32"),
        (["--preset", "gpt-5"], "there is no preset 'gpt-5'"),
        (["--backend", "jax"], "--backend jax: choose one of torch, megatron"),
        (["--source", "stdlib"], "read only with --data"),
        (["--data", "--source", "no/such/text"], "no/such/text: no such file or folder"),
        (["--out", "."], "--out .: there is something already"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("autoresearch.workers.machine.look", lambda **_: MACHINE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    assert run_command(arguments, monkeypatch) == 2
    said = capsys.readouterr()
    assert complaint in said.err and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert said.out == ""
