"""Megatron-Core's GPT: with Transformer Engine's layers on a GPU that has it, with Megatron's local ones elsewhere."""

import atexit
import warnings
from collections.abc import Mapping

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.backends.head import VOCABULARY_MULTIPLE, nats_of_logits
from trainer.backends.torch_gpt import TorchBackend
from trainer.parallel import ALONE, Processes
from trainer.recipe import Recipe

with warnings.catch_warnings():
    # Which optional packages are missing is told once per file that would use them; no run here needs one of them.
    warnings.filterwarnings("ignore", message=".*Apex")
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import initialize_rng_tracker, model_parallel_cuda_manual_seed

    from trainer.backends.megatron_layers import Trunk

FP8_MULTIPLE = 16  # tokens in an 8-bit product

# The torch backend's names and Megatron's, within a block and outside.
BLOCK_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.query_key_value": "self_attention.linear_qkv",
    "attention.query_norm": "self_attention.q_layernorm",
    "attention.key_norm": "self_attention.k_layernorm",
    "attention.project": "self_attention.linear_proj",
    "mlp_norm": "pre_mlp_layernorm",
    "mlp.expand": "mlp.linear_fc1",
    "mlp.project": "mlp.linear_fc2",
}
OTHER_NAMES = {
    "token_embedding": "embedding.word_embeddings",
    "position_embedding": "embedding.position_embeddings",
    "norm": "decoder.final_layernorm",
    "head": "output_layer",
}
# Transformer Engine has these norms in the linear layer that follows.
FUSED_NORMS = {"attention_norm": "self_attention.linear_qkv", "mlp_norm": "mlp.linear_fc1"}


class MegatronBackend:
    """Builds `MegatronGPT`."""

    def build(
        self, recipe: Recipe, vocab_size: int, device: torch.device, seed: int, processes: Processes = ALONE
    ) -> "MegatronGPT":
        """Starts from the weights that the torch backend starts from. Raises ValueError where it would, and for
        precision fp8 without Transformer Engine, and for what cannot be shared among as many processes."""
        _require_shareable(recipe, processes.tensor)
        start = TorchBackend().build(recipe, vocab_size, device, seed)
        fused = uses_transformer_engine(recipe, device)
        _start_processes(processes)
        _forget_earlier_runs(device, seed, fused)
        model = MegatronGPT(recipe, vocab_size, device, fused, processes)
        model.load(dict(start.named_parameters()))
        return model


class MegatronGPT(nn.Module):
    """`GPTModel` behind the trainer's protocol. Parameters are float32; bf16 products are autocast's, as in `torch`."""

    def __init__(
        self, recipe: Recipe, vocab_size: int, device: torch.device, fused: bool, processes: Processes = ALONE
    ) -> None:
        """fused: with Transformer Engine's layers. Weights are left undefined: `load` them."""
        super().__init__()
        self.recipe, self.vocab_size = recipe, vocab_size
        self.fused, self.processes = fused, processes
        self.autocast = recipe.precision != "fp32"
        # As Megatron does it, in the weights; those of tokens that do not exist are 0, and so is their gradient.
        self.added_tokens = -vocab_size % (VOCABULARY_MULTIPLE * processes.tensor)
        with torch.device(device):
            self.gpt = Trunk(recipe, vocab_size + self.added_tokens, device, fused, processes.tensor)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Takes the weights of a torch `GPT` of the same recipe and vocabulary, by that model's names.

        The one place that knows how Megatron names, orders and shares them.
        """
        left = dict(self.gpt.named_parameters())
        for name, weight in weights.items():
            parameter = left.pop(_megatron_name(name, self.fused))
            parameter.numbers_in_whole = weight.numel()
            if name.endswith("query_key_value.weight"):
                weight = _by_key_head(weight, self.recipe)
            if name.endswith("expand.weight") and self.recipe.activation == "swiglu":
                weight = _by_process(weight, self.processes.tensor)
            if name in ("token_embedding.weight", "head.weight"):
                weight = F.pad(weight, (0, 0, 0, self.added_tokens))
            whole = tuple(weight.shape)
            for dimension, size in enumerate(parameter.shape):
                if size < weight.shape[dimension]:
                    weight = weight.narrow(dimension, self.processes.tensor_rank * size, size)
            parameter.copy_(weight)
            parameter.tensor_model_parallel = tuple(parameter.shape) != whole
            if self.processes.tensor > 1 and name.endswith(
                ("query_norm.weight", "query_norm.bias", "key_norm.weight", "key_norm.bias")
            ):
                parameter.register_hook(self.processes.sum_of_shards)
        assert not left, f"no weights for {', '.join(left)}"

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, by how it is trained: the blocks' matrices, embeddings, untied head, vectors."""
        return {
            "matrices": [p for p in self.gpt.decoder.parameters() if p.ndim >= 2],
            "embeddings": list(self.gpt.embedding.parameters()),
            "head": list(self.gpt.output_layer.parameters()),
            "vectors": [p for p in self.gpt.decoder.parameters() if p.ndim < 2],
        }

    def stacks(self) -> dict[nn.Parameter, tuple[int, ...]]:
        """Of each key head its queries, its key, its value (see `load`); of swiglu, the gate and the rest."""
        recipe = self.recipe
        queries = recipe.n_head // recipe.kv_heads * recipe.head_width
        rows: dict[str, tuple[int, ...]] = {"linear_qkv.weight": (queries, recipe.head_width, recipe.head_width)}
        if recipe.activation == "swiglu":
            rows["linear_fc1.weight"] = (recipe.hidden, recipe.hidden)
        return {p: rows[end] for name, p in self.gpt.named_parameters() for end in rows if name.endswith(end)}

    def matmul_weights(self) -> int:
        """Weights that multiply each token: the blocks' matrices and the output layer."""
        blocks = sum(p.numel() for p in self.groups()["matrices"]) * self.processes.tensor
        return blocks + self.vocab_size * self.recipe.d_model

    def compile_blocks(self) -> None:
        """Raises ValueError."""
        raise ValueError("compile: backend 'megatron' is not compiled; set compile to false, or backend to 'torch'")

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The cost of each target in nats: int64 [rows, length] twice to float32 [rows, length].

        In training it includes what the recipe adds to the cost (z_loss).
        """
        rows, length = inputs.shape
        if self.recipe.precision == "fp8" and inputs.numel() % FP8_MULTIPLE:  # in scoring; in training it is refused
            added = (0, 0, 0, -rows % FP8_MULTIPLE)
            inputs, targets = F.pad(inputs, added), F.pad(targets, added)
        z_loss = self.recipe.z_loss if self.training else 0.0
        # Turning the targets round costs less than turning the logits.
        nats = nats_of_logits(
            self.logits(inputs),
            targets.t().flatten(),
            self.recipe.logit_softcap,
            z_loss,
            vocab_size=self.vocab_size,
        )
        return nats.view(length, -1).t()[:rows]

    def logits(self, inputs: Tensor) -> Tensor:
        """int64 [rows, length] to [length * rows, vocabulary], bfloat16 unless the precision is fp32; before softcap.

        Megatron's order: the tokens of one position follow each other. Columns after the vocabulary's last are padding.
        """
        # One row of positions serves all: the lookup's backward pass would add them up one by one.
        positions = torch.arange(inputs.shape[1], device=inputs.device)[None]
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.autocast):
            x = self.gpt(inputs, positions, attention_mask=None)
        weight = self._output_weight()
        if self.autocast:  # by hand: on a CPU, autocast does not reach into this layer's own backward pass
            x, weight = x.bfloat16(), weight.bfloat16()
        logits = self.processes.whole(self.gpt.output_layer(x, weight=weight)[0])
        return logits.flatten(0, 1)

    def _output_weight(self) -> Tensor:
        tied = self.recipe.tied_embeddings
        weight: Tensor = self.gpt.embedding.word_embeddings.weight if tied else self.gpt.output_layer.weight
        return weight


def uses_transformer_engine(recipe: Recipe, device: torch.device) -> bool:
    """Whether the layers are Transformer Engine's. Raises ValueError for precision fp8 without it.

    Not for fp32: its products would be in TF32.
    """
    if device.type != "cuda" or recipe.precision == "fp32":
        return False
    try:
        import transformer_engine.pytorch  # noqa: F401  only whether it can be
    except ModuleNotFoundError as error:
        missing = str(error)
    except Exception as error:  # installed but broken: what it raises depends on what it misses
        missing = str(error)
        warnings.warn(f"Transformer Engine cannot be loaded, so local layers are used: {missing}", stacklevel=2)
    else:
        return True
    if recipe.precision == "fp8":
        raise ValueError(f"recipe: precision 'fp8' with backend 'megatron' needs Transformer Engine: {missing}")
    return False


def _megatron_name(name: str, fused: bool) -> str:
    """Of a parameter of the torch `GPT`."""
    module, _, kind = name.rpartition(".")
    if not module.startswith("blocks."):
        return f"{OTHER_NAMES[module]}.{kind}"
    _, index, part = module.split(".", 2)
    if fused and part in FUSED_NORMS:
        return f"decoder.layers.{index}.{FUSED_NORMS[part]}.layer_norm_{kind}"
    return f"decoder.layers.{index}.{BLOCK_NAMES[part]}.{kind}"


def _by_key_head(weight: Tensor, recipe: Recipe) -> Tensor:
    """Rows of all queries, all keys, all values, to rows of each key head: its queries, its key, its value."""
    heads = weight.unflatten(0, (-1, recipe.head_width))
    query, key, value = heads.split((recipe.n_head, recipe.kv_heads, recipe.kv_heads))
    query = query.unflatten(0, (recipe.kv_heads, -1))
    return torch.cat((query, key[:, None], value[:, None]), 1).flatten(0, 2)


def _by_process(weight: Tensor, processes: int) -> Tensor:
    """Rows of the whole gate and the whole rest, to rows of each process's gate and rest."""
    return weight.unflatten(0, (2, processes, -1)).transpose(0, 1).flatten(0, 2)


def _require_shareable(recipe: Recipe, processes: int) -> None:
    if processes == 1:
        return
    shared = {"n_head": recipe.n_head, "n_kv_head": recipe.kv_heads, "d_ff": recipe.hidden}
    for name, value in shared.items():
        if value % processes:
            raise ValueError(f"recipe: {name} is {value}; it must be a multiple of tensor_parallel ({processes})")
    if recipe.optimizer == "muon":
        raise ValueError("recipe: optimizer 'muon' needs whole matrices; tensor_parallel must be 1 for it")


def _start_processes(processes: Processes) -> None:
    """The process groups that Megatron will not do without: of this process alone where torchrun made none."""
    if not dist.is_initialized():
        dist.init_process_group(store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]  # torch hides it from mypy
        atexit.register(dist.destroy_process_group)
    if parallel_state.model_parallel_is_initialized():
        if parallel_state.get_tensor_model_parallel_world_size() == processes.tensor:
            return
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(processes.tensor)


def _forget_earlier_runs(device: torch.device, seed: int, fused: bool) -> None:
    """Starts anew what lives as long as the process: Megatron's random numbers, Transformer Engine's 8-bit scales."""
    if device.type == "cuda":
        model_parallel_cuda_manual_seed(seed, force_reset_rng=True)
    else:
        initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)  # one that does nothing
    if fused:
        from transformer_engine.pytorch.quantization import FP8GlobalStateManager

        FP8GlobalStateManager.reset()
