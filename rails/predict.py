"""What a run of a recipe takes, worked out from its shape alone: parameters, FLOPs, bytes alive at the peak, time."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rails.values import Value

# What the trainer takes where a recipe leaves a knob out.
DEFAULTS: dict[str, Value] = {
    "norm": "layernorm",
    "activation": "gelu",
    "position": "learned",
    "n_kv_head": 0,
    "qk_norm": False,
    "tied_embeddings": True,
    "optimizer": "adamw",
    "grad_accumulation": 1,
    "ema_decay": 0.0,
    "dropout": 0.0,
    "logit_softcap": 0.0,
}
SIZES = ("n_layer", "n_head", "d_model", "d_ff", "batch_size", "seq_len", "grad_accumulation")
WORDS = ("precision", "norm", "activation", "position", "qk_norm", "tied_embeddings", "optimizer")
SWITCHES = ("ema_decay", "dropout", "logit_softcap")  # of these only counts whether they are 0

# The trainer's own constants, which decide what is alive at once.
SWIGLU_MULTIPLE = 16  # of swiglu's hidden width
QUERIES_AT_A_TIME, LONGEST_PLAIN = 128, 1024  # of attention by plain products, on a CPU
LOSS_ELEMENTS = {"cpu": 2**19, "cuda": 2**28}  # logits that are float32 at a time
EVALUATION_TOKENS = 8192  # scored at a time

# Time, in FLOPs of bf16 products that take as long; on a GPU by the ratio of an H200's figures in its datasheet.
WORK_PER_FP32_FLOP = {"cpu": 2.0, "cuda": 2.0}
WORK_PER_BYTE = {"cpu": 20.0, "cuda": 206.0}  # each activation is written and read a few times
WORK_PER_LAYER = {"cpu": 2e8, "cuda": 2e11}  # launching its operations, in each pass


@dataclass(frozen=True)
class Shape:
    """What of a recipe decides memory and time; runs of equal shapes take the same, whatever their other knobs."""

    n_layer: int
    n_head: int
    d_model: int
    d_ff: int
    batch_size: int
    seq_len: int
    grad_accumulation: int
    precision: Value | None
    norm: Value | None
    activation: Value | None
    position: Value | None
    qk_norm: Value | None
    tied_embeddings: Value | None
    optimizer: Value | None
    ema_decay: bool
    dropout: bool
    logit_softcap: bool
    n_kv_head: int
    vocab_size: int
    device: str  # cpu or cuda

    @classmethod
    def of(cls, recipe: Mapping[str, Value], vocab_size: int | None, device: str) -> "Shape | None":
        """None where the recipe lacks a size of the GPT, or the vocabulary's size is not known."""
        knobs = DEFAULTS | dict(recipe)
        sizes = [knobs.get(name) for name in SIZES]
        counts = [size for size in (*sizes, vocab_size) if type(size) is int and size > 0]
        kv_heads = knobs["n_kv_head"]
        if len(counts) != len(SIZES) + 1 or type(kv_heads) is not int or kv_heads < 0:
            return None
        words = [knobs.get(name) for name in WORDS]
        switches = [knobs[name] != 0 for name in SWITCHES]
        in_order: tuple[Any, ...] = (*counts[:-1], *words, *switches, kv_heads or counts[1], counts[-1], device)
        return cls(*in_order)

    # --- counts ---

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.grad_accumulation * self.seq_len

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layer: swiglu has three matrices, so for as many parameters about 2/3 of d_ff."""
        if self.activation != "swiglu":
            return self.d_ff
        return max(1, round(2 * self.d_ff / 3 / SWIGLU_MULTIPLE)) * SWIGLU_MULTIPLE

    @property
    def kv_width(self) -> int:
        return self.n_kv_head * (self.d_model // self.n_head)

    @cached_property
    def matrices(self) -> int:
        """Weights of the blocks' matrices: queries, keys and values, attention's output, feed-forward."""
        feed_forward = (3 if self.activation == "swiglu" else 2) * self.d_model * self.hidden
        return self.n_layer * (2 * self.d_model * (self.d_model + self.kv_width) + feed_forward)

    @cached_property
    def params(self) -> int:
        """As the trainer counts: tied embeddings once."""
        norms = (2 * self.n_layer + 1) * self.d_model
        if self.qk_norm:
            norms += 2 * self.n_layer * (self.d_model // self.n_head)
        embeddings = self.vocab_size * self.d_model * (1 if self.tied_embeddings else 2)
        positions = self.seq_len * self.d_model if self.position == "learned" else 0
        return self.matrices + norms * (1 if self.norm == "rmsnorm" else 2) + embeddings + positions

    @cached_property
    def flops_per_token(self) -> int:
        """Of forward and backward: 6 for each weight that multiplies a token, and attention's two products."""
        multiplying = self.matrices + self.vocab_size * self.d_model
        return 6 * multiplying + 12 * self.n_layer * self.d_model * self.seq_len

    # --- memory ---

    @cached_property
    def live_bytes(self) -> int:
        """The most that tensors hold at once in a run: as the backward pass begins, as it ends, or in scoring."""
        matrices = self.matrices if self.optimizer == "muon" else 0
        weights = 4 * self.params
        moments = 8 * self.params - 4 * matrices  # Muon has one, AdamW two
        held = weights + moments + (weights if self.ema_decay else 0)
        tokens = self.batch_size * self.seq_len
        between = held + (weights if self.grad_accumulation > 1 else 0) + self._kept_bytes(tokens)
        # The output layer's gradients come while all activations are still there.
        loss = max(
            self._loss_bytes(tokens, 4 if self.logit_softcap else 2),
            self._width * tokens * self.d_model + (self._width + 4) * self.vocab_size * self.d_model,
        )
        # Muon's step holds all its updates, and a batch of matrices of at most so many numbers in several forms.
        step = held + weights + 4 * matrices + 14 * min(matrices, 2**26)
        return max(between + loss, step, weights + self._scoring_bytes())

    @property
    def _width(self) -> int:
        """Bytes of an activation."""
        return 4 if self.precision == "fp32" else 2

    @property
    def _is_plain(self) -> bool:
        """Whether attention's weights are held, as on a CPU for all but long sequences."""
        return self.device == "cpu" and self.seq_len <= LONGEST_PLAIN

    def _kept_bytes(self, tokens: int) -> int:
        """What one forward pass keeps for the backward pass: of each layer, of the end, and copies of weights."""
        end = self._norm_bytes + self._width * self.vocab_size
        if self.dropout:
            end += 4 * self.d_model
        return tokens * (self.n_layer * self._layer_bytes + end) + self._copied_bytes

    @property
    def _copied_bytes(self) -> int:
        """Autocast's copies of the weights in the products' type."""
        if self.precision == "fp32":
            return 0
        return (1 if self.precision == "fp8" else 2) * self.matrices + 2 * self.vocab_size * self.d_model

    @property
    def _norm_bytes(self) -> int:
        """Per token: the float32 input of a norm and the product's copy of its output; on a CPU RMSNorm is several
        operations, and the normalized input stays too."""
        decomposed = self.norm == "rmsnorm" and self.device == "cpu"
        return (8 if decomposed else 4) * self.d_model + self._operand_bytes * self.d_model

    @property
    def _operand_bytes(self) -> int:
        """Bytes of what a matrix product keeps of its input."""
        return 1 if self.precision == "fp8" else self._width

    @property
    def _layer_bytes(self) -> int:
        """Per token, what one block keeps."""
        width, queries, keys = self._width, self.d_model, self.kv_width
        gates = 3 if self.activation == "swiglu" else 1
        kept = 2 * self._norm_bytes + (gates * width + self._operand_bytes) * self.hidden
        if self._is_plain:
            kept += 4 * width * queries + (3 if self.dropout else 1) * self.n_head * width * self._mean_keys
        else:
            kept += width * (2 * queries + 2 * keys) + 4 * self.n_head
            if self.qk_norm or self.position == "rope":
                kept += width * (queries + keys)
            if self.precision == "fp8":
                kept += queries
            if self.dropout and self.device == "cpu":  # the fused kernel cannot: torch holds whole float32 squares
                kept += 12 * self.n_head * self.seq_len
        if self.qk_norm:
            kept += (8 if self.norm == "rmsnorm" and self.device == "cpu" else 4) * (queries + keys)
        if self.dropout:
            kept += 2 * (width if self.device == "cpu" else 1) * queries
        return kept

    @property
    def _mean_keys(self) -> int:
        """Keys that a query meets in plain attention, which leaves out those after its block of queries."""
        blocks, rest = divmod(self.seq_len, QUERIES_AT_A_TIME)
        products = QUERIES_AT_A_TIME**2 * blocks * (blocks + 1) // 2 + rest * self.seq_len
        return products // self.seq_len

    def _loss_bytes(self, tokens: int, copies: int) -> int:
        return 4 * copies * min(tokens * self.vocab_size, LOSS_ELEMENTS[self.device])

    def _scoring_bytes(self) -> int:
        """Nothing is kept, so the largest of the steps that follow each other: attention, feed-forward, loss."""
        width, queries, keys = self._width, self.d_model, self.kv_width
        rows = max(1, EVALUATION_TOKENS // self.seq_len)
        tokens = rows * self.seq_len
        block = min(QUERIES_AT_A_TIME, self.seq_len)
        attention = (5 if not self._is_plain or self.position != "rope" else 8) * width * queries + 2 * width * keys
        attention *= tokens
        if self._is_plain:  # scores and weights of a block of queries, and the weights of the one before
            attention += rows * self.n_head * block * width * (3 * self.seq_len - block)
        copies = {"swiglu": 4, "relu2": 3}.get(str(self.activation), 2)
        feed_forward = tokens * width * (queries + copies * self.hidden)
        loss = width * tokens * self.vocab_size + self._loss_bytes(tokens, 3 if self.logit_softcap else 2)
        return max(8 * tokens * queries + max(attention, feed_forward) + self._copied_bytes, loss)

    # --- time ---

    @cached_property
    def work_per_token(self) -> float:
        """Of training, in FLOPs of bf16 products that take as long."""
        tokens = self.batch_size * self.seq_len
        products = self.flops_per_token * (WORK_PER_FP32_FLOP[self.device] if self.precision == "fp32" else 1)
        moved = self.n_layer * self._layer_bytes + self._width * self.vocab_size
        moved_by_optimizer = 16 * self.params / self.tokens_per_step
        launches = WORK_PER_LAYER[self.device] * self.n_layer / tokens
        return products + WORK_PER_BYTE[self.device] * (moved + moved_by_optimizer) + launches


def tokens_per_step(recipe: Mapping[str, Value]) -> int | None:
    """None where the recipe lacks a batch_size or seq_len above 0."""
    counts = [recipe.get("batch_size"), recipe.get("grad_accumulation", 1), recipe.get("seq_len")]
    sizes = [count for count in counts if type(count) is int and count > 0]
    return sizes[0] * sizes[1] * sizes[2] if len(sizes) == 3 else None
