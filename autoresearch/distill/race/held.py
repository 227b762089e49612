"""The states that a race is about: what was known before each held-out trial, and what was proposed there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autoresearch import words
from autoresearch.distill.corpus.earned import Earnings
from autoresearch.distill.corpus.terms import first_held_out
from autoresearch.distill.corpus.texts import answer
from autoresearch.errors import UserError
from autoresearch.evidence.evidence import Evidence
from autoresearch.study import history
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import NOT_ASKED_FOR, History, Recipe, Trial
from rails import clean, gate, recipe_key

NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Answer:
    """One sample of a proposer. changes: None where none passed the rails; rail: what blocked it, or NO_ANSWER; None:
    it passed. gain: of the recipe that it makes against the one that stood, as measured at any time, in bits per byte,
    positive is better; None: never measured. by: who made it. Seconds and joules of asking; None: not known."""

    changes: Recipe | None
    rail: str | None
    gain: float | None = None
    by: str = ""
    seconds: float | None = None
    joules: float | None = None
    energy_source: str | None = None


@dataclass(frozen=True)
class State:
    """choice: what the study proposed there, judged by the rails of today; model: which language model did, if one."""

    study: str
    trial: int
    history: History
    choice: Answer
    model: str | None
    gain_of: Callable[[str], float | None]

    def judged(self, raw: str, by: str) -> Answer:
        """An untrusted text as the rails see it."""
        known = self.history
        verdict = gate(raw, known.recipe, known.menu, known.tried, known.limits)
        if not verdict.passed:
            return Answer(None, verdict.rail, by=by)
        gain = self.gain_of(recipe_key({**known.recipe, **verdict.changes}))
        return Answer(dict(sorted(verdict.changes.items())), None, gain, by)


def states_of(folder: StudyFolder, hold_out: float) -> list[State]:
    """Of the latest trials, that share of all; those that nobody asked a proposer for are left out. Raises UserError
    where none is left."""
    evidence = Evidence(folder)
    n = len(evidence.trials) - 1
    tail = evidence.trials[first_held_out(n, hold_out) :] if n else []
    asked = [trial for trial in tail if trial.proposer not in NOT_ASKED_FOR and trial.parent is not None]
    found = [state for trial in asked if (state := _state(folder, evidence, trial))]
    if not found:
        raise UserError(
            f"study {folder.name} has no held-out trial that was proposed ({words.count(n, 'trial')}, "
            f"--hold-out {hold_out:g}): run more trials, hold out more, or leave it out"
        )
    return found


def _state(folder: StudyFolder, evidence: Evidence, trial: Trial) -> State | None:
    proposal = folder.store.proposal(trial.number)
    raw = proposal["raw"] if proposal else answer(trial.changes, "", None) if trial.changes else None
    if raw is None:
        return None
    known = history.at(folder, trial.number)
    earnings = Earnings(evidence, len(evidence.trials))
    measured = {evidence.key(each): each for each in evidence.trials if evidence.key(each) in evidence.scores}

    def gain_of(key: str) -> float | None:
        compared = earnings.of(measured[key], known.parent) if key in measured else None
        return compared.improvement if compared else None

    model = proposal["model"] if proposal else None
    bare = State(folder.name, trial.number, known, Answer(None, None), model, gain_of)
    choice = bare.judged(raw, clean(trial.proposer, 80))
    return State(folder.name, trial.number, known, choice, model, gain_of)
