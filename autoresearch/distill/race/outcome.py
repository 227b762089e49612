"""What proposers are worth in whole searches, on the search benchmark's surrogates and in real runs; and who won."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from autoresearch import words
from autoresearch.config import ProposerSettings
from autoresearch.distill.race.racers import Spec, asked_again
from autoresearch.distill.race.real import real_searches
from autoresearch.distill.race.searches import REAL, Found, Lead, Search, found_in, leads_in, verdict, winner_of
from autoresearch.errors import UserError
from autoresearch.facts import ABSENT_IF_USUAL
from autoresearch.metric import VAL_BPB, Metric
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import NOT_ASKED_FOR
from rails import clean

CLONE = Path(__file__).parents[3]
BENCHMARK = "benchmarks.search.outcome"
TAKES = ("sklearn", "pyarrow")
SURROGATES = ("smooth", "steps")
RUNS = 100
ELSE = Spec("gp")  # the teacher where nobody can be asked again
FLOOR = Spec("random")  # always there: who is no better has learned nothing
REAL_FOLDER = "real"


@dataclass(frozen=True)
class Outcome:
    """nights and runs: of each proposer on each surrogate; 0: there were none; real_runs: likewise. winner: who is
    better than the teacher beyond noise on the mean over surrogates; None: the teacher stays. found: world by world.
    notes: what went another way than asked. searches: all that the figures are made of."""

    teacher: str
    nights: int
    runs: int
    real_runs: int
    winner: str | None
    verdict: str
    found: list[Found]
    leads: list[Lead]
    notes: list[str]
    searches: list[Search]
    metric: Metric = field(default=VAL_BPB, metadata=ABSENT_IF_USUAL)  # of real runs; surrogates are of val_bpb

    def metric_in(self, world: str) -> Metric:
        return self.metric if world == REAL else VAL_BPB

    def runs_in(self, world: str) -> int:
        return self.real_runs if world == REAL else self.runs


def outcome(
    folders: Sequence[StudyFolder],
    specs: Sequence[Spec],
    console: Console,
    *,
    nights: int = 0,
    runs: int = RUNS,
    real: int = 0,
    out: Path | None = None,
) -> Outcome:
    """The proposers, the teacher and random search `nights` nights of `runs` runs on each surrogate, and `real` real
    runs each in studies under `out`, else in a folder that is gone afterwards. Raises UserError where the benchmark is
    not there, and as nights do. The same arguments give the same simulated nights, as far as proposers do."""
    teacher, notes = teacher_of(folders)
    everyone = list(dict.fromkeys([*specs, teacher, FLOOR]))
    settings = {spec.label: spec.settings(folders[0].settings) for spec in everyone}
    searches = simulated(settings, nights, runs, console) if nights else []
    if real:
        with _place(out) as place:
            of_real, missing = real_searches(folders[0], everyone, real, place, console)
        searches += of_real
        notes += [
            f"{search.proposer} ended after {words.count(len(search.best), 'real run')}: what it hands over then counts"
            for search in of_real
            if len(search.best) < real
        ]
        if missing:
            left = "nothing of theirs is left, since there is no --out" if out is None else "the same command goes on"
            notes.append(f"Ended by a signal before all real runs of {', '.join(missing)} were made: {left}.")
    leads = leads_in(searches, teacher.label, runs)
    said = [verdict(leads, teacher.label, runs, len({search.world for search in searches} - {REAL}))] if nights else []
    found = [each for n, w in ((runs, False), (real, True)) for each in _found(searches, teacher.label, n, w)]
    said += [_of_real(found, real, folders[0].metric)] if real else []
    return Outcome(
        teacher=teacher.label,
        nights=nights,
        runs=runs if nights else 0,
        real_runs=real,
        winner=winner_of(leads),
        verdict=" ".join(said),
        found=found,
        leads=leads,
        notes=notes,
        searches=searches,
        metric=folders[0].metric,
    )


def teacher_of(folders: Sequence[StudyFolder]) -> tuple[Spec, list[str]]:
    """Who proposed most of the studies' trials, of those that proposers were asked for; and a note where another one
    stands for it."""
    made = Counter(
        trial.proposer
        for folder in folders
        for trial in folder.store.trials()
        if trial.parent is not None and trial.proposer not in NOT_ASKED_FOR
    )
    name = max(made, key=lambda name: made[name], default=ELSE.name)
    if spec := asked_again(name, None, folders[0].settings):
        return spec, []
    said = f"Most trials were proposed by {clean(name, 80)}, which cannot be asked again: {ELSE.label} is the teacher."
    return ELSE, [said]


def _found(searches: Sequence[Search], teacher: str, runs: int, is_real: bool) -> list[Found]:
    return found_in([search for search in searches if (search.world == REAL) == is_real], teacher, runs)


def _of_real(found: Sequence[Found], runs: int, metric: Metric) -> str:
    ends = {each.proposer: each.best[runs] for each in found if each.world == REAL}
    told = ", ".join(f"{name} {words.bpb(end.mean if end else None, metric)}" for name, end in ends.items())
    return (
        f"In real runs, n = 1 night each, nothing is claimed: the incumbents' means after {words.count(runs, 'run')} "
        f"are {told or words.NONE}."
    )


@contextmanager
def _place(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out.absolute() / REAL_FOLDER
        return
    with tempfile.TemporaryDirectory(prefix="autoresearch-race-") as folder:
        yield Path(folder)


# --- on the benchmark ---


def has_benchmark() -> bool:
    is_clone = (CLONE / Path(*BENCHMARK.split("."))).with_suffix(".py").is_file()
    return is_clone and all(find_spec(package) for package in TAKES)


def require_benchmark() -> None:
    """Raises UserError where only the package is installed, or not what the benchmark takes."""
    if not has_benchmark():
        raise UserError(
            "--nights races on the search benchmark, which takes a clone of the repository: install autoresearch from "
            "one (pip install -e '.[dev]'), or leave --nights out"
        )


def simulated(settings: dict[str, ProposerSettings], nights: int, runs: int, console: Console) -> list[Search]:
    """In a child process: the benchmark is no part of the package. By surrogate, proposer and night. Raises UserError
    where it is not there or ends with an error."""
    require_benchmark()
    # A base_url with a password in it is not written down with the other settings; the folder is this person's alone.
    asked = {name: {**of.model_dump(), "base_url": of.base_url} for name, of in settings.items()}
    request = {"proposers": asked, "nights": nights, "runs": runs, "surrogates": SURROGATES}
    with tempfile.TemporaryDirectory(prefix="autoresearch-race-") as folder:
        place = Path(folder)
        (place / "request.json").write_text(json.dumps(request), encoding="utf-8")
        _follow(place, len(settings) * nights * len(SURROGATES), console)
        told = json.loads((place / "result.json").read_text("utf-8"))
    return [Search(**each) for each in told]


def _follow(place: Path, nights: int, console: Console) -> None:
    with (place / "said").open("wb") as said, console.status("searching: fitting the surrogates") as status:
        child = subprocess.Popen(
            [sys.executable, "-m", BENCHMARK, str(place / "request.json"), str(place / "result.json")],
            cwd=CLONE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is this process's to handle
        )
        assert child.stdout is not None
        try:
            for done, _ in enumerate(child.stdout, 1):
                status.update(f"searching: {done} of {words.count(nights, 'night')}")
            code = child.wait()
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            with child:
                pass
    if code:
        lines = (place / "said").read_text("utf-8", "replace").strip().splitlines()
        last = clean(lines[-1], 300) if lines else "it said nothing"
        raise UserError(
            f"the search benchmark ended with exit code {code} ({last}); it takes what is installed by "
            "pip install -e '.[dev]'"
        )
