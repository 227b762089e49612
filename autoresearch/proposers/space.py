"""The menu as a cube: each knob a number from 0 to 1 on its own scale, choices in their order."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autoresearch.trial import Recipe
from rails import Knob, Limits, Menu, Value, violations

Array = npt.NDArray[np.float64]

DRAWS = 100  # until one is allowed
STEP = 0.12  # deviation of a small move, as a share of a knob's range
DIGITS = 4  # of a number that a person can read


@dataclass(frozen=True)
class Space:
    """All recipes that a menu allows under a budget."""

    menu: Menu
    limits: Limits

    def __getstate__(self) -> dict[str, object]:
        """Without what is worked out when it is asked for, which another process does for itself."""
        return {"menu": self.menu, "limits": self.limits}

    @property
    def knobs(self) -> Mapping[str, Knob]:
        return self.menu.knobs

    @property
    def budget(self) -> Mapping[str, float]:
        assert self.limits.budget is not None
        return self.limits.budget

    @property
    def baseline(self) -> Recipe:
        return self.menu.defaults()

    def allows(self, recipe: Mapping[str, Value]) -> bool:
        return not violations(recipe, self.menu, self.limits)

    def recipe(self, shares: Sequence[float]) -> Recipe:
        """The recipe at a point of the cube."""
        return {
            name: value_at(knob, float(share)) for (name, knob), share in zip(self.knobs.items(), shares, strict=True)
        }

    def point(self, recipe: Mapping[str, Value]) -> list[float]:
        """Where a recipe is in the cube; a choice in the middle of its share."""
        return [share(recipe[name]) for name, share in self._shares]

    @cached_property
    def _shares(self) -> list[tuple[str, Callable[[Value], float]]]:
        return [(name, _sharing(knob)) for name, knob in self.knobs.items()]

    def draw(self, rng: random.Random) -> Recipe:
        """Any recipe that is allowed, evenly; one that is not where none is to be found."""
        for _ in range(DRAWS):
            if self.allows(recipe := self.recipe([rng.random() for _ in self.knobs])):
                break
        return recipe

    def near(
        self, recipe: Recipe, knobs: int, rng: random.Random, step: float = STEP, among: Sequence[str] = ()
    ) -> Recipe | None:
        """The recipe with so many knobs moved, half the time by a step or so, else anywhere: one that is allowed and
        another; None where none is to be found. among: the knobs to choose from, which may be fewer; none: all."""
        names = among or self._names
        for _ in range(DRAWS):
            moved = self._moved(recipe, rng.sample(names, min(knobs, len(names))), rng, step)
            if moved != recipe and self.allows(moved):
                return moved
        return None

    def neighbours(self, parents: Array, count: int, most: int, rng: np.random.Generator) -> Array:
        """[count, knobs]: points, each one of the parents' [n, knobs] with one to `most` coordinates moved, half the
        time by a step or so, else anywhere. They lie where the knobs' values do, but for the rounding of floats.
        Whether such a recipe is allowed, and is not its parent's twin, is for the caller to see."""
        shape = (count, len(self.knobs))
        found = parents[rng.integers(len(parents), size=count)]
        places = rng.random(shape).argsort(axis=1).argsort(axis=1)
        moved = places < rng.integers(1, most, size=(count, 1), endpoint=True)
        near = np.clip(found + self._steps(shape, rng), 0, 1)
        anywhere = rng.random(shape)
        chosen = np.where(rng.random(shape) < 0.5, anywhere, near)
        return np.where(moved, self._on_values(chosen), found)

    def _steps(self, shape: tuple[int, int], rng: np.random.Generator) -> Array:
        """One choice up or down; a share of a range."""
        choices = np.array([len(knob.choices or ()) for knob in self.knobs.values()])
        up_or_down = rng.choice((-1.0, 1.0), size=shape) / np.maximum(choices, 1)
        return np.where(choices > 0, up_or_down, rng.normal(0, STEP, size=shape))

    def _on_values(self, points: Array) -> Array:
        """Each coordinate where a choice or a whole number is."""
        found = points.copy()
        for column, knob in enumerate(self.knobs.values()):
            if knob.choices:
                places = np.minimum(np.floor(points[:, column] * len(knob.choices)), len(knob.choices) - 1)
                found[:, column] = (places + 0.5) / len(knob.choices)
            elif knob.type == "int":
                found[:, column] = _whole(knob, points[:, column])
        return found

    def _moved(self, recipe: Recipe, names: Sequence[str], rng: random.Random, step: float) -> Recipe:
        moved = dict(recipe)
        for name in names:
            moved[name] = move(self.knobs[name], recipe[name], rng, step)
        return moved

    @cached_property
    def _names(self) -> list[str]:
        return list(self.knobs)


def value_at(knob: Knob, share: float) -> Value:
    """The value at a share of the knob's choices or range, on its scale."""
    if knob.choices:
        return knob.choices[min(max(int(share * len(knob.choices)), 0), len(knob.choices) - 1)]
    assert knob.low is not None and knob.high is not None
    if knob.scale == "log":
        value = knob.low * (knob.high / knob.low) ** share
    else:
        value = knob.low + (knob.high - knob.low) * share
    return readable(knob, value)


def readable(knob: Knob, value: float) -> Value:
    """A value of its range that a person can read: whole for an int knob, four significant digits for a float."""
    assert knob.low is not None and knob.high is not None
    if knob.type == "int":
        return int(min(knob.high, max(knob.low, round(value))))
    return float(min(knob.high, max(knob.low, float(f"{value:.{DIGITS}g}"))))


def _whole(knob: Knob, shares: Array) -> Array:
    """The shares of the whole numbers next to these."""
    low, high = knob.low, knob.high
    assert low is not None and high is not None
    if low == high:
        return np.full_like(shares, 0.5)
    found: Array
    if knob.scale == "log":
        found = np.log(np.round(low * (high / low) ** shares) / low) / math.log(high / low)
    else:
        found = (np.round(low + (high - low) * shares) - low) / (high - low)
    return np.clip(found, 0, 1)


def share_of(knob: Knob, value: Value) -> float:
    """The other way round."""
    return _sharing(knob)(value)


def _sharing(knob: Knob) -> Callable[[Value], float]:
    """`share_of` one knob, for many values."""
    if knob.choices:
        return {choice: (place + 0.5) / len(knob.choices) for place, choice in enumerate(knob.choices)}.__getitem__
    low, high = knob.low, knob.high
    assert low is not None and high is not None
    if low == high:
        return lambda _: 0.5
    if knob.scale == "log":
        decades = math.log(high / low)
        return lambda value: math.log(value / low) / decades  # type: ignore[operator]  # numbers, without choices
    return lambda value: (value - low) / (high - low)  # type: ignore[operator]  # likewise


def move(knob: Knob, value: Value, rng: random.Random, step: float) -> Value:
    """Half the time a step or so away, else anywhere."""
    if rng.random() < 0.5:
        return value_at(knob, rng.random())
    if knob.choices:
        place = knob.choices.index(value) + rng.choice((-1, 1))
        return knob.choices[min(max(place, 0), len(knob.choices) - 1)]
    return value_at(knob, min(1.0, max(0.0, share_of(knob, value) + rng.gauss(0, step))))
