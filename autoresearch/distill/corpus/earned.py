"""What a choice earned at the recipe that it changed, as a weight; and what the study later knew to be better."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean

from autoresearch.decide import Comparison, compare
from autoresearch.distill.corpus.terms import LOW
from autoresearch.evidence.evidence import Evidence
from autoresearch.proposers.known import answer, passes
from autoresearch.trial import History, Recipe, Trial

LEAST_DEVIATION = 1e-6  # of the metric's size, of trainers whose runs repeat to the last bit


def weight(gain: float, stderr: float, deviation: float) -> float:
    """0.01 to 1, four digits: g d / (g d + d^2 + s^2) for a gain g above 0 with standard error s, where one run has the
    deviation d; all in bits per byte.

    That is m / (m + d) for the gain m = g d^2 / (d^2 + s^2) that is left of g once it is drawn towards none as far as
    it may be luck: a sure gain of one deviation has 1/2, one of nine 0.9.
    """
    if gain <= 0:
        return LOW
    return max(LOW, round(gain * deviation / (gain * deviation + deviation**2 + stderr**2), 4))


@dataclass(frozen=True)
class Better:
    """A recipe that was measured better than the one that stood, and the change that leads there."""

    trial: Trial
    changes: Recipe
    comparison: Comparison


class Earnings:
    """All runs of a study, and what its trials before trial `until` make known."""

    def __init__(self, evidence: Evidence, until: int) -> None:
        self._evidence, noise = evidence, evidence.noise
        self._noise = replace(noise, deviation=max(noise.deviation, LEAST_DEVIATION * evidence.metric.size))
        measured = [trial for trial in evidence.trials[:until] if trial.state == "complete" and trial.recipe]
        known = [trial for trial in measured if evidence.key(trial) in evidence.scores]
        self._ranked = sorted((self._at_worst(trial), trial.number) for trial in known)

    def weight(self, comparison: Comparison) -> float:
        return weight(comparison.improvement, comparison.stderr, self._noise.deviation)

    def of(self, trial: Trial, parent: int) -> Comparison | None:
        """Against the recipe of trial `parent`, over all runs of both; None where one of them has none."""
        evidence, other = self._evidence, self._evidence.trials[parent]
        ours, theirs = (evidence.scores.get(evidence.key(each)) for each in (trial, other))
        if not ours or not theirs or evidence.key(trial) == evidence.key(other):
            return None
        return compare(ours, theirs, self._noise)

    def best(self, history: History) -> Better | None:
        """Of the recipes one proposal away from the one that stood, not tried yet then, and better by more than one
        standard error, the one with the lowest score, one standard error added; or, of those that are no more than
        one standard error behind it, the one that changes fewest knobs. None: none is known."""
        found: list[Better] = []
        stood = limit = self._evidence.mean(self._evidence.trials[history.parent])
        for at_worst, number in self._ranked:
            if stood is None or limit is None or at_worst >= min(stood, limit):
                break
            trial = self._evidence.trials[number]
            changes = _way(history, trial.recipe)
            # Before the rails, which take far longer.
            if not changes or trial.recipe_key in history.tried:
                continue
            gained = self.of(trial, history.parent)
            if gained and gained.improvement > gained.stderr and passes(_answer(history, trial), history):
                limit = limit if found else at_worst + gained.stderr
                found.append(Better(trial, changes, gained))
        return min(found, key=lambda better: len(better.changes), default=None)

    def _at_worst(self, trial: Trial) -> float:
        runs = self._evidence.scores[self._evidence.key(trial)]
        return fmean(runs.values()) + float(self._noise.deviation / len(runs) ** 0.5)


def _answer(history: History, trial: Trial) -> str:
    return answer(history.recipe, trial.recipe, "")


def _way(history: History, recipe: Recipe) -> Recipe | None:
    """What leads from the recipe that stood to another; None where no single proposal does."""
    if recipe.keys() != history.recipe.keys():
        return None
    changes = {name: value for name, value in recipe.items() if history.recipe[name] != value}
    fits = len(changes) <= history.menu.max_changes and changes.keys() <= history.menu.knobs.keys()
    return changes if fits else None
