"""Which of a script's constants are knobs, and which values around today's are worth trying: by name and size alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from autoresearch.constants import Constant
from autoresearch.trial import Value
from rails import clean

MOST_KNOBS = 64
# A figure of this size is a unit, a key or a machine's speed, not a knob.
TOO_LARGE = 1e9
SEEDS = {"seed", "seeds"}
BUDGETS = {"budget", "time", "timeout", "seconds", "minutes", "hours", "deadline", "duration"}
LENGTHS = {"steps", "iters", "iterations", "epochs", "epoch", "rounds"}
# Of LENGTHS those that are part of a schedule.
SCHEDULES = {"warmup", "warmdown", "cooldown", "decay", "anneal", "accum", "accumulation", "grad", "inner", "lr"}
FIXED = {
    "what is read, written or shown": {
        "path", "paths", "dir", "directory", "folder", "file", "filename", "url", "uri", "host", "port", "project",
        "log", "logging", "print", "verbose", "debug", "wandb", "checkpoint", "checkpoints", "ckpt", "save", "interval",
        "every", "output", "out", "version", "name", "title", "plot", "resume",
    },
    "how it is scored": {"val", "valid", "validation", "test", "eval", "evaluation", "target"},
    "the data": {"data", "dataset", "vocab", "classes", "samples", "examples", "split", "fold", "folds"},
    "the machine": {"gpu", "gpus", "cpu", "cores", "workers", "threads", "jobs", "flops"},
}  # fmt: skip
NEAR_ONE = {"beta", "betas", "momentum", "ema", "gamma", "discount", "rho"}
SHARES = {"dropout", "ratio", "frac", "fraction", "prob", "probability", "share", "subsample", "colsample", "smoothing"}
RATES = {
    "lr", "rate", "decay", "wd", "eps", "epsilon", "alpha", "lambda", "lamda", "lam", "reg", "regularization", "l1",
    "l2", "penalty", "tol", "tolerance", "std", "sigma", "eta", "scale", "strength",
}  # fmt: skip
COUNTS = {"layer", "layers", "depth", "blocks", "stages"}
_WORD = re.compile(r"[a-z0-9][a-z0-9_+.-]{0,31}")
Kind = Literal["int", "float", "str", "bool"]


@dataclass(frozen=True)
class Proposed:
    """A constant as a knob: either `low` and `high` or `choices`; neither for a bool. `default` is today's value as the
    knob's type has it, `why` tells how the range was chosen."""

    constant: Constant
    type: Kind
    default: Value
    why: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Value, ...] = ()
    log: bool = False


@dataclass(frozen=True)
class LeftOut:
    """A name that the menu does not have. `word`: it has a word as its value and would be a knob if a person named
    the alternatives. `budget`: it tells what a run spends, such as {"steps": 400}."""

    name: str
    line: int
    why: str
    word: str | None = None
    budget: dict[str, float] | None = None


def propose(constant: Constant, alternatives: tuple[str, ...] = ()) -> Proposed | LeftOut:
    """alternatives: words that the script itself compares the constant with."""
    value, words = constant.value, _words(constant.name)
    if why := _fixed(words, value):
        return LeftOut(constant.name, constant.line, why, budget=_budget(words, value))
    if isinstance(value, bool):
        return Proposed(constant, "bool", value, "on or off")
    if isinstance(value, str):
        return _of_word(constant, value, alternatives)
    if abs(value) >= TOO_LARGE:
        return LeftOut(constant.name, constant.line, "too large for a knob")
    if words & NEAR_ONE and 0 <= value <= 1:
        return _near_one(constant, float(value))
    if words & SHARES and 0 <= value <= 1:
        high = min(1.0, max(0.5, 2 * value))
        return Proposed(constant, "float", float(value), "a share, by its name", low=0.0, high=high)
    # WEIGHT_DECAY = 0 is a rate that nobody has given a point, LR_DECAY_STEPS = 600 is none.
    if isinstance(value, float) or (words & RATES and 0 <= value <= 1 and not words & LENGTHS):
        return _of_float(constant, float(value), bool(words & RATES))
    return _of_int(constant, value, bool(words & COUNTS))


def _words(name: str) -> set[str]:
    """Of BETA2_LR, warmupSteps: beta, lr, warmup, steps."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)
    words = {part.lower() for part in parts}
    return words | {part.lower() for part in name.split("_")}


def _fixed(words: set[str], value: Value) -> str | None:
    """Why it must stay as it is; None: it may change."""
    if words & SEEDS:
        return "a seed: each run has its own, and luck is no gain"
    if words & BUDGETS or (words & LENGTHS and not words & SCHEDULES):
        return "what a run may spend: the same for all, or the longest would win"
    return next((f"{what}, by its name" for what, names in FIXED.items() if words & names), None)


def _budget(words: set[str], value: Value) -> dict[str, float] | None:
    if isinstance(value, bool | str) or value <= 0 or words & (SCHEDULES | FIXED["how it is scored"] | SEEDS):
        return None
    if words & {"steps", "iters", "iterations"}:
        return {"steps": int(value)} if value == int(value) else None
    return {"seconds": value} if words & {"seconds", "time"} and words & BUDGETS else None


def _of_word(constant: Constant, value: str, alternatives: tuple[str, ...]) -> Proposed | LeftOut:
    choices = tuple(dict.fromkeys([value, *alternatives]))
    if len(choices) > 1 and all(_is_plain(choice) for choice in choices):
        return Proposed(constant, "str", value, "words that the script compares it with", choices=choices)
    if _WORD.fullmatch(value) and "device" not in _words(constant.name):
        return LeftOut(constant.name, constant.line, "a word whose alternatives the script does not tell", value)
    return LeftOut(constant.name, constant.line, "a text")


def _is_plain(word: str) -> bool:
    return bool(word) and clean(word, 100) == word


def _near_one(constant: Constant, value: float) -> Proposed:
    if value in (0.0, 1.0):
        return Proposed(constant, "float", value, "an average's memory, by its name", low=0.0, high=1.0)
    low, high = max(0.0, _below_one(5 * (1 - value))), _below_one((1 - value) / 10)
    return Proposed(constant, "float", value, "a fifth to ten times its memory of 1 / (1 - value)", low=low, high=high)


def _of_float(constant: Constant, value: float, rate: bool) -> Proposed:
    if value == 0:
        return Proposed(constant, "float", value, "0 does not tell its size: put it right", low=0.0, high=0.1)
    small = 0 < abs(value) < 0.02
    times, why = (10, "a tenth to ten times") if rate or small else (4, "a quarter to four times")
    low, high = sorted((_round(value / times), _round(value * times)))
    why += ", by its name" if rate else ", by its size" if small else ""
    return Proposed(constant, "float", value, why, low=low, high=high, log=value > 0)


def _of_int(constant: Constant, value: int, counts: bool) -> Proposed:
    if value == 0:
        return Proposed(constant, "int", value, "0 does not tell its size: put it right", low=0, high=10)
    if value < 0:
        return Proposed(constant, "int", value, "half to twice", low=2 * value, high=-(-value // 2))
    if value >= 4 and value & (value - 1) == 0 and not counts:
        choices = (value // 4, value // 2, value, 2 * value, 4 * value)
        return Proposed(constant, "int", value, "powers of two around it", choices=choices)
    return Proposed(
        constant, "int", value, "half to twice", low=max(1, value // 2), high=max(4, 2 * value), log=value >= 100
    )


def _below_one(by: float) -> float:
    return round(1 - _round(by), 12)


def _round(value: float) -> float:
    """Three digits that matter, so that a person can read them."""
    return float(f"{value:.3g}")
