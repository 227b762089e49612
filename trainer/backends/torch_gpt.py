"""The GPT-2 style model in plain PyTorch, hand-written to be read in one sitting."""

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.backends import precisions
from trainer.backends.attention import causal_attention
from trainer.backends.float8 import Float8Linear
from trainer.backends.head import cost_in_nats
from trainer.recipe import Recipe

INIT_STD = 0.02


class TorchBackend:
    """Builds `GPT`."""

    def build(self, recipe: Recipe, vocab_size: int, device: torch.device, seed: int) -> "GPT":
        """Raises ValueError where the device or its 8-bit products cannot train the recipe."""
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
    """Token and position embeddings, `n_layer` pre-norm blocks, and a head tied to the token embedding."""

    def __init__(self, recipe: Recipe, vocab_size: int) -> None:
        super().__init__()
        self.autocast = recipe.precision != "fp32"
        self.token_embedding = nn.Embedding(vocab_size, recipe.d_model)
        self.position_embedding = nn.Embedding(recipe.seq_len, recipe.d_model)
        self.blocks = nn.ModuleList(Block(recipe) for _ in range(recipe.n_layer))
        self.norm = nn.LayerNorm(recipe.d_model)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Fills every parameter, each matrix from its own random stream, keyed by seed and name.

        So that two recipes with one seed start from the same numbers wherever their shapes agree: what is left
        between their results is the recipe.
        """
        residual_std = INIT_STD / math.sqrt(2 * len(self.blocks))
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:  # a norm starts as the identity
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            key = hashlib.sha256(f"{seed}:{name}".encode()).digest()
            generator = torch.Generator(parameter.device).manual_seed(int.from_bytes(key[:7], "big"))
            std = residual_std if name.endswith(("attention.project.weight", "mlp.project.weight")) else INIT_STD
            parameter.normal_(0.0, std, generator=generator)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The cost of each target in nats: int64 [rows, length] twice to float32 [rows, length]."""
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.autocast):
            x = self.token_embedding(inputs) + self.position_embedding.weight[: inputs.shape[1]]
            for block in self.blocks:
                x = block(x)
            x = self.norm(x).flatten(0, 1)
            weight = self.token_embedding.weight
            if self.autocast:
                x, weight = x.bfloat16(), weight.bfloat16()
        nats = cost_in_nats(x, weight, targets.flatten())
        return nats.view_as(targets)


class Block(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(recipe.d_model)
        self.attention = Attention(recipe)
        self.mlp_norm = nn.LayerNorm(recipe.d_model)
        self.mlp = MLP(recipe)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Attention(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.n_head = recipe.n_head
        self.query_key_value = _linear(recipe, recipe.d_model, 3 * recipe.d_model)
        self.project = _linear(recipe, recipe.d_model, recipe.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(causal_attention(self.query_key_value(x), self.n_head))


class MLP(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.expand = _linear(recipe, recipe.d_model, recipe.d_ff)
        self.project = _linear(recipe, recipe.d_ff, recipe.d_model)

    def forward(self, x: Tensor) -> Tensor:
        # The exact GELU: on a CPU the tanh approximation takes 2.6 times as long.
        return self.project(F.gelu(self.expand(x)))


def _linear(recipe: Recipe, inputs: int, outputs: int) -> nn.Linear:
    kind = Float8Linear if recipe.precision == "fp8" else nn.Linear
    return kind(inputs, outputs, bias=False)


def _require_multiples_of_16(recipe: Recipe) -> None:
    tokens = recipe.batch_size * recipe.seq_len
    for name, value in (("d_model", recipe.d_model), ("d_ff", recipe.d_ff), ("batch_size * seq_len", tokens)):
        if value % 16:
            raise ValueError(f"recipe: {name} is {value}; precision 'fp8' needs a multiple of 16")
