"""What stands in for the trainer: fitted to the recorded runs, with their luck, their failures and their times."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression, Ridge

from autoresearch.proposers.space import Space
from rails import Value, recipe_key
from trainer.protocol import RunResult

from .luck import Luck, Repeated, fit_luck
from .regressors import Array, Linear, Regressor, Smooth, Steps

KINDS: dict[str, type[Regressor]] = {"smooth": Smooth, "steps": Steps}
FAILURE_WEIGHT = 0.05  # of the runs against the prior that no feature matters
LIKELIEST_FAILURE = 0.95


def features(space: Space, recipe: Mapping[str, Value]) -> Array:
    """A recipe's place in the cube, and what knobs are to each other: where a valley runs aslant through the cube, it
    runs along one of these."""
    known = {name: float(value) for name, value in recipe.items() if not isinstance(value, str)}
    tokens = known["batch_size"] * known["seq_len"]
    steps = space.budget["tokens"] / tokens
    width, layers = known["d_model"], known["n_layer"]
    weights = layers * width * (4 * width + 2 * known["d_ff"]) + (space.limits.vocab_size or 0) * width
    with_others = (
        math.log2(steps),
        math.log2(tokens),
        math.log2(weights),
        math.log2(width / known["n_head"]),
        known["lr_warmup"] / steps,
        math.log(known["lr"] * width),
        math.log(known["lr"] * steps**0.5),
        math.log(known["lr"] * layers**0.5),
        math.log(1 - known["beta1"]),
        math.log(1 - known["beta2"]),
        math.log((1 - known["beta2"]) * steps),
    )
    return np.array([*space.point(recipe), *with_others])


@dataclass(frozen=True)
class Recorded:
    """The recorded runs as the fits want them: one row a recipe."""

    recipes: Sequence[Mapping[str, Value]]
    features: Array  # [recipes, features]
    level: Array  # mean logarithm of val_bpb; NaN where no run was complete
    runs: Sequence[Sequence[Mapping[str, Any]]]

    @classmethod
    def of(cls, space: Space, rows: Iterable[Mapping[str, Any]]) -> Recorded:
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            groups.setdefault(recipe_key(row["recipe"]), []).append(row)
        runs = list(groups.values())
        recipes = [group[0]["recipe"] for group in runs]
        level = [_mean([math.log(run["val_bpb"]) for run in group if run["val_bpb"] is not None]) for group in runs]
        return cls(recipes, np.array([features(space, recipe) for recipe in recipes]), np.array(level), runs)

    def repeated(self) -> list[Repeated]:
        found = []
        for seen, runs in zip(self.features, self.runs, strict=True):
            complete = [run for run in runs if run["val_bpb"] is not None]
            if len(complete) > 1:
                val, test = ({run["seed"]: math.log(run[score]) for run in complete} for score in SCORES)
                found.append(Repeated(seen, val, test))
        return found


SCORES = ("val_bpb", "test_bpb")


@dataclass
class Surrogate:
    """A World (night.py) whose truth is known. The level is of the regression's kind, the rest is common."""

    name: str
    space: Space
    level: Regressor  # logarithm of val_bpb
    seconds: Linear  # logarithm of processor seconds
    failure: Linear  # log odds
    luck: Luck
    test_line: tuple[float, float]  # intercept and slope of test's logarithm on val's
    _seen: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)

    def truth(self, recipe: Mapping[str, Value]) -> float:
        """The val_bpb that its runs scatter around: their median."""
        return math.exp(self._about(recipe)[0])

    def run(self, recipe: Mapping[str, Value], seed: int, night: int) -> RunResult:
        level, deviation, fails, seconds = self._about(recipe)
        own = random.Random(f"{night}/{seed}/{recipe_key(recipe)}")
        if own.random() < fails:
            spent = seconds * own.random()
            return RunResult(
                "", seed, "failed", failure="diverged", message="diverged in the simulation", total_seconds=spent
            )
        share, with_test = self.luck.seed_share, self.luck.val_with_test
        val = share**0.5 * random.Random(f"{night}/{seed}").gauss() + (1 - share) ** 0.5 * own.gauss()
        test = self.luck.test_ratio * (with_test * val + (1 - with_test**2) ** 0.5 * own.gauss())
        intercept, slope = self.test_line
        return RunResult(
            "",
            seed,
            "complete",
            val_bpb=math.exp(level + deviation * val),
            test_bpb=math.exp(intercept + slope * level + deviation * test),
            total_seconds=seconds,
        )

    def _about(self, recipe: Mapping[str, Value]) -> tuple[float, float, float, float]:
        """Level, deviation, probability of failure, seconds."""
        key = recipe_key(recipe)
        if key not in self._seen:
            seen = features(self.space, recipe)
            fails = min(1 / (1 + math.exp(-self.failure(seen))), LIKELIEST_FAILURE)
            self._seen[key] = (
                float(self.level(seen[None])[0]),
                self.luck.deviation(seen),
                # A night whose baseline fails is over before it has begun; none of its recorded runs did.
                0.0 if recipe == self.space.baseline else fails,
                math.exp(self.seconds(seen)),
            )
        return self._seen[key]


def fit(kind: str, space: Space, recorded: Recorded) -> Surrogate:
    """kind: one of KINDS."""
    known = ~np.isnan(recorded.level)
    return Surrogate(
        kind,
        space,
        level=KINDS[kind](recorded.features[known], recorded.level[known]),
        seconds=_seconds(recorded),
        failure=_failures(recorded),
        luck=fit_luck(recorded.repeated()),
        test_line=_test_line(recorded),
    )


def _seconds(recorded: Recorded) -> Linear:
    spent = np.log([_mean([run["cpu_seconds"] for run in runs]) for runs in recorded.runs])
    found = Ridge(1.0).fit(Linear.scaled(recorded.features)[:, 1:], spent)
    return Linear.of(recorded.features, np.array([found.intercept_, *found.coef_]))


def _failures(recorded: Recorded) -> Linear:
    """A logistic regression; few fail, so it is held close to the overall rate."""
    points = np.repeat(recorded.features, [len(runs) for runs in recorded.runs], axis=0)
    failed = np.array([run["state"] == "failed" for runs in recorded.runs for run in runs])
    assert failed.any(), "no recorded run failed: nothing says which would"
    found = LogisticRegression(C=FAILURE_WEIGHT, max_iter=1000).fit(Linear.scaled(points)[:, 1:], failed)
    return Linear.of(points, np.array([found.intercept_[0], *found.coef_[0]]))


def _test_line(recorded: Recorded) -> tuple[float, float]:
    complete = [run for runs in recorded.runs for run in runs if run["val_bpb"] is not None]
    val, test = (np.log([run[score] for run in complete]) for score in SCORES)
    found = stats.linregress(val, test)
    return float(found.intercept), float(found.slope)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
