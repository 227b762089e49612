"""Megatron-Core's GPT: with Transformer Engine's layers on a GPU that has it, with Megatron's local ones elsewhere."""

import atexit
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.backends.attention import attend
from trainer.backends.head import nats_of_logits
from trainer.backends.torch_gpt import NORM_EPSILON, TorchBackend
from trainer.parallel import ALONE, Processes
from trainer.recipe import Recipe

with warnings.catch_warnings():
    # Which optional packages are missing is told once per file that would use them; no run here needs one of them.
    warnings.filterwarnings("ignore", message=".*Apex")
    from megatron.core import parallel_state
    from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import (
        get_gpt_layer_local_spec,
        get_gpt_layer_with_transformer_engine_spec,
    )
    from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
    from megatron.core.tensor_parallel.random import initialize_rng_tracker, model_parallel_cuda_manual_seed
    from megatron.core.transformer import ModuleSpec, TransformerConfig
    from megatron.core.transformer.torch_norm import WrappedTorchNorm
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

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
        precision fp8 without Transformer Engine."""
        if processes.tensor > 1:
            raise ValueError(f"tensor_parallel is {processes.tensor}: backend 'megatron' shares no matrices")
        start = TorchBackend().build(recipe, vocab_size, device, seed)
        fused = uses_transformer_engine(recipe, device)
        _start_processes()
        _forget_earlier_runs(device, seed, fused)
        model = MegatronGPT(recipe, vocab_size, device, fused)
        model.load(dict(start.named_parameters()))
        return model


class MegatronGPT(nn.Module):
    """`GPTModel` behind the trainer's protocol. Parameters are float32; bf16 products are autocast's, as in `torch`."""

    def __init__(self, recipe: Recipe, vocab_size: int, device: torch.device, fused: bool) -> None:
        """fused: with Transformer Engine's layers. Weights are left undefined: `load` them."""
        super().__init__()
        self.recipe = recipe
        self.fused = fused
        self.autocast = recipe.precision != "fp32"
        with torch.device(device):
            self.gpt = _Trunk(recipe, vocab_size, device, fused)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Takes the weights of a torch `GPT` of the same recipe and vocabulary, by that model's names.

        The one place that knows how Megatron names and orders them, and so where a shard would be cut out.
        """
        left = dict(self.gpt.named_parameters())
        for name, weight in weights.items():
            if name.endswith("query_key_value.weight"):
                weight = _by_key_head(weight, self.recipe)
            left.pop(_megatron_name(name, self.fused)).copy_(weight)
        assert not left, f"no weights for {', '.join(left)}"

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, by how it is trained: the blocks' matrices, embeddings, untied head, vectors."""
        return {
            "matrices": [p for p in self.gpt.decoder.parameters() if p.ndim >= 2],
            "embeddings": list(self.gpt.embedding.parameters()),
            "head": list(self.gpt.output_layer.parameters()),
            "vectors": [p for p in self.gpt.decoder.parameters() if p.ndim < 2],
        }

    def matmul_weights(self) -> int:
        """Weights that multiply each token: the blocks' matrices and the output layer."""
        return sum(p.numel() for p in self.groups()["matrices"]) + self._output_weight().numel()

    def compile_blocks(self) -> None:
        """Raises ValueError."""
        raise ValueError("compile: backend 'megatron' is not compiled; set compile to false, or backend to 'torch'")

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The cost of each target in nats: int64 [rows, length] twice to float32 [rows, length].

        In training it includes what the recipe adds to the cost (z_loss).
        """
        rows, length = inputs.shape
        if self.recipe.precision == "fp8" and inputs.numel() % FP8_MULTIPLE:  # a short last window in scoring
            added = (0, 0, 0, -rows % FP8_MULTIPLE)
            inputs, targets = F.pad(inputs, added), F.pad(targets, added)
        z_loss = self.recipe.z_loss if self.training else 0.0
        # Turning the targets round costs less than turning the logits.
        nats = nats_of_logits(self.logits(inputs), targets.t().flatten(), self.recipe.logit_softcap, z_loss)
        return nats.view(length, -1).t()[:rows]

    def logits(self, inputs: Tensor) -> Tensor:
        """int64 [rows, length] to [length * rows, vocabulary], bfloat16 unless the precision is fp32; before softcap.

        Megatron's order: the tokens of one position follow each other.
        """
        # One row of positions serves all: the lookup's backward pass would add them up one by one.
        positions = torch.arange(inputs.shape[1], device=inputs.device)[None]
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.autocast):
            x = self.gpt(inputs, positions, attention_mask=None)
        weight = self._output_weight()
        if self.autocast:  # by hand: on a CPU, autocast does not reach into this layer's own backward pass
            x, weight = x.bfloat16(), weight.bfloat16()
        logits: Tensor = self.gpt.output_layer(x, weight=weight)[0]
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
        import transformer_engine.pytorch  # noqa: F401
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


class _Trunk(GPTModel):  # type: ignore[misc]
    """GPTModel up to its output layer: to hidden states [length, rows, d_model]."""

    def __init__(self, recipe: Recipe, vocab_size: int, device: torch.device, fused: bool) -> None:
        config = _config(recipe, device, fused)
        super().__init__(
            config,
            (_fused_layers if fused else _local_layers)(config),
            vocab_size,
            max_sequence_length=recipe.seq_len,
            parallel_output=False,
            share_embeddings_and_output_weights=recipe.tied_embeddings,
            position_embedding_type={"learned": "learned_absolute", "rope": "rope"}[recipe.position],
        )
        if recipe.position == "rope" and device.type == "cpu":
            self.rotary_pos_emb = _RotaryEmbedding(recipe.head_width, rotary_percent=1.0, use_cpu_initialization=True)

    def _postprocess(self, hidden_states: Tensor, **_: Any) -> Tensor:
        return hidden_states


class _RotaryEmbedding(RotaryEmbedding):  # type: ignore[misc]
    """Megatron's, which would move itself to a GPU."""

    def get_emb(self, max_seq_len: int, offset: int = 0) -> Tensor:
        angles = self.get_freqs_non_repeated(max_seq_len, offset)
        return torch.cat((angles, angles), -1)[:, None, None]


class _CoreAttention(nn.Module):
    """The trainer's own attention in the place of Megatron's, which asks for a GPU and holds all scores."""

    def __init__(self, config: TransformerConfig, **_: Any) -> None:
        super().__init__()
        self.dropout = config.attention_dropout

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        """[length, rows, heads, width] three times to [length, rows, heads * width]."""
        query, key, value = (x.to(value.dtype).permute(1, 2, 0, 3) for x in (query, key, value))
        if value.device.type == "cpu":  # else each of attention's products would copy them again
            query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        attended = attend(query, key, value, self.dropout if self.training else 0.0)
        return attended.permute(2, 0, 1, 3).flatten(2)


class _TorchProduct:
    """Megatron's linear layers with torch's product: autocast reaches into its backward pass on a CPU too."""

    def _forward_impl(self, input: Tensor, weight: Tensor, bias: Tensor | None, **_: Any) -> Tensor:
        return F.linear(input, weight, bias)


class _ColumnLinear(_TorchProduct, ColumnParallelLinear):  # type: ignore[misc]
    pass


class _RowLinear(_TorchProduct, RowParallelLinear):  # type: ignore[misc]
    pass


def _residual_addition(training: bool, fused: bool) -> Callable[..., Tensor]:
    """Megatron's bias-dropout-add, but that the residual stream stays float32 under autocast."""
    return partial(_add, training)


def _add(training: bool, branch: tuple[Tensor, None], residual: Tensor, dropout: float) -> Tensor:
    return residual + (F.dropout(branch[0], dropout) if training and dropout else branch[0])


def _config(recipe: Recipe, device: torch.device, fused: bool) -> TransformerConfig:
    eight_bits: dict[str, Any] = {}
    if recipe.precision == "fp8":
        eight_bits = {
            "fp8": "hybrid",
            "fp8_recipe": "delayed",
            "fp8_amax_history_len": 16,
            "fp8_amax_compute_algo": "max",
            # 8-bit copies of the weights are made in every pass: kept ones would miss what the optimizer did.
            "disable_parameter_transpose_cache": True,
        }
    return TransformerConfig(
        num_layers=recipe.n_layer,
        hidden_size=recipe.d_model,
        num_attention_heads=recipe.n_head,
        num_query_groups=recipe.kv_heads,
        kv_channels=recipe.head_width,
        ffn_hidden_size=recipe.hidden,
        normalization={"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}[recipe.norm],
        layernorm_epsilon=NORM_EPSILON,
        qk_layernorm=recipe.qk_norm,
        # Megatron's own squared ReLU waits for a compiler.
        activation_func={"gelu": F.gelu, "relu2": _squared_relu, "swiglu": F.silu}[recipe.activation],
        gated_linear_unit=recipe.activation == "swiglu",
        add_bias_linear=False,
        hidden_dropout=recipe.dropout,
        attention_dropout=recipe.dropout,
        apply_rope_fusion=fused and recipe.position == "rope",
        perform_initialization=False,
        use_cpu_initialization=device.type == "cpu",
        cuda_graph_scope=[],  # its default is deprecated
        **eight_bits,
    )


def _squared_relu(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _local_layers(config: TransformerConfig) -> TransformerBlockSubmodules:
    layer = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization=config.normalization)
    parts = layer.submodules
    parts.input_layernorm = parts.pre_mlp_layernorm = WrappedTorchNorm
    parts.self_attn_bda = parts.mlp_bda = _residual_addition
    attention = parts.self_attention.submodules
    attention.linear_qkv, attention.linear_proj = _ColumnLinear, _RowLinear
    attention.core_attention = _CoreAttention
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = WrappedTorchNorm
    parts.mlp.submodules.linear_fc1, parts.mlp.submodules.linear_fc2 = _ColumnLinear, _RowLinear
    return _block(layer, WrappedTorchNorm, config)


def _fused_layers(config: TransformerConfig) -> TransformerBlockSubmodules:
    from megatron.core.extensions.transformer_engine import TENorm

    layer = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
    layer.submodules.self_attn_bda = layer.submodules.mlp_bda = _residual_addition
    return _block(layer, TENorm, config)


def _block(layer: ModuleSpec, norm: type, config: TransformerConfig) -> TransformerBlockSubmodules:
    return TransformerBlockSubmodules(layer_specs=[layer] * config.num_layers, layer_norm=norm)


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


def _start_processes() -> None:
    """The process group that Megatron will not do without, here of this process alone, once in its life.

    Tensor and data parallel sizes of a run of several processes would be told to Megatron here.
    """
    if not dist.is_initialized():
        dist.init_process_group(store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        atexit.register(dist.destroy_process_group)
    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel()


def _forget_earlier_runs(device: torch.device, seed: int, fused: bool) -> None:
    """Starts anew what lives as long as the process: Megatron's random numbers, Transformer Engine's 8-bit scales."""
    if device.type == "cuda":
        model_parallel_cuda_manual_seed(seed, force_reset_rng=True)
    else:
        initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)  # one that does nothing
    if fused:
        from transformer_engine.pytorch.quantization import FP8GlobalStateManager

        FP8GlobalStateManager.reset()
