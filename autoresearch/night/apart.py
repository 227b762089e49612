"""What mattered of a keep that changed several knobs at once: each is put back, once, by a trial of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence

from autoresearch import words
from autoresearch.trial import APART, Proposal, Trial

ONE_IN = 6  # trials on such a recipe is spent so, until all of its knobs have been put back


def put_back(trials: Sequence[Trial], stands: Trial) -> Proposal | None:
    """The next one on the recipe that stands; None where it is a new idea's turn, or nothing is left to put back."""
    if stands.parent is None or len(stands.changes) < 2:
        return None
    made_here = [trial for trial in trials if trial.parent == stands.number]
    apart = [trial for trial in made_here if trial.proposer == APART]
    done = {knob for trial in apart for knob in trial.changes}
    left = [knob for knob in stands.changes if knob not in done]
    if not left or ONE_IN * (len(apart) + 1) > len(made_here) + 1:
        return None
    knob, before = left[0], trials[stands.parent].recipe
    reason = f"Trial {stands.number} changed {words.count(len(stands.changes), 'knob')} at once; does {knob} matter?"
    return Proposal(raw=json.dumps({"knob": knob, "new_value": before[knob], "reason": reason}), proposer=APART)
