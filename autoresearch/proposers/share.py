"""When a model is asked beside an optimizer: on a share of the trials, lowered by arithmetic if it does not earn it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean, pvariance

from scipy import special

from autoresearch.proposer_name import LANGUAGE_MODEL
from autoresearch.trial import Trial

MODEL, OPTIMIZER = LANGUAGE_MODEL, "gp"  # as their proposals are named
AFTER = 10  # trials, which are the optimizer's
ENOUGH = 10  # ended trials of the model, and of the optimizer, before they are compared
FLOOR = 0.05  # a model may come to its senses


def share(trials: Sequence[Trial], most: float, model: str = MODEL) -> float:
    """Of the next trials, that of the model, as its proposals are named: at most `most`, and less the surer it is that
    its ideas earn less.

    An idea earns what it was measured better by than the recipe it changed; nothing where it was worse, failed or was
    blocked. Ideas count from the model's first one on. With P the probability that the model's earn as much on average
    (Student's t, one deviation for both), the share is most x 2P where P is below a half: a model that is as good as
    the optimizer keeps three quarters of `most` on average.
    """
    first = next((trial.number for trial in trials if trial.proposer == model), None)
    if first is None:
        return most
    ended = [trial for trial in trials[first:] if trial.state not in ("proposed", "running")]
    of_model, of_optimizer = (
        [_earned(trial) for trial in ended if trial.proposer == name] for name in (model, OPTIMIZER)
    )
    if min(len(of_model), len(of_optimizer)) < ENOUGH:
        return most
    within = pvariance(of_model) * len(of_model) + pvariance(of_optimizer) * len(of_optimizer)
    variance = within / (len(of_model) + len(of_optimizer) - 2)
    error = math.sqrt(variance * (1 / len(of_model) + 1 / len(of_optimizer)))
    if not error:
        return most
    freedom = len(of_model) + len(of_optimizer) - 2
    probability = float(special.stdtr(freedom, (fmean(of_model) - fmean(of_optimizer)) / error))
    return max(min(FLOOR, most), min(most, 2 * probability * most))


def is_models_turn(number: int, seed: int, share_now: float) -> bool:
    """Drawn by the study's seed, the same in every process."""
    return number > AFTER and random.Random(f"turn/{seed}/{number}").random() < share_now


def _earned(trial: Trial) -> float:
    return max(0.0, trial.improvement or 0.0)
