"""A proposer taught from nothing: a small decoder samples changes and ranks them, offline and in this process."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from autoresearch import words
from autoresearch.errors import UserError
from autoresearch.proposer_name import SHIPPED
from autoresearch.proposers.known import Known, Places, answer, changed, moved, passes, standing, start
from autoresearch.proposers.proposer import Proposer
from autoresearch.proposers.space import Space
from autoresearch.proposers.talk import Adviser
from autoresearch.trial import Attempt, History, Proposal, Recipe
from rails import clean

if TYPE_CHECKING:
    from autoresearch.proposers.scratch_model import Candidate, ScratchModel

HERE = Path(__file__).with_name("shipped")
WEIGHTS, CONFIG = "decoder.safetensors", "decoder.json"
MAKE = "`autoresearch distill train --base scratch`"
MOST_READ = 128  # recipes: as many as it was taught with
ADVISED = 8  # candidates that an adviser ranks
NORMAL_95 = 1.96


@dataclass(frozen=True)
class _Change:
    candidate: Candidate
    recipe: Recipe
    raw: str


class ScratchProposer:
    """Of the recipes that the decoder samples it proposes that from which it expects the most, or, beside an optimizer,
    that of its best few which the optimizer makes most of. Before enough is known it begins as the optimizers do.
    fallback: who proposes where its weights turn out not to fit.

    Raises UserError for a folder that holds no such decoder.
    """

    name = "scratch"

    def __init__(self, folder: Path, fallback: Proposer) -> None:
        self._folder = HERE if folder == SHIPPED else folder.expanduser().absolute()
        self._config = read_config(self._folder)
        self.model = clean(self._folder.name, 200)
        self._places = Places()
        self._fallback = fallback
        self._model: ScratchModel | None = None

    def propose(self, history: History, adviser: Adviser | None = None) -> Proposal:
        """adviser: an optimizer that is asked beside."""
        try:
            model = self._here()
        except UserError as error:  # seen only now: a command line does not load what it takes to see it
            return replace(self._fallback.propose(history), notes=[f"{error}; {self._fallback.name} proposes"])
        started = time.monotonic()
        rng = random.Random(f"scratch/{history.seed}/{history.number}")
        space = Space(history.menu, history.limits)
        known, stands = Known.of(history, space, self._places, MOST_READ), standing(history)
        if not known.scores or (not self.knows(history) and known.is_too_little(space)):
            return start(history, space, stands, rng, self.name)
        found = model.candidates(history, space, known, stands, rng.getrandbits(62))
        passed = (change for each in found if (change := _change(each, history, space, stands, known)))
        best = list(islice(passed, ADVISED if adviser else 1))
        if not best:
            return start(history, space, stands, rng, self.name)
        taken = best[0]
        if adviser:
            taken = max(best, key=lambda each: adviser.worth(changed(stands, each.recipe)))
        promised = f": {adviser.promises(changed(stands, taken.recipe))}" if adviser else ""
        likelihoods = ", ".join(words.percent(each.candidate.likelihood) for each in best)
        attempt = Attempt(
            asked="",
            answer=f'{{"candidates": [{", ".join(each.raw for each in best)}]}}',
            reason=f"candidate {best.index(taken) + 1} of {len(best)} is taken{promised}; likelihoods {likelihoods}",
            latency_seconds=time.monotonic() - started,
        )
        return Proposal(
            raw=taken.raw,
            proposer=self.name,
            model=self.model,
            latency_seconds=attempt.latency_seconds,
            attempts=[attempt],
        )

    def knows(self, history: History) -> bool:
        """Whether it was taught on this menu, and has something to say from the baseline on."""
        return self._config.slots.keys() >= history.menu.knobs.keys()

    def _here(self) -> ScratchModel:
        if self._model is None:
            from autoresearch.proposers.scratch_model import ScratchModel

            self._model = ScratchModel(self._folder / WEIGHTS, self._config.shape, self._config.slots)
        return self._model


def _change(candidate: Candidate, history: History, space: Space, stands: Recipe, known: Known) -> _Change | None:
    """None where the rails would block it."""
    recipe = moved(space, stands, candidate.point)
    promised = words.plus_minus(candidate.mean, NORMAL_95 * candidate.deviation, history.metric)
    reason = f"Of the recipes that a taught decoder samples, after {words.count(known.ended, 'recipe')}: {promised}."
    raw = answer(stands, recipe, reason, candidate.delta, history.metric)
    return _Change(candidate, recipe, raw) if recipe != stands and passes(raw, history) else None


@dataclass(frozen=True)
class Config:
    """shape: what decoder.Shape is made of; slots: of the knobs that it was taught by name."""

    shape: Mapping[str, int]
    slots: Mapping[str, int]


def read_config(folder: Path) -> Config:
    """Raises UserError where the folder holds no whole decoder."""
    if not folder.is_dir():
        raise UserError(f"scratch:{folder}: there is no such folder: make one with {MAKE}")
    try:
        told = json.loads((folder / CONFIG).read_text("utf-8"))
        config = Config(*({str(name): int(n) for name, n in told[key].items()} for key in ("shape", "slots")))
        fits = all(0 <= slot < config.shape["slots"] for slot in config.slots.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fits = False
    if not fits or not (folder / WEIGHTS).is_file():
        raise UserError(f"scratch:{folder} holds no decoder: make one with {MAKE}")
    return config
