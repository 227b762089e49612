"""The recipe: every knob value that the trainer takes, checked at birth."""

import difflib
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

MOST = sys.float_info.max
PRECISIONS = ("bf16", "fp8", "fp32")
# What each knob that is a word may be. The first is what a recipe that does not name the knob is trained with.
CHOICES = {
    "precision": PRECISIONS,
    "norm": ("layernorm", "rmsnorm"),
    "activation": ("gelu", "relu2", "swiglu"),
    "position": ("learned", "rope"),
    "optimizer": ("adamw", "muon"),
    "schedule": ("cosine", "linear", "wsd"),
}
SWIGLU_MULTIPLE = 16  # of the hidden width: what 8-bit products need
SPELLED = {int: "a whole number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class Recipe:
    """One set of knob values. Raises ValueError, naming the knob, for a value that cannot be trained."""

    n_layer: int
    n_head: int
    d_model: int
    d_ff: int  # hidden width of a feed-forward layer with two matrices; see `hidden`
    lr: float  # peak learning rate
    lr_warmup: int  # optimizer steps
    grad_clip: float  # largest allowed norm of the whole gradient
    weight_decay: float  # on matrices only
    beta1: float
    beta2: float
    batch_size: int  # sequences per forward and backward pass
    seq_len: int  # tokens per sequence
    precision: str
    # A menu need not have these: without them a recipe trains a GPT-2 with AdamW down a cosine.
    norm: str = "layernorm"
    activation: str = "gelu"
    position: str = "learned"
    n_kv_head: int = 0  # heads that keys and values have, shared by the queries'; 0: as many as n_head
    qk_norm: bool = False  # normalise each head's queries and keys
    tied_embeddings: bool = True  # the output layer is the token embedding
    optimizer: str = "adamw"  # muon: for the blocks' matrices, with AdamW for the rest
    schedule: str = "cosine"  # of the learning rate after warmup
    final_lr_fraction: float = 0.1  # of the peak, at the end of the budget
    init_std: float = 0.02
    dropout: float = 0.0  # after the embedding, on attention's weights, before each residual addition
    logit_softcap: float = 0.0  # logits become c * tanh(logits / c); 0: off
    z_loss: float = 0.0  # weight of the squared logarithm of the softmax's denominator, in training; 0: off
    embedding_lr_multiplier: float = 1.0  # on lr, for token and position embeddings
    grad_accumulation: int = 1  # passes per optimizer step
    ema_decay: float = 0.0  # of the averaged weights that are scored instead of the last; 0: off

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is float:
                # TOML and JSON write 1.0 as 1 as readily; a frozen dataclass is filled in through object.
                object.__setattr__(self, field.name, _finite(field.name, value))
            # The types of this file's fields are classes; dataclasses says they might be strings.
            elif type(value) is not field.type:
                raise ValueError(f"recipe: {field.name} is {value!r}; it must be {SPELLED[field.type]}")  # type: ignore[index]

        for name in ("n_layer", "n_head", "d_model", "d_ff", "batch_size", "seq_len", "lr", "grad_clip", "init_std"):
            _require(self, name, getattr(self, name) > 0, "above 0")
        for name in ("lr_warmup", "weight_decay", "n_kv_head", "logit_softcap", "z_loss", "embedding_lr_multiplier"):
            _require(self, name, getattr(self, name) >= 0, "0 or above")
        for name in ("beta1", "beta2", "dropout", "ema_decay"):
            _require(self, name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        for name, choices in CHOICES.items():
            _require(self, name, getattr(self, name) in choices, "one of " + ", ".join(choices))
        _require(self, "final_lr_fraction", 0 <= self.final_lr_fraction <= 1, "from 0 to 1")
        _require(self, "grad_accumulation", self.grad_accumulation >= 1, "1 or above")
        _require(self, "d_model", self.d_model % self.n_head == 0, f"a multiple of n_head ({self.n_head})")
        _require(self, "n_kv_head", self.n_head % self.kv_heads == 0, f"0 or a divisor of n_head ({self.n_head})")
        if self.position == "rope":
            _require(self, "d_model", self.head_width % 2 == 0, "an even number per head for position 'rope'")

    @property
    def head_width(self) -> int:
        return self.d_model // self.n_head

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def hidden(self) -> int:
        """Hidden width of the feed-forward layer. swiglu has three matrices, so for as many parameters two thirds
        of d_ff, to the nearest multiple of SWIGLU_MULTIPLE."""
        if self.activation != "swiglu":
            return self.d_ff
        return max(1, round(2 * self.d_ff / 3 / SWIGLU_MULTIPLE)) * SWIGLU_MULTIPLE

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.grad_accumulation * self.seq_len

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "Recipe":
        """Builds a recipe from a TOML or JSON table. Raises ValueError for an unknown or a missing knob."""
        names = [field.name for field in fields(cls)]
        for key in values:
            if key not in names:
                nearest = difflib.get_close_matches(str(key), names, n=1, cutoff=0.0)[0]
                raise ValueError(f"recipe: unknown knob {key!r}; did you mean {nearest!r}?")
        missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in values]
        if missing:
            raise ValueError(f"recipe: missing {', '.join(missing)}; add a line for each")
        return cls(**values)


def _finite(name: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and -MOST <= value <= MOST:
        return float(value)
    raise ValueError(f"recipe: {name} is {value!r}; it must be a finite number")


def _require(recipe: Recipe, name: str, holds: bool, wanted: str) -> None:
    if not holds:
        raise ValueError(f"recipe: {name} is {getattr(recipe, name)!r}; it must be {wanted}")
