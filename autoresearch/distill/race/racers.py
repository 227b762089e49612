"""Who takes part in a race: a proposer by name, asked for several samples of each state, whatever becomes of them."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass, replace

from autoresearch.config import ProposerSettings, Settings
from autoresearch.distill.race.held import NO_ANSWER, Answer, State
from autoresearch.errors import UserError
from autoresearch.proposer_name import FORMS, HYBRID, LANGUAGE_MODEL, STUDENTS, ProposerName
from autoresearch.proposers import NothingLeft, Proposer, make_proposer
from autoresearch.trial import Proposal
from autoresearch.workers.energy import EnergyMeter
from rails import clean
from rails.values import nearest

NAMES = ("gp", "tpe", "random", "llm", "hybrid")  # beside what was taught, which is named by its folder
MODELS = ("llm", "hybrid")
ITSELF = "race"  # whose energy is metered
# Questions without an answer, one after the other, after which the rest are not asked: each may wait for a minute.
MOST_SILENT = 5


@dataclass(frozen=True)
class Spec:
    """A proposer as study.toml names it; `llm:MODEL` is another model of the same endpoint. Folders may be relative."""

    name: str
    model: str | None = None

    @classmethod
    def read(cls, text: str) -> Spec:
        """Raises UserError for a name that is none."""
        name, colon, model = text.partition(":")
        if name in STUDENTS or (name == HYBRID and model.partition(":")[0] in STUDENTS):
            try:
                return cls(str(ProposerName.read(text)))
            except ValueError:
                raise UserError(f"{clean(text, 80)} names no folder: write it as {FORMS}") from None
        if name not in NAMES:
            shown = clean(name, 40)
            raise UserError(
                f"there is no proposer {shown!r}{nearest(shown, list(NAMES))} (choose {', '.join(NAMES)}; llm:MODEL "
                f"is another model of the endpoint; what was taught is {FORMS})"
            )
        if colon and (name not in MODELS or not model.strip()):
            raise UserError(f"{clean(text, 80)}: only llm and hybrid take a model, as llm:MODEL")
        return cls(name, model or None)

    @property
    def label(self) -> str:
        return clean(f"{self.name}:{self.model}" if self.model else self.name, 200)

    @property
    def named(self) -> ProposerName:
        return ProposerName.read(self.name)

    @property
    def needs_endpoint(self) -> bool:
        return self.named.model == LANGUAGE_MODEL

    def settings(self, study: Settings) -> ProposerSettings:
        """It is made of these in that study. Raises UserError where no language model is configured that it needs."""
        if self.needs_endpoint and not has_endpoint(study):
            raise UserError(
                f"{self.label} needs a language model: set OPENAI_BASE_URL, OPENAI_API_KEY, AUTORESEARCH_MODEL, or "
                "base_url in [proposer] of study.toml"
            )
        # Folders as one names them here; who searches may do so elsewhere.
        wanted = {"name": str(self.named.absolute()), "reflect": False, **({"model": self.model} if self.model else {})}
        return study.proposer.model_copy(update=wanted)


def asked_again(proposer: str, model: str | None, study: Settings) -> Spec | None:
    """Who proposed a trial of a study, by the name that the trial bears; None where it cannot be asked again."""
    student = ProposerName.read(study.proposer.name)
    if student.folder is not None and student.model == proposer:
        return Spec(str(replace(student, kind=proposer))) if student.folder.is_dir() else None
    if proposer not in NAMES or (proposer in MODELS and not has_endpoint(study)):
        return None
    return Spec(proposer, model if proposer in MODELS else None)


def has_endpoint(settings: Settings) -> bool:
    return bool(settings.proposer.base_url or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_KEY"))


def sample_seed(state: State, seed: int, sample: int) -> int:
    """Of one sample; never the study's own, with which a proposer that follows from it would only repeat itself."""
    return random.Random(f"race/{seed}/{state.history.seed}/{sample}").getrandbits(31)


class Racer:
    """A proposer with the settings of one study. What it proposes when a model does not answer is no answer of its own.

    notes: why there was none, each once. Raises UserError where no language model is configured that it needs, or there
    is no student in its folder.
    """

    def __init__(self, spec: Spec, settings: Settings) -> None:
        self.spec, self.notes = spec, dict[str, None]()
        self._settings = spec.settings(settings)
        self._meter = EnergyMeter(settings.energy)
        # What takes a folder says at once what is wrong with it; others connect when they are asked.
        self._proposer: Proposer | None = self._made() if spec.named.folder else None
        self._silent = 0

    def ask(self, state: State, seed: int, samples: int) -> list[Answer]:
        """One answer a sample, in their order."""
        return [self._answer(state, sample_seed(state, seed, n)) for n in range(samples)]

    def _answer(self, state: State, seed: int) -> Answer:
        if self._silent >= MOST_SILENT:
            return Answer(None, NO_ANSWER)
        started, cpu = time.monotonic(), time.process_time()
        self._meter.start(ITSELF, os.getpid(), ())
        try:
            proposal = self._propose(state, seed)
        finally:
            used = self._meter.stop(ITSELF, os.getpid(), (), time.process_time() - cpu)
        seconds = time.monotonic() - started
        if proposal is None:
            self._silent += 1
            return Answer(None, NO_ANSWER)
        self._silent = 0
        judged = replace(state.judged(proposal.raw, proposal.proposer), seconds=seconds)
        # A model has worked, on this machine's GPUs or, where it is no student, where nobody meters it.
        if proposal.energy_joules is not None or (proposal.attempts and self.spec.needs_endpoint):
            return replace(judged, joules=proposal.energy_joules, energy_source=proposal.energy_source)
        return replace(judged, joules=used.joules, energy_source=used.source)

    def _propose(self, state: State, seed: int) -> Proposal | None:
        """None: no answer of its own."""
        history = replace(state.history, seed=seed)
        is_fresh = self._proposer is None
        proposer = self._proposer = self._proposer or self._made()
        try:
            proposal = proposer.propose(history)
            if not isinstance(proposal, Proposal):
                raise TypeError("its answer is no proposal")
        except Exception as error:
            if isinstance(error, UserError):
                raise
            said = "nothing left to propose" if isinstance(error, NothingLeft) else f"{type(error).__name__}: {error}"
            self.notes[clean(said, 200)] = None
            return None
        named = self.spec.named
        if named.is_hybrid or named.model in (None, proposal.proposer):
            self.notes |= dict.fromkeys(proposal.notes)
            return proposal
        # Another one stood in: a new one asks the model, whatever came of earlier questions.
        self._proposer = None
        if not is_fresh:
            return self._propose(state, seed)
        self.notes |= {note.rpartition("; ")[0] or note: None for note in proposal.notes}  # without who stood in
        return None

    def _made(self) -> Proposer:
        proposer = make_proposer(self._settings)
        if metered_by := getattr(proposer, "metered_by", None):
            metered_by(self._meter)
        return proposer
