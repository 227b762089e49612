"""The recipe: every knob value that the trainer takes, checked at birth."""

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

MOST = sys.float_info.max
PRECISIONS = ("bf16", "fp8", "fp32")


@dataclass(frozen=True)
class Recipe:
    """One set of knob values. Raises ValueError, naming the knob, for a value that cannot be trained."""

    n_layer: int
    n_head: int
    d_model: int
    d_ff: int
    lr: float  # peak learning rate
    lr_warmup: int  # optimizer steps
    grad_clip: float  # largest allowed norm of the whole gradient
    weight_decay: float  # on matrices only
    beta1: float
    beta2: float
    batch_size: int  # sequences per optimizer step
    seq_len: int  # tokens per sequence
    precision: str  # one of PRECISIONS

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is float:
                # TOML and JSON write 1.0 as 1 as readily; a frozen dataclass is filled in through object.
                object.__setattr__(self, field.name, _finite(field.name, value))
            # The types of this file's fields are classes; dataclasses says they might be strings.
            elif not isinstance(value, field.type) or isinstance(value, bool):  # type: ignore[arg-type]
                raise ValueError(f"recipe: {field.name} is {value!r}; it must be {_spelled(field.type)}")

        for name in ("n_layer", "n_head", "d_model", "d_ff", "batch_size", "seq_len", "lr", "grad_clip"):
            _require(self, name, getattr(self, name) > 0, "above 0")
        for name in ("lr_warmup", "weight_decay"):
            _require(self, name, getattr(self, name) >= 0, "0 or above")
        for name in ("beta1", "beta2"):
            _require(self, name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        _require(self, "precision", self.precision in PRECISIONS, "one of " + ", ".join(PRECISIONS))
        _require(self, "d_model", self.d_model % self.n_head == 0, f"a multiple of n_head ({self.n_head})")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "Recipe":
        """Builds a recipe from a TOML or JSON table. Raises ValueError for an unknown or a missing knob."""
        names = [field.name for field in fields(cls)]
        for key in values:
            if key not in names:
                nearest = difflib.get_close_matches(str(key), names, n=1, cutoff=0.0)[0]
                raise ValueError(f"recipe: unknown knob {key!r}; did you mean {nearest!r}?")
        missing = [name for name in names if name not in values]
        if missing:
            raise ValueError(f"recipe: missing {', '.join(missing)}; add a line for each")
        return cls(**values)


def _finite(name: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and -MOST <= value <= MOST:
        return float(value)
    raise ValueError(f"recipe: {name} is {value!r}; it must be a finite number")


def _spelled(kind: object) -> str:
    return "a whole number" if kind is int else "text"


def _require(recipe: Recipe, name: str, holds: bool, wanted: str) -> None:
    if not holds:
        raise ValueError(f"recipe: {name} is {getattr(recipe, name)!r}; it must be {wanted}")
