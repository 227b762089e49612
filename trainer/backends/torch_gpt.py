"""The GPT in plain PyTorch, hand-written to be read in one sitting."""

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.backends import precisions
from trainer.backends.attention import attend, rotary_angles, rotate
from trainer.backends.float8 import Float8Linear
from trainer.backends.head import nats_of_logits, padded_logits
from trainer.parallel import ALONE, Processes
from trainer.recipe import Recipe

NORM_EPSILON = 1e-5
MOST_SHAPES = 4096  # that one process compiles; beyond torch's default of 8 it would quietly not compile at all


class TorchBackend:
    """Builds `GPT`."""

    def build(
        self, recipe: Recipe, vocab_size: int, device: torch.device, seed: int, processes: Processes = ALONE
    ) -> "GPT":
        """Raises ValueError where the device or its 8-bit products cannot train the recipe."""
        if processes.tensor > 1:
            raise ValueError(f"tensor_parallel is {processes.tensor}: only backend 'megatron' shares matrices")
        if recipe.precision not in precisions(device):
            raise ValueError(
                f"recipe: precision {recipe.precision!r} needs a GPU of compute capability 8.9 or above "
                f"(Ada, Hopper); {device} can do {', '.join(precisions(device))}"
            )
        if recipe.precision == "fp8":
            _require_multiples_of_16(recipe)
        with torch.device("meta"):  # no memory and no random numbers yet: `initialise` draws them
            model = GPT(recipe, vocab_size)
        model.to_empty(device=device)
        model.initialise(seed)
        return model


class GPT(nn.Module):
    """Embeddings, `n_layer` pre-norm blocks, a norm, and an output layer."""

    def __init__(self, recipe: Recipe, vocab_size: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.autocast = recipe.precision != "fp32"
        self.compiled = False
        self.token_embedding = nn.Embedding(vocab_size, recipe.d_model)
        if recipe.position == "learned":
            self.position_embedding = nn.Embedding(recipe.seq_len, recipe.d_model)
        self.blocks = nn.ModuleList(Block(recipe) for _ in range(recipe.n_layer))
        self.norm = _norm(recipe, recipe.d_model)
        if not recipe.tied_embeddings:
            self.head = nn.Linear(recipe.d_model, vocab_size, bias=False)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Fills every parameter, each matrix from its own random stream, keyed by seed and name.

        So that two recipes with one seed start from the same numbers wherever their shapes agree: what is left
        between their results is the recipe.
        """
        std = self.recipe.init_std
        residual_std = std / math.sqrt(2 * len(self.blocks))
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:  # a norm starts as the identity
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            key = hashlib.sha256(f"{seed}:{name}".encode()).digest()
            generator = torch.Generator(parameter.device).manual_seed(int.from_bytes(key[:7], "big"))
            ends_in_the_residual = name.endswith(("attention.project.weight", "mlp.project.weight"))
            parameter.normal_(0.0, residual_std if ends_in_the_residual else std, generator=generator)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, by how it is trained: the blocks' matrices, embeddings, untied head, vectors."""
        return {
            "matrices": [p for p in self.blocks.parameters() if p.ndim >= 2],
            "embeddings": [p for name, p in self.named_parameters() if "embedding" in name],
            "head": [] if self.recipe.tied_embeddings else [self.get_parameter("head.weight")],
            "vectors": [p for p in self.parameters() if p.ndim < 2],
        }

    def stacks(self) -> dict[nn.Parameter, tuple[int, ...]]:
        """Queries, keys and values, each as a whole; of swiglu, the gate and the rest."""
        keys = self.recipe.kv_heads * self.recipe.head_width
        rows: dict[str, tuple[int, ...]] = {"query_key_value.weight": (self.recipe.d_model, keys, keys)}
        if self.recipe.activation == "swiglu":
            rows["expand.weight"] = (self.recipe.hidden, self.recipe.hidden)
        return {p: rows[end] for name, p in self.named_parameters() for end in rows if name.endswith(end)}

    def matmul_weights(self) -> int:
        """Weights that multiply each token: the blocks' matrices and the output layer."""
        return sum(p.numel() for p in self.groups()["matrices"]) + self.token_embedding.weight.numel()

    def compile_blocks(self) -> None:
        """One compiled block serves all layers, and whatever run of the same shape comes next in this process."""
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = MOST_SHAPES
        self.compiled = True
        for block in self.blocks:
            block.compile(dynamic=False)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The cost of each target in nats: int64 [rows, length] twice to float32 [rows, length].

        In training it includes what the recipe adds to the cost (z_loss).
        """
        logits = self.logits(inputs)
        z_loss = self.recipe.z_loss if self.training else 0.0
        vocab_size = len(self.token_embedding.weight)
        nats = nats_of_logits(logits, targets.flatten(), self.recipe.logit_softcap, z_loss, self.compiled, vocab_size)
        return nats.view_as(targets)

    def logits(self, inputs: Tensor) -> Tensor:
        """int64 [rows, length] to [rows * length, vocabulary] before softcap; bfloat16 unless the precision is fp32.

        Columns after the vocabulary's last are padding (see `padded_logits`).
        """
        length = inputs.shape[1]
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.autocast):
            x, angles = self.token_embedding(inputs), None
            if self.recipe.position == "learned":
                x = x + self.position_embedding.weight[:length]
            else:
                angles = rotary_angles(length, self.recipe.head_width, inputs.device)
            x = _dropped(self, x, self.recipe)
            for block in self.blocks:
                x = block(x, angles)
            x = self.norm(x).flatten(0, 1)
            weight = self.token_embedding.weight if self.recipe.tied_embeddings else self.head.weight
            if self.autocast:
                x, weight = x.bfloat16(), weight.bfloat16()
        return padded_logits(x, weight)


class Block(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.attention_norm = _norm(recipe, recipe.d_model)
        self.attention = Attention(recipe)
        self.mlp_norm = _norm(recipe, recipe.d_model)
        self.mlp = MLP(recipe)

    def forward(self, x: Tensor, angles: Tensor | None) -> Tensor:
        x = x + _dropped(self, self.attention(self.attention_norm(x), angles), self.recipe)
        return x + _dropped(self, self.mlp(self.mlp_norm(x)), self.recipe)


class Attention(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.query_key_value = _linear(
            recipe, recipe.d_model, (recipe.n_head + 2 * recipe.kv_heads) * recipe.head_width
        )
        if recipe.qk_norm:
            self.query_norm = _norm(recipe, recipe.head_width)
            self.key_norm = _norm(recipe, recipe.head_width)
        self.project = _linear(recipe, recipe.d_model, recipe.d_model)

    def forward(self, x: Tensor, angles: Tensor | None) -> Tensor:
        recipe = self.recipe
        heads = self.query_key_value(x).unflatten(-1, (-1, recipe.head_width)).transpose(1, 2)
        query, key, value = heads.split((recipe.n_head, recipe.kv_heads, recipe.kv_heads), 1)
        if recipe.qk_norm:
            # Autocast does this by itself for a LayerNorm, not for an RMSNorm.
            query, key = self.query_norm(query.float()), self.key_norm(key.float())
            query, key = query.to(value.dtype), key.to(value.dtype)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        attended = attend(query, key, value, recipe.dropout if self.training else 0.0)
        return self.project(attended.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.activation = recipe.activation
        self.expand = _linear(recipe, recipe.d_model, recipe.hidden * (2 if recipe.activation == "swiglu" else 1))
        self.project = _linear(recipe, recipe.hidden, recipe.d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x)
        if self.activation == "gelu":
            # The exact GELU: on a CPU the tanh approximation takes 2.6 times as long.
            x = F.gelu(x)
        elif self.activation == "relu2":
            x = F.relu(x).square()
        else:
            gate, up = x.chunk(2, -1)
            x = F.silu(gate) * up
        return self.project(x)


def _norm(recipe: Recipe, width: int) -> nn.Module:
    kind = nn.LayerNorm if recipe.norm == "layernorm" else nn.RMSNorm
    return kind(width, eps=NORM_EPSILON)


def _linear(recipe: Recipe, inputs: int, outputs: int) -> nn.Linear:
    kind = Float8Linear if recipe.precision == "fp8" else nn.Linear
    return kind(inputs, outputs, bias=False)


def _dropped(module: nn.Module, x: Tensor, recipe: Recipe) -> Tensor:
    # In this order, so that what is compiled for scoring does not depend on the recipe's dropout.
    return F.dropout(x, recipe.dropout) if module.training and recipe.dropout else x


def _require_multiples_of_16(recipe: Recipe) -> None:
    tokens = recipe.batch_size * recipe.seq_len
    keys = recipe.kv_heads * recipe.head_width
    widths = {"d_model": recipe.d_model, "d_ff": recipe.hidden, "n_kv_head * d_model / n_head": keys}
    for name, value in {**widths, "batch_size * seq_len": tokens}.items():
        if value % 16:
            raise ValueError(f"recipe: {name} is {value}; precision 'fp8' needs a multiple of 16")
