"""What each knob of a keep that changed several is worth: what became of putting it back alone."""

from __future__ import annotations

from autoresearch import words
from autoresearch.evidence.evidence import Evidence
from autoresearch.trial import APART, Trial


def apart(evidence: Evidence, trial: Trial) -> str:
    """ "lr put back: worse by +0.0510 [+0.0300, +0.0720] (trial 9); ..."; empty where none was told apart."""
    found = [
        f"{knob} put back: {words.improvement(one.improvement, one.improvement_low, one.improvement_high)} "
        f"(trial {one.number})"
        for one in evidence.trials[trial.number + 1 :]
        if one.parent == trial.number and one.proposer == APART and one.improvement is not None
        for knob in one.changes
    ]
    return "; ".join(found)
