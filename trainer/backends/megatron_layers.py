"""Megatron's GPT put together for the trainer: its configuration, and the parts that are exchanged in its layers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    copy_to_tensor_model_parallel_region,
)
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.torch_norm import WrappedTorchNorm
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from torch import Tensor, nn

from trainer.backends.attention import attend
from trainer.backends.torch_gpt import NORM_EPSILON
from trainer.recipe import Recipe


class Trunk(GPTModel):  # type: ignore[misc]  # Megatron has no types
    """GPTModel up to its output layer: to hidden states [length, rows, d_model]."""

    def __init__(self, recipe: Recipe, vocab_size: int, device: torch.device, fused: bool, processes: int) -> None:
        """vocab_size: a multiple of `processes`, which share each matrix. fused: Transformer Engine's layers."""
        config = _config(recipe, device, fused, processes)
        super().__init__(
            config,
            (fused_layers if fused else local_layers)(config),
            vocab_size,
            max_sequence_length=recipe.seq_len,
            parallel_output=True,
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


class _HeadRMSNorm(nn.RMSNorm):
    """In float32, as autocast does a LayerNorm but not an RMSNorm."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float) -> None:
        super().__init__(hidden_size, eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


class _TorchProduct:
    """Megatron's linear layers with torch's product: autocast reaches into its backward pass on a CPU too."""

    def _forward_impl(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, allreduce_dgrad: bool, **_: Any
    ) -> Tensor:
        if allreduce_dgrad:  # each process's part of a matrix knows only its part of the input's gradient
            input = copy_to_tensor_model_parallel_region(input)
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


def _config(recipe: Recipe, device: torch.device, fused: bool, processes: int) -> TransformerConfig:
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
        tensor_model_parallel_size=processes,
        apply_rope_fusion=fused and recipe.position == "rope",
        perform_initialization=False,
        use_cpu_initialization=device.type == "cpu",
        cuda_graph_scope=[],  # its default is deprecated
        # On a CPU it would only be slower. Transformer Engine's part of it: trainer/repeatable.py.
        deterministic_mode=device.type == "cuda" and torch.are_deterministic_algorithms_enabled(),
        **eight_bits,
    )


def _squared_relu(x: Tensor) -> Tensor:
    return F.relu(x).square()


def local_layers(config: TransformerConfig) -> TransformerBlockSubmodules:
    layer = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization=config.normalization)
    parts = layer.submodules
    parts.input_layernorm = parts.pre_mlp_layernorm = WrappedTorchNorm
    parts.self_attn_bda = parts.mlp_bda = _residual_addition
    attention = parts.self_attention.submodules
    attention.linear_qkv, attention.linear_proj = _ColumnLinear, _RowLinear
    attention.core_attention = _CoreAttention
    if config.qk_layernorm:
        rms = config.normalization == "RMSNorm"
        attention.q_layernorm = attention.k_layernorm = _HeadRMSNorm if rms else WrappedTorchNorm
    parts.mlp.submodules.linear_fc1, parts.mlp.submodules.linear_fc2 = _ColumnLinear, _RowLinear
    return _block(layer, WrappedTorchNorm, config)


def fused_layers(config: TransformerConfig) -> TransformerBlockSubmodules:
    from megatron.core.extensions.transformer_engine import TENorm

    layer = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
    layer.submodules.self_attn_bda = layer.submodules.mlp_bda = _residual_addition
    return _block(layer, TENorm, config)


def _block(layer: ModuleSpec, norm: type, config: TransformerConfig) -> TransformerBlockSubmodules:
    return TransformerBlockSubmodules(layer_specs=[layer] * config.num_layers, layer_norm=norm)
