"""Seconds and bytes of the report of a made-up long study: `python benchmarks/report_speed.py [--trials 500 2000]`.

Makes studies in a temporary folder (real git, real SQLite, made-up numbers) and measures what a person waits for in
the morning: the report from the start of a process, the report in a process that is warm (as after every trial of a
night), `inspect`, and questions in SQL. On a busy machine seconds say little: next to them stand the processor's busy
seconds, and the median in units of a fixed piece of work (gzip of the same mebibyte) that was timed just before.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from autoresearch.proposers.prompt import whole_prompt
from autoresearch.study.folder import StudyFolder, create_study
from autoresearch.trial import History, Recipe, Run, Trial, TrialState, from_iso, iso
from autoresearch.workers.machine import look
from rails import Knob, Limits, Value, recipe_key

RUN_SECONDS = 12.0
DEVIATION = 0.015
CURVE_POINTS = 100
MENU_BYTES, LINE_BYTES = 3_200, 110  # of the menu and of one trial in a prompt, about
BUDGET = {"tokens": 200_000}
MEASURED = dict(
    tokens=200_000, steps=390, params=1_100_000, train_seconds=11.0, eval_seconds=0.8, total_seconds=RUN_SECONDS,
    cpu_seconds=RUN_SECONDS, tokens_per_second=18_000.0, mfu=0.21, peak_flops=4e11, peak_flops_source="measured",
    data_seconds=0.0001, forward_seconds=0.009, backward_seconds=0.017, optimizer_seconds=0.002,
    first_step_seconds=0.4, peak_memory_bytes=2**29,
)  # fmt: skip
UNIT = random.Random(0).randbytes(2**15).hex().encode() * 16
VERSIONS = json.dumps({"python": "3.11", "torch": "2.13.0"})
RAIL_REASONS = {
    "novelty": "the same recipe was trial 7 (discard, val_bpb 2.4612)",
    "range": "lr must be a number from 0.0001 to 0.03, not 3.0",
    "menu": "there is no knob 'learning_rate'; the nearest is 'lr'",
}
QUESTIONS = {
    "trials of one knob": "SELECT number, val_bpb FROM trials WHERE json_extract(changes, '$.lr') IS NOT NULL",
    "kept, best first": "SELECT * FROM trials WHERE decision = 'keep' ORDER BY val_bpb LIMIT 20",
    "proposers": "SELECT proposer, COUNT(*), AVG(latency_seconds), SUM(1 - passed) FROM proposals GROUP BY proposer",
    "trials and their runs": "SELECT t.number, t.reason, COUNT(*), AVG(r.val_bpb), SUM(r.energy_joules) FROM trials t "
    "JOIN runs r ON r.trial = t.number GROUP BY t.number ORDER BY 4 LIMIT 50",
    "a word in all prompts": "SELECT trial FROM proposals WHERE prompt LIKE '%no such word%'",
}


def make_study(home: Path, trials: int, prompt_bytes: int = 20_000, name: str = "long") -> StudyFolder:
    """A study in `home` that looks like `trials` trials of cpu-nano: of them about 10 % blocked, 2 % failed, 3 % kept,
    70 % with one run. Prompts are real ones (menu and latest trials) of about `prompt_bytes`; 0 makes none."""
    folder = create_study(home, name, "cpu-nano", look("cpu"), {})
    search = _Search(folder, prompt_bytes)
    for number in range(1, trials + 1):
        search.add(number)
    search.write()
    return folder


class _Search:
    """The rows of a night that never was; the random numbers are the same each time."""

    def __init__(self, folder: StudyFolder, prompt_bytes: int) -> None:
        self.folder, self.menu, self.rng = folder, folder.menu, random.Random(0)
        self.prompt_trials = max(0, prompt_bytes - MENU_BYTES) // LINE_BYTES if prompt_bytes else None
        self.now = from_iso(folder.store.study()["created_at"])
        baseline = folder.store.trial(0)
        assert baseline is not None and baseline.commit is not None
        self.commit = baseline.commit  # of every trial: git is not what is measured here
        self.best = 2.46
        self.runs: list[dict[str, Any]] = []
        self.proposals: list[dict[str, Any]] = []
        self.trials = [self._close(asdict(baseline), self.best, 10, "reference", "measured with 10 seeds")]
        self.incumbent = self.trials[0]

    def add(self, number: int) -> None:
        knob = self.rng.choice(list(self.menu.knobs.values()))
        value, started = _draw(knob, self.rng), iso(self.now)
        fate = self.rng.random()
        proposer = "llm" if self.rng.random() < 0.9 else "random"
        reason = f"{knob.name} at {value} should help: {knob.doc} " + "A longer reason, as a model gives it. " * 3
        self._propose(number, proposer, knob.name, value, reason, started)
        row = self._open(number, proposer, {knob.name: value}, reason, started)
        if fate < 0.10:
            rail = self.rng.choice(list(RAIL_REASONS))
            row |= dict(state="blocked", rail=rail, reason=RAIL_REASONS[rail], recipe={}, recipe_key=None, commit=None)
            self.proposals[-1] |= dict(passed=0, rail=rail, reason=RAIL_REASONS[rail])
            self.trials.append(Trial(**row, finished_at=iso(self.now)))
        elif fate < 0.12:
            self.trials.append(self._fail(row))
        elif fate < 0.15:
            gain = 0.02 / (1 + number / 200)
            row |= dict(decision="keep", merge_commit=self.commit, **self._compared(gain, 0.008))
            self.best -= gain
            self.incumbent = self._close(row, self.best, 8, "candidate", "P(better) 0.9987 after 8 runs, 0.9950 asked")
            self.trials.append(self.incumbent)
        else:
            loss = abs(self.rng.gauss(0.02, 0.03))
            n = 1 if fate < 0.85 else self.rng.randint(2, 4)
            row |= dict(decision="discard", **self._compared(-loss, 0.04))
            verdict = f"P(better) 0.1203 after {n} runs: not promising enough for another run"
            self.trials.append(self._close(row, self.best + loss, n, "candidate", verdict))

    def write(self) -> None:
        store = self.folder.store
        trials = [asdict(trial) for trial in self.trials]
        for row in trials:
            row |= dict(changes=json.dumps(row["changes"]), recipe=json.dumps(row["recipe"]))
        events = [
            dict(
                at=row["finished_at"], kind=row["decision"] or row["state"], trial=row["number"], message=row["reason"]
            )
            for row in trials
        ]
        with store.db.atomic():
            store.db.table("trials").upsert_all(trials, pk="number")
            store.db.table("proposals").insert_all(self.proposals)
            store.db.table("runs").insert_all(self.runs)
            store.db.table("events").insert_all(events)
            store.db.table("studies").update(1, dict(incumbent=self.incumbent.number, data_dir=None))

    def _propose(self, number: int, proposer: str, knob: str, value: Value, reason: str, started: str) -> None:
        prompt = None
        if self.prompt_trials is not None and proposer == "llm":
            latest = self.trials[1:][-self.prompt_trials :] if self.prompt_trials else []
            shown = History(
                number, 0, self.menu, self.incumbent.recipe, [self.trials[0], *latest], {}, Limits(BUDGET), DEVIATION
            )
            prompt = whole_prompt(shown)
        self.proposals.append(
            dict(
                trial=number, proposer=proposer, prompt=prompt, created_at=started, passed=1, rail=None, reason="",
                raw=json.dumps({"knob": knob, "new_value": value, "reason": reason}),
                model="meta/llama-3.1-8b-instruct" if prompt else None,
                latency_seconds=self.rng.uniform(0.8, 2.5) if prompt else 0.001,
                prompt_tokens=len(prompt) // 4 if prompt else None, completion_tokens=60 if prompt else None,
            )
        )  # fmt: skip

    def _open(self, number: int, proposer: str, changes: Recipe, reason: str, started: str) -> dict[str, Any]:
        """The fields of a trial but for `finished_at`, those that do not apply None."""
        recipe = {**self.incumbent.recipe, **changes}
        row: dict[str, Any] = {field.name: None for field in fields(Trial) if field.name != "finished_at"}
        return row | dict(
            number=number, parent=self.incumbent.number, proposer=proposer, changes=changes, recipe=recipe,
            recipe_key=recipe_key(recipe), hypothesis=reason[:500], commit=self.commit, n_runs=0, started_at=started,
        )  # fmt: skip

    def _compared(self, improvement: float, half: float) -> dict[str, Any]:
        return dict(
            reference=self.incumbent.number, improvement=improvement, improvement_low=improvement - half,
            improvement_high=improvement + half,
        )  # fmt: skip

    def _close(self, row: dict[str, Any], level: float, n: int, purpose: str, reason: str) -> Trial:
        scores = [self._run(row["number"], seed, purpose, self.rng.gauss(level, DEVIATION)) for seed in range(n)]
        if row["decision"] == "keep":  # what a new incumbent gets: fresh seeds that score the test text too
            scores += [self._run(row["number"], seed, "reference", level) for seed in range(n, n + 3)]
        tests = [run["test_bpb"] for run in self.runs[-len(scores) :] if run["test_bpb"] is not None]
        state: TrialState = "complete"
        row |= dict(
            state=state, reason=reason, n_runs=len(scores), val_bpb=statistics.fmean(scores),
            test_bpb=statistics.fmean(tests) if tests else None,
            energy_joules=sum(run["energy_joules"] for run in self.runs[-len(scores) :]), energy_source="estimate",
            finished_at=iso(self.now),
        )  # fmt: skip
        return Trial(**row)

    def _fail(self, row: dict[str, Any]) -> Trial:
        self._run(row["number"], 0, "candidate", None)
        log = self.folder.run_folder(f"{row['number']:04d}-0") / "worker.log"
        log.parent.mkdir(parents=True)
        log.write_text("step 9: loss is nan\n" * 20, encoding="utf-8")
        row |= dict(
            state="failed", reason="seed 0: diverged: loss is NaN at step 9", energy_source="estimate",
            energy_joules=self.runs[-1]["energy_joules"],
        )  # fmt: skip
        return Trial(**row, finished_at=iso(self.now))

    def _run(self, trial: int, seed: int, purpose: str, score: float | None) -> float:
        """Writes a run down; it failed where there is no score."""
        started, self.now = self.now, self.now + timedelta(seconds=RUN_SECONDS)
        row: dict[str, Any] = {field.name: None for field in fields(Run)} | dict.fromkeys((*MEASURED, "versions"))
        row |= dict(
            trial=trial, seed=seed, purpose=purpose, state="complete", attempts=1, message="", val_bpb=score,
            test_bpb=score + 0.03 if score and purpose == "reference" else None,
            energy_joules=self.rng.uniform(110, 130), energy_source="estimate", device="cpu", versions=VERSIONS,
            curve=json.dumps(self._curve(score or 4.0)), started_at=iso(started), finished_at=iso(self.now), **MEASURED,
        )  # fmt: skip
        if score is None:
            row |= dict(state="failed", failure="diverged", message="loss is NaN at step 9", failed_step=9)
            row |= dict.fromkeys(("tokens_per_second", "eval_seconds", "mfu"))
        self.runs.append(row)
        return score or 0.0

    def _curve(self, level: float) -> list[list[float]]:
        return [
            [1 + 4 * i, round(level + 4 * math.exp(-i / 15) + self.rng.gauss(0, 0.05), 4)] for i in range(CURVE_POINTS)
        ]


def _draw(knob: Knob, rng: random.Random) -> Value:
    """A value that the menu allows, on a grid coarse enough for repeats."""
    if knob.choices:
        return rng.choice(knob.choices)
    assert knob.low is not None and knob.high is not None
    if knob.type == "int":
        return rng.randint(int(knob.low), int(knob.high))
    if knob.scale == "log":
        return float(f"{math.exp(rng.uniform(math.log(knob.low), math.log(knob.high))):.2g}")
    return round(rng.uniform(knob.low, knob.high), 3)


def timed(work: Callable[[], object], repeats: int) -> list[tuple[float, float]]:
    """Seconds and processor seconds of each call, those of the processes that it started included."""
    found = []
    for _ in range(repeats):
        start, busy = time.perf_counter(), sum(os.times()[:4])
        work()
        found.append((time.perf_counter() - start, sum(os.times()[:4]) - busy))
    return found


def cold(home: Path, *arguments: str) -> Callable[[], None]:
    """The command line from the start of its process to its end."""

    def work() -> None:
        done = subprocess.run(
            [sys.executable, "-m", "autoresearch", *arguments, "--home", str(home)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    return work


def ask(path: Path, sql: str) -> Callable[[], object]:
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    return lambda: database.execute(sql).fetchall()


def main() -> None:
    """Print a table for each size of study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[500, 2_000], help="sizes of the studies")
    parser.add_argument("--prompt-bytes", type=int, default=20_000, help="size of a prompt; 0: no language model")
    parser.add_argument("--repeats", type=int, default=5, help="reports of each kind")
    arguments = parser.parse_args()
    from autoresearch.morning.report.page import write_report  # after --help

    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        for trials in arguments.trials:
            folder = make_study(home, trials, arguments.prompt_bytes, f"trials-{trials}")
            database, repeats = folder.path / "study.db", arguments.repeats
            written = write_report(folder)  # the first loads what the next find loaded
            prompts = [row["prompt"] for row in folder.store.proposals().values() if row["prompt"]]
            print(
                f"{trials} trials, {len(folder.store.runs())} runs, median prompt "
                f"{statistics.median(map(len, prompts)) if prompts else 0:,.0f} bytes, study.db "
                f"{database.stat().st_size / 2**20:.1f} MiB; index.html {written.stat().st_size:,} bytes, "
                f"report.md {written.with_name('report.md').stat().st_size:,}; load {os.getloadavg()[0]:.1f}"
            )
            packing = timed(partial(gzip.compress, UNIT), 20)
            unit = statistics.median(seconds for seconds, _ in packing)
            print(f"{'':<26}{'median s':>10}{'least':>10}{'most':>10}{'busy s':>10}{'units':>10}")
            works: dict[str, tuple[Callable[[], object], int]] = {
                "report, whole process": (cold(home, "report", folder.name), repeats),
                "report, warm": (partial(write_report, folder), repeats),
                "inspect, whole process": (cold(home, "inspect", folder.name), repeats),
                **{f"SQL: {name}": (ask(database, sql), 10 * repeats) for name, sql in QUESTIONS.items()},
            }
            for name, (work, times) in works.items():
                _print(name, timed(work, times), unit)
            _print("unit: gzip of 1 MiB", packing, unit)
            folder.store.close()


def _print(name: str, found: list[tuple[float, float]], unit: float) -> None:
    seconds, busy = zip(*found, strict=True)
    middle = statistics.median(seconds)
    print(
        f"{name:<26}{middle:>10.4f}{min(seconds):>10.4f}{max(seconds):>10.4f}{statistics.median(busy):>10.2f}"
        f"{middle / unit:>10.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
