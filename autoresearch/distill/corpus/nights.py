"""What studies had measured before what is held out of them, as a decoder is taught it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from autoresearch.distill.corpus.terms import Terms, first_held_out
from autoresearch.errors import UserError
from autoresearch.proposers.known import Known, Places
from autoresearch.proposers.space import Space
from autoresearch.study import history
from autoresearch.study.folder import StudyFolder

FILE = "nights.json"
MOST = 400  # recipes of one study; of more the best half and the latest
FEWEST = 5  # below which there is nothing to tell


@dataclass(frozen=True)
class KnownNight:
    """levels: how many choices each knob has; 0: it has a range. start: where the baseline is; points, failed: a row a
    recipe with a share a knob, from 0 to 1; scores: val_bpb, means over `runs`; deviation: of one run, if known."""

    study: str
    knobs: list[str]
    levels: list[int]
    start: list[float]
    points: list[list[float]]
    scores: list[float]
    runs: list[int]
    failed: list[list[float]]
    deviation: float | None


def night_of(folder: StudyFolder, terms: Terms) -> KnownNight | None:
    """None where all of it is held out, or too little was measured."""
    trials = len(folder.store.trials()) - 1
    first = min(first_held_out(trials, terms.hold_out), trials)
    if folder.name in terms.hold_out_studies or first < 1:
        return None
    then = history.at(folder, first)
    space = Space(then.menu, then.limits)
    known = Known.of(then, space, Places(), MOST)
    if len(known.scores) < FEWEST:
        return None
    return KnownNight(
        study=folder.name,
        knobs=list(space.knobs),
        levels=[len(knob.choices or ()) for knob in space.knobs.values()],
        start=space.point(space.baseline),
        points=known.points,
        scores=known.scores,
        runs=known.runs,
        failed=known.failed,
        deviation=then.deviation,
    )


def read_nights(corpus: Path) -> list[KnownNight]:
    """Raises UserError where the corpus has none."""
    try:
        return [KnownNight(**night) for night in json.loads((corpus / FILE).read_text("utf-8"))]
    except (OSError, ValueError, TypeError):
        raise UserError(
            f"{corpus} holds no {FILE}: make a corpus with `autoresearch distill corpus`, of this version"
        ) from None
