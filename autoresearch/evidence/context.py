"""The context that a score used: a recipe's windows against the baseline's, and its scores in both."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from autoresearch import words
from autoresearch.decide import Noise, Runs, compare
from autoresearch.evidence.evidence import Evidence
from autoresearch.trial import Recipe, Trial, window_of


def context(evidence: Evidence, trial: Trial) -> str:
    """In which windows the trial was scored, and how it did in each; empty where they are the baseline's, and where
    nobody knows in which windows a stranger scores."""
    at_window = window_scores(evidence, trial.number)
    if evidence.imported and not at_window:
        return ""
    own = {run.seed: run.val_bpb for run in evidence.runs[trial.number] if run.val_bpb is not None}
    reference = {} if trial.reference is None else window_scores(evidence, trial.reference)
    than = f"trial {trial.reference}"
    return in_both_windows(trial.recipe, evidence.baseline.recipe, own, at_window, reference, than, evidence.noise)


def window_scores(evidence: Evidence, trial: int) -> Runs:
    """Seed -> bits per byte in windows of the baseline's length, over the trial's runs that have been scored so."""
    return {run.seed: run.window_bpb for run in evidence.runs[trial] if run.window_bpb is not None}


def in_both_windows(
    recipe: Recipe, baseline: Recipe, own: Runs, at_window: Runs, reference: Runs, than: str, noise: Noise
) -> str:
    """One sentence, without capital and full stop, on a recipe whose windows are not the baseline's; else empty.

    own: val_bpb, in windows of the recipe's own seq_len. at_window, reference: in windows of the baseline's, of the
    recipe and of what it is compared with, which `than` names.
    """
    mine, fixed = window_of(recipe), window_of(baseline)
    if mine is None or fixed is None or mine == fixed or not own:
        return ""
    if mine < fixed:
        return f"scored at its own window of {mine}, not at the baseline's {fixed}, which it was not trained on"
    if not at_window:
        return (
            f"scored at its own window of {mine} alone, not at the baseline's {fixed}: part of its gain may be no more "
            "than longer context"
        )
    gain = ""
    if reference:
        found = compare(at_window, reference, noise)
        gain = f", a gain over {than} there of {words.gain(found.improvement, *found.interval)}"
    return (
        f"scored at the baseline's window of {fixed}: {_score(at_window, noise)}{gain}; "
        f"at its own {mine}: {_score(own, noise)}"
    )


def longer_contexts(evidence: Evidence) -> Iterator[str]:
    """A sentence on each keep that took longer windows than the baseline's, and on the incumbent if it has them."""
    fixed = window_of(evidence.baseline.recipe)
    for trial in evidence.trials:
        took_them = trial.decision == "keep" and "seq_len" in trial.changes
        longer = (window_of(trial.recipe) or 0) > (fixed or 0)
        if longer and (took_them or trial is evidence.incumbent) and (found := context(evidence, trial)):
            yield f"Trial {trial.number} has longer context than the baseline: it was {found}."


def _score(runs: Runs, noise: Noise) -> str:
    return words.score(fmean(runs.values()), noise.half_width(len(runs)), len(runs))
