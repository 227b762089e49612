"""Who proposes the next night: a student only where it won its race by the numbers; and the line that starts it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from autoresearch.distill.race.racers import Spec
from autoresearch.evidence.raced import Raced
from autoresearch.study.folder import StudyFolder, study_names
from rails import clean

MOST_SAID = 1000
MOST_OF_NAME = 55


@dataclass(frozen=True)
class Successor:
    """why: one sentence with the numbers of the race."""

    spec: Spec
    why: str


def successor(raced: Raced, students: Sequence[Spec], teacher: Spec) -> Successor:
    """Of the students the winner of the whole searches; where none of them is, the teacher stays."""
    searches = raced.outcome
    if searches is None:
        why = (
            f"{teacher.label} stays, the teacher: a race on held-out states alone replaces nobody, and there were no "
            "whole searches, which take a clone of the repository with pip install -e '.[dev]'."
        )
        return Successor(teacher, why)
    why = clean(searches.verdict, MOST_SAID)
    won = next((spec for spec in students if spec.label == searches.winner), None)
    if won is None and searches.winner is not None:
        why = f"No student won, and {teacher.label} stays, the teacher; {why}"
    return Successor(won or teacher, why)


def line(found: Successor, first: StudyFolder, home: Path | None) -> str:
    """The command that makes the next study, which goes on with `first` where that can be gone on with."""
    has_incumbent = not first.store.study()["source"] and any(trial.val_bpb for trial in first.store.trials())
    arguments = ["autoresearch", "init", _free_name(first), "--proposer", found.spec.name]
    arguments += ["--from", first.name] if has_incumbent else []
    arguments += ["--home", str(home)] if home else []
    return shlex.join(arguments)


def _free_name(first: StudyFolder) -> str:
    taken = study_names(first.path.parent)
    names = (f"{first.name[:MOST_OF_NAME]}-{n}" for n in count(2))
    return next(name for name in names if name not in taken)
