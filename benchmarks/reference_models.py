"""What our trainer is measured against: a GPT-2 written by hand, Hugging Face's, and the usual loop to train them.

Both compute the same function as the `torch` backend's default recipe and start from the same weights. Each comes with
the vocabulary's own number of logits, and padded to a multiple of HEAD_MULTIPLE, as whoever trains for speed has it
(GPT-2's 50257 to 50304): the head's product is as wide then, the loss is of the real ones alone, and the same.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.recipe import Recipe

Weights = dict[str, Tensor]  # as the `torch` backend names them
HEAD_MULTIPLE = 128

TOKENS = "token_embedding.weight"

# Ours on the left, Hugging Face's on the right; replaced in this order.
HUGGINGFACE_NAMES = {
    "token_embedding": "wte",
    "position_embedding": "wpe",
    "blocks": "h",
    "attention_norm": "ln_1",
    "mlp_norm": "ln_2",
    "attention.query_key_value": "attn.c_attn",
    "attention.project": "attn.c_proj",
    "mlp.expand": "mlp.c_fc",
    "mlp.project": "mlp.c_proj",
    "norm": "ln_f",
}


class PlainGPT(nn.Module):
    """A GPT-2 as a person writes it: fused attention, one matrix product a layer, cross-entropy on all logits."""

    def __init__(self, recipe: Recipe, vocab_size: int, weights: Weights, padded: bool) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.token_embedding = nn.Embedding(_rows(vocab_size, padded), recipe.d_model)
        self.position_embedding = nn.Embedding(recipe.seq_len, recipe.d_model)
        self.blocks = nn.ModuleList(PlainBlock(recipe) for _ in range(recipe.n_layer))
        self.norm = nn.LayerNorm(recipe.d_model)
        self.load_state_dict(weights | {TOKENS: _with_rows(weights[TOKENS], self.token_embedding.weight)})

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean cost in nats per token; inputs and targets are int64 [rows, length]."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        x = self.token_embedding(inputs) + self.position_embedding(positions)
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.token_embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1)[:, : self.vocab_size].float(), targets.flatten())


class PlainBlock(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(recipe.d_model)
        self.attention = PlainAttention(recipe)
        self.mlp_norm = nn.LayerNorm(recipe.d_model)
        self.mlp = PlainMLP(recipe)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class PlainAttention(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.n_head = recipe.n_head
        self.query_key_value = nn.Linear(recipe.d_model, 3 * recipe.d_model, bias=False)
        self.project = nn.Linear(recipe.d_model, recipe.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        query, key, value = (
            part.view(rows, length, self.n_head, width // self.n_head).transpose(1, 2)
            for part in self.query_key_value(x).split(width, dim=2)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.project(attended.transpose(1, 2).reshape(rows, length, width))


class PlainMLP(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.expand = nn.Linear(recipe.d_model, recipe.d_ff, bias=False)
        self.project = nn.Linear(recipe.d_ff, recipe.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.gelu(self.expand(x)))


class HuggingFaceGPT(nn.Module):
    """transformers' GPT2LMHeadModel with its own attention (sdpa) and its own loss."""

    def __init__(self, recipe: Recipe, vocab_size: int, weights: Weights, padded: bool) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel
        from transformers.loss.loss_utils import ForCausalLMLoss
        from transformers.pytorch_utils import Conv1D

        config = GPT2Config(
            vocab_size=_rows(vocab_size, padded),
            n_positions=recipe.seq_len,
            n_embd=recipe.d_model,
            n_layer=recipe.n_layer,
            n_head=recipe.n_head,
            n_inner=recipe.d_ff,
            activation_function="gelu",  # the exact one, as ours
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,  # as transformers' own Trainer sets it
            bos_token_id=None,
            eos_token_id=None,
        )
        self.model = GPT2LMHeadModel(config)
        self.model.loss_type = "ForCausalLM"  # what it takes anyway, after a warning

        def loss_of_real_logits(logits: Tensor, labels: Tensor, **others: Any) -> Tensor:
            others["vocab_size"] = vocab_size
            loss: Tensor = ForCausalLMLoss(logits[..., :vocab_size], labels, **others)
            return loss

        if padded:
            self.model.loss_function = loss_of_real_logits
        trunk = self.model.transformer
        matrices = {f"{name}.weight" for name, module in trunk.named_modules() if isinstance(module, Conv1D)}
        weights = weights | {TOKENS: _with_rows(weights[TOKENS], trunk.wte.weight)}
        renamed = {_huggingface_name(name): weight for name, weight in weights.items()}
        # Conv1D holds its matrix the other way round: [in, out].
        turned = {name: weight.t() if name in matrices else weight for name, weight in renamed.items()}
        missing, unexpected = trunk.load_state_dict(turned, strict=False)
        assert not unexpected and {name.replace(".bias", ".weight") for name in missing} == matrices
        # Ours has no biases in its matrix products. Held at zero, these leave the same function to be trained; their
        # addition is still computed, their gradients are not: to Hugging Face's advantage, by little.
        for module in trunk.modules():
            if isinstance(module, Conv1D):
                module.bias.requires_grad_(False).zero_()

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean cost in nats per token; inputs and targets are int64 [rows, length]."""
        # shift_labels: the targets are shifted already, and their last column is no input.
        return self.model(input_ids=inputs, labels=targets, shift_labels=targets).loss


REFERENCES: dict[str, Callable[[Recipe, int, Weights], nn.Module]] = {
    "huggingface": partial(HuggingFaceGPT, padded=False),
    "huggingface-padded": partial(HuggingFaceGPT, padded=True),
    "plain": partial(PlainGPT, padded=False),
    "plain-padded": partial(PlainGPT, padded=True),
}


def train_reference(
    model: nn.Module,
    recipe: Recipe,
    learning_rates: list[float],
    batches: Iterator[Tensor],
    steps_between_readings: int,
    report: Callable[[list[float]], None],
) -> None:
    """Takes one step for each learning rate, eagerly. report: called with the losses of the steps since its last call.

    batches: int64 [batch_size, seq_len + 1] on the model's device.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    # fused: as transformers' own Trainer has it.
    optimizer = torch.optim.AdamW(groups, betas=(recipe.beta1, recipe.beta2), fused=True)
    unread: list[Tensor] = []
    model.train()
    for step, lr in enumerate(learning_rates):
        for group in optimizer.param_groups:
            group["lr"] = lr
        batch = next(batches)
        inputs, targets = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = model(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, recipe.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        unread.append(loss.detach())
        if step == 0 or len(unread) == steps_between_readings or step + 1 == len(learning_rates):
            report(torch.stack(unread).tolist())
            unread.clear()


def _huggingface_name(name: str) -> str:
    for ours, theirs in HUGGINGFACE_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _rows(vocab_size: int, padded: bool) -> int:
    return vocab_size + (-vocab_size % HEAD_MULTIPLE if padded else 0)


def _with_rows(weight: Tensor, like: Tensor) -> Tensor:
    """With rows of zeros below, as many as the other has."""
    return F.pad(weight, (0, 0, 0, len(like) - len(weight)))
