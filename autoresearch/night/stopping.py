"""Where a first run is hopeless: its training loss on the way is far above that of the recipe which it changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from autoresearch.config import DecisionRule
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import Trial

Curve = Sequence[Sequence[float]]  # [step, training loss in nats per token], means over the steps up to each

SHARES = (0.5, 0.7)  # of a run: where it is looked at; by benchmarks/search/stopping.py
WINDOW = 0.1  # of a run, whose losses before such a point are taken together; as trainer.training has it
MARGIN = 3.0  # deviations of such a mean between two seeds
FEWEST_CURVES = 2  # of the recipe that stands
# These bend the curve, or change what the training loss is: at equal tokens two such recipes are not to be compared.
INCOMPARABLE = ("schedule", "final_lr_fraction", "dropout", "z_loss", "ema_decay")


def stop_above(folder: StudyFolder, trial: Trial) -> list[tuple[float, float]]:
    """[share of the run, nats per token] for a trial's first run; nothing where it must not be stopped.

    Only a budget in tokens brings all recipes to the same share of their learning rate's way at the same token. Of
    another program nobody knows that: whoever switches it on says so.
    """
    rule, store = folder.settings.decision, folder.store
    comparable = {"tokens", "steps"} if folder.settings.trainer else {"tokens"}
    if not rule.stop_early or not folder.settings.budget.keys() <= comparable or trial.parent is None:
        return []
    parent = store.trial_now(trial.parent)
    if any(parent.recipe.get(knob) != trial.recipe.get(knob) for knob in INCOMPARABLE):
        return []
    groups = [curves for number in {0, parent.number} if (curves := _curves(folder, number))]
    of_parent = _curves(folder, parent.number)
    if len(of_parent) < FEWEST_CURVES:
        return []
    return [(share, limit(share, of_parent, groups, rule)) for share in SHARES]


def limit(share: float, of_parent: Sequence[Curve], groups: Sequence[Sequence[Curve]], rule: DecisionRule) -> float:
    """Nats per token. groups: curves of recipes, each with several seeds, that say how far seeds are apart; the prior
    of the run-to-run deviation counts here too."""
    level = fmean(before(share, curve) for curve in of_parent)
    squares, dof = rule.prior_runs * (rule.prior_deviation * level) ** 2, rule.prior_runs
    for group in groups:
        found = [before(share, curve) for curve in group]
        squares += sum((loss - fmean(found)) ** 2 for loss in found)
        dof += len(found) - 1
    return level + MARGIN * math.sqrt(squares / dof)


def before(share: float, curve: Curve) -> float:
    """The mean loss of the last tenth of the run before a share of it."""
    end = math.ceil(share * curve[-1][0])
    part = [loss for step, loss in curve if end - WINDOW * curve[-1][0] < step <= end]
    return fmean(part or [min(curve, key=lambda point: abs(point[0] - end))[1]])


def _curves(folder: StudyFolder, number: int) -> list[Curve]:
    runs = folder.store.runs_now(number)
    found = (folder.store.curve(number, run.seed) for run in runs if run.state == "complete")
    return [curve for curve in found if curve]
