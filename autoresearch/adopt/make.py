"""Makes a study of a script: reads its constants, proposes a menu, guesses the score. The script is never run."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch.adopt.knobs import LeftOut, Proposed
from autoresearch.adopt.menu import menu_text, read_knobs
from autoresearch.adopt.script import Score, guess_score, lower_is_better
from autoresearch.errors import UserError
from autoresearch.study.folder import StudyFolder, create_own_study
from autoresearch.study.preset import read_menu
from autoresearch.study.script import Script
from autoresearch.study.script_repository import ScriptRepository
from rails import Menu


@dataclass(frozen=True)
class Adopted:
    """A new study. repository: the script's own, and why its `apply` would not find the script there, or ""."""

    study: StudyFolder
    script: Path
    menu: Menu
    knobs: list[Proposed]
    left_out: list[LeftOut]
    score: Score
    repository: Path | None
    not_committed: str


def adopt(home: Path, script: Path, name: str | None, menu: Path | None = None, score: str | None = None) -> Adopted:
    """menu: a person's own, instead of one that is proposed. score: its name where it cannot be guessed. Raises
    UserError, and nothing is made, for a script that is none, that has no knobs, or whose score nobody knows."""
    place = script.resolve()
    read = Script.read(place)
    knobs, left_out = read_knobs(read.text, script.name)
    found = Score(score, lower_is_better(score)) if score else guess_score(read.text)
    if found is None:
        raise UserError(
            f'{script} prints no score that can be told from its text: end it with a line such as print(f"val_loss: '
            '{loss}"), or name what it prints with --score'
        )
    trainer: dict[str, Any] = {
        "command": f"{_python()} {shlex.quote(place.name if place.name[0] != '-' else f'./{place.name}')}",
        "folder": str(place.parent),
        "recipe": "constants",
        "script": place.name,
        "score": found.name,
        "lower_is_better": found.lower_is_better,
    }
    text = read_menu(menu) if menu else menu_text(read.text, script.name, knobs, left_out)
    study = create_own_study(home, name or place.stem, trainer, text, str(menu or "menu.toml"), _budget(left_out))
    repository, not_committed = ScriptRepository.of(place), ""
    if repository is not None:
        committed = repository.script(repository.head())
        if committed is None:
            not_committed = "it is not committed there"
        elif committed != read.text:
            not_committed = "it has changes that are not committed there"
    top = repository.folder if repository else None
    return Adopted(study, place, study.menu, knobs, left_out, found, top, not_committed)


def _python() -> str:
    return next((name for name in ("python", "python3") if shutil.which(name)), shlex.quote(sys.executable))


def _budget(left_out: list[LeftOut]) -> dict[str, Any]:
    """The setting, where the script says itself what it spends."""
    return next(({"budget": other.budget} for other in left_out if other.budget), {})
