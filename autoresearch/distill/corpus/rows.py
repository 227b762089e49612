"""A study's trials as rows: for each the question as it stood, and the answer that the objective teaches."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from autoresearch.distill.corpus.earned import Earnings
from autoresearch.distill.corpus.terms import LOW, Pair, Row, Terms, first_held_out
from autoresearch.distill.corpus.texts import answer, question, variants
from autoresearch.errors import UserError
from autoresearch.evidence.evidence import Evidence
from autoresearch.study import history
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import Trial
from rails import clean, gate, recipe_key

ENDED = ("complete", "failed", "timed_out", "stopped")


@dataclass
class StudyRows:
    """Of one study: rows to train on and rows held out, the oldest first; why trials have no row; which (knob, value)
    the trials before those held out chose, blocked ones aside, and which their keeps did."""

    study: str
    trials: int
    imported: bool
    train: list[Row] = field(default_factory=list)
    held_out: list[Row] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    chosen: list[list[Pair]] = field(default_factory=list)
    kept: list[list[Pair]] = field(default_factory=list)


def rows_of(folder: StudyFolder, terms: Terms) -> StudyRows:
    """Raises UserError for a study without trials."""
    evidence = Evidence(folder)
    n = len(evidence.trials) - 1
    if n < 1:
        raise UserError(f"study {folder.name} has no trials to learn from: run it first, or leave it out")
    whole = folder.name in terms.hold_out_studies
    first = 1 if whole else first_held_out(n, terms.hold_out)
    made = StudyRows(folder.name, n, evidence.imported)
    # The tail must not be known to what is trained on: hindsight ends where the tail begins.
    before, after = Earnings(evidence, first), Earnings(evidence, n + 1)
    for trial in evidence.trials[1:]:
        is_held_out = trial.number >= first
        if trial.state != "blocked" and not is_held_out:
            made.chosen.append(list(trial.changes.items()))
            if trial.decision == "keep":
                made.kept.append(made.chosen[-1])
        found = _row(folder, trial, after if is_held_out else before, terms, 0 if is_held_out else terms.augment)
        if isinstance(found, str):
            made.left_out[found] += 1
        else:
            (made.held_out if is_held_out else made.train).append(found)
    return made


def _row(folder: StudyFolder, trial: Trial, earnings: Earnings, terms: Terms, augment: int) -> Row | str:
    """The row, or why there is none."""
    if terms.objective != "hindsight" and trial.state not in ENDED:
        return "blocked when it was proposed" if trial.state == "blocked" else "not ended"
    known = history.at(folder, trial.number)
    target, changes, reason, delta, weight = trial, trial.changes, trial.hypothesis, trial.expected_delta, 1.0
    if terms.objective == "outcome":
        if trial.state == "complete":
            assert trial.parent is not None
            comparison = earnings.of(trial, trial.parent)
            if comparison is None:
                return "no measurement to weigh it by"
            weight = earnings.weight(comparison)
        else:
            weight = LOW
    elif terms.objective == "hindsight":
        if (better := earnings.best(known)) is None:
            return "nothing better was known by the end"
        target, changes, weight = better.trial, better.changes, earnings.weight(better.comparison)
        # Reasons are for the change that they were given for.
        reason = target.hypothesis if target.changes == changes else ""
        delta = -better.comparison.improvement
    text = answer(changes, reason, delta, known.metric)
    verdict = gate(text, known.recipe, known.menu, known.tried, known.limits)
    if not verdict.passed:
        return f"not taken by the {verdict.rail} rail"
    proposal = folder.store.proposal(trial.number)
    system, user, source = question(known, proposal["prompt"] if proposal else None)
    rng = random.Random(f"{terms.seed} {folder.name} {trial.number}")
    return Row(
        study=folder.name,
        trial=trial.number,
        target_trial=target.number,
        proposer=clean(trial.proposer, 80),
        outcome=target.outcome,
        prompt_source=source,
        system=system,
        user=user,
        answer=text,
        weight=weight,
        changes=verdict.changes,
        parent_key=recipe_key(known.recipe),
        recipe_key=recipe_key({**known.recipe, **verdict.changes}),
        variants=variants(known, augment, rng) if augment else (),
    )
