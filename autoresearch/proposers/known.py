"""What optimizers over whole recipes share: what the trajectory says of recipes, how they begin, how they answer."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import fmean

from autoresearch.metric import VAL_BPB, Metric
from autoresearch.proposers.space import Space
from autoresearch.trial import History, Proposal, Recipe, Trial
from rails import Menu, RailsError, Value, gate

STARTS = 10  # recipes before the first model, or fewer where there are fewer knobs
MOVED = 2  # knobs of a good recipe at once, at most
DRAWS = 64  # until one passes the rails; then it goes to them as it is
FAILED = ("failed", "timed_out")


class Places:
    """Points of trials' recipes in a menu's cube, each worked out once."""

    def __init__(self) -> None:
        self._menu: Menu | None = None
        self._known: dict[str, list[float] | None] = {}

    def of(self, trial: Trial, space: Space) -> list[float] | None:
        """None where the menu does not take the recipe: the menu or the study is another's."""
        if self._menu is not space.menu:
            self._menu, self._known = space.menu, {}
        if not (key := trial.recipe_key):  # an import that does not tell it
            return _place(trial.recipe, space)
        if key not in self._known:
            self._known[key] = _place(trial.recipe, space)
        return self._known[key]


def _place(recipe: Recipe, space: Space) -> list[float] | None:
    try:
        return space.point({name: knob.admit(recipe[name]) for name, knob in space.knobs.items()})
    except (RailsError, KeyError):
        return None


@dataclass
class Known:
    """What the trajectory says of recipes that the menu still has."""

    points: list[list[float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    failed: list[list[float]] = field(default_factory=list)
    stopped: list[list[float]] = field(default_factory=list)  # on the way, behind what stood: no score is known
    in_flight: list[list[float]] = field(default_factory=list)

    @classmethod
    def of(cls, history: History, space: Space, places: Places, most: int) -> Known:
        """most: recipes; of more the best half and the latest are told."""
        known = cls()
        for trial in history.trials:
            if (point := places.of(trial, space)) is None:
                continue
            score, runs = trial.val_bpb, trial.n_runs
            if trial.state == "running" and (so_far := history.scores.get(trial.number)):
                score, runs = fmean(so_far.values()), len(so_far)
            if score is not None and runs:
                known.points.append(point)
                known.scores.append(score)
                known.runs.append(runs)
            elif trial.state in FAILED:
                known.failed.append(point)
            elif trial.state == "stopped":
                known.stopped.append(point)
            elif trial.state == "running":
                known.in_flight.append(point)
        known._forget(most)
        return known

    @property
    def ended(self) -> int:
        """Recipes that have run, those that failed or were stopped among them."""
        return len(self.scores) + len(self.failed) + len(self.stopped)

    def is_too_little(self, space: Space) -> bool:
        """For a model."""
        return self.ended < min(STARTS, 2 + len(space.knobs)) or len(self.scores) < 2

    def _forget(self, most: int) -> None:
        n, half = len(self.scores), most // 2
        if n <= most:
            return
        best = sorted(range(n), key=lambda place: self.scores[place])[:half]
        kept = sorted({*best, *range(n - half, n)})
        self.points, self.scores = [self.points[i] for i in kept], [self.scores[i] for i in kept]
        self.runs = [self.runs[i] for i in kept]


def start(history: History, space: Space, stands: Recipe, rng: random.Random, name: str) -> Proposal:
    """A mutation of the incumbent, before enough is known for a model: of knobs that no trial has touched, where that
    is allowed. Where the rails let nothing through they say why."""
    raw, most = "", min(MOVED, history.menu.max_changes, len(space.knobs))
    fresh = untouched(history.menu, history.trials)
    for draw in range(DRAWS):
        knobs, among = rng.randint(1, most), fresh if draw < DRAWS // 2 else ()
        near = space.near(stands, knobs, rng, among=among) or space.near(stands, knobs, rng)
        candidate = near or space.draw(rng)
        raw = answer(stands, candidate, "Drawn at random near what stands: too little is known for a model.")
        if passes(raw, history):
            break
    return Proposal(raw=raw, proposer=name)


def untouched(menu: Menu, trials: Sequence[Trial]) -> list[str]:
    """The menu's knobs that no trial has changed, those aside that were blocked."""
    touched = {knob for trial in trials if trial.state != "blocked" for knob in trial.changes}
    return [knob for knob in menu.knobs if knob not in touched]


def standing(history: History) -> Recipe:
    """The recipe that is changed, as the menu has it: its default where the recipe has no such value."""
    found = history.menu.defaults()
    for name, knob in history.menu.knobs.items():
        with suppress(RailsError, KeyError):
            found[name] = knob.admit(history.recipe[name])
    return found


def changed(before: Mapping[str, Value], after: Mapping[str, Value]) -> Recipe:
    """The knobs whose values are others after it, with these values."""
    return {name: value for name, value in after.items() if before.get(name) != value}


def moved(space: Space, stands: Recipe, point: Sequence[float]) -> Recipe:
    """The recipe at a point; what is where it stands is the same to the last digit."""
    there = zip(space.recipe(point).items(), space.point(stands), point, strict=True)
    return {name: stands[name] if before == after else value for (name, value), before, after in there}


def answer(
    stands: Recipe, candidate: Recipe, reason: str, expected: float | None = None, metric: Metric = VAL_BPB
) -> str:
    changes = changed(stands, candidate)
    told: dict[str, object] = {"changes": changes, "reason": reason}
    if len(changes) == 1:
        ((name, value),) = changes.items()
        told = {"knob": name, "new_value": value, "reason": reason}
    if expected is not None:
        told["expected_delta"] = round(expected, metric.places + 2)
    return json.dumps(told)


def passes(raw: str, history: History) -> bool:
    return gate(raw, history.recipe, history.menu, history.tried, history.limits).passed
