"""Writes a small Llama of transformers, with its byte-level BPE, as the GGUF that llama.cpp reads.

For the tests alone: convert_hf_to_gguf.py of llama.cpp is what converts real models.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_llama(folder: Path, path: Path) -> None:
    """folder: as save_pretrained leaves model and tokenizer; fp32, one file of weights, a head of its own."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    _add_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text()))
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((folder / "chat_template.jinja").read_text())
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, weights in load_file(folder / "model.safetensors").items():
        *block, known = _name(name)
        writer.add_tensor(".".join([*block, known, "weight"]), _rotated(weights, heads.get(known)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any]) -> None:
    marks = {each["content"] for each in tokenizer["added_tokens"]}
    vocabulary = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    kind = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([int(kind.CONTROL if token in marks else kind.NORMAL) for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])


def _name(name: str) -> list[str]:
    """model.layers.1.mlp.up_proj.weight -> blk, 1, ffn_up."""
    stem = name.removesuffix(".weight")
    if stem in NAMES:
        return [NAMES[stem]]
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return ["blk", layer, NAMES[part]]


def _rotated(weights: np.ndarray, heads: int | None) -> np.ndarray:
    """llama.cpp turns neighbours by an angle, transformers the two halves of a head."""
    if heads is None:
        return weights
    rows = weights.reshape(heads, 2, weights.shape[0] // heads // 2, weights.shape[1])
    return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(weights.shape))
