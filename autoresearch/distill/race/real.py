"""Real nights for a race: each proposer searches in a fresh study that begins as the first one began."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from autoresearch import words
from autoresearch.config import ProposerSettings
from autoresearch.distill.race.racers import Spec
from autoresearch.distill.race.searches import REAL, Search, search_of
from autoresearch.errors import UserError
from autoresearch.night.display import Display
from autoresearch.night.session import Night
from autoresearch.study.folder import StudyFolder, repeat_study
from autoresearch.study.lock import RunnerLock
from autoresearch.study.observer import Observer, Observers
from autoresearch.terminal.bars import PrepareProgress
from autoresearch.terminal.console import say
from autoresearch.trial import Run
from trainer.protocol import RunResult

NO_LIMIT = {"trials": None, "hours": None, "kwh": None, "cost": None}  # but so many runs


def real_searches(
    first: StudyFolder, specs: Sequence[Spec], runs: int, place: Path, console: Console
) -> tuple[list[Search], list[str]]:
    """One after another, in studies of the folder `place`; one that has its runs already is not run again, one that has
    some goes on. Those that are done, and who is missing where a person ended it. Raises UserError for a study there
    that another race made, and as a night does."""
    studies = {spec.label: _study(first, spec, place) for spec in specs}
    ended = False
    for label, folder in studies.items():
        if not ended and len(folder.store.standings()) < runs:
            say(console, f"{label}: {words.count(runs, 'real run')} in {folder.path}")
            ended = _night(folder, runs, console)
    done = {label: folder for label, folder in studies.items() if not ended or len(folder.store.standings()) >= runs}
    found = [search_of(folder, label, REAL, 0, folder.store.standings()[:runs]) for label, folder in done.items()]
    missing = [label for label in studies if label not in done]
    for folder in studies.values():
        folder.store.close()
    return found, missing


def _study(first: StudyFolder, spec: Spec, place: Path) -> StudyFolder:
    name, wanted = _name(spec.label), spec.settings(first.settings)
    if (place / name / "study.db").exists():
        folder = StudyFolder(place, name)
        same = folder.settings == first.settings.model_copy(update={"proposer": wanted})
        if not same or folder.menu_text != first.menu_text:
            raise UserError(
                f"{folder.path} was made with other settings than those of {first.name} now: name another --out"
            )
    else:
        folder = repeat_study(place, name, first, _changed(first.settings.proposer, wanted))
    folder.data_root = first.data_root  # prepared once
    return folder


def _changed(before: ProposerSettings, wanted: ProposerSettings) -> dict[str, str | int]:
    now, then = wanted.model_dump(), before.model_dump()
    return {f"proposer.{name}": value for name, value in now.items() if value != then[name]}


def _name(label: str) -> str:
    """A study's; two labels never have the same."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", label)[:40]
    return plain if plain == label else f"{plain}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def _night(folder: StudyFolder, runs: int, console: Console) -> bool:
    """Whether a person ended it. Runs in flight are finished, so with several workers there may be a few more."""
    heard: list[bool] = []

    class Enough(Observer):
        def run_finished(self, run: Run, result: RunResult) -> None:
            if len(folder.store.standings()) >= runs:
                night.stop.request(f"{words.count(runs, 'run')} done, as asked", is_over=True)

    with RunnerLock(folder.path):
        with PrepareProgress(console) as progress:
            folder.prepare_data(progress)
        with Display(folder, console) as display:
            night = Night(
                folder,
                Observers([display, Enough()]),
                limits=folder.settings.limits.model_copy(update=NO_LIMIT),
                on_signal=lambda: heard.append(True),
            )
            night.run()
    return bool(heard)
