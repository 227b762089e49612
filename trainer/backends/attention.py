"""Causal attention and the rotation that tells it positions, by the fastest way that the device has."""

import torch
import torch.nn.functional as F
from torch import Tensor

# On a CPU torch's own fused kernel is slow for short sequences, above all in bf16: for 8 x 256 tokens, 4 heads of 32,
# forward and backward take 19 ms (fp32 14), plain matrix products of 128 queries at a time 7 ms (fp32 12).
QUERIES_AT_A_TIME = 128
LONGEST_PLAIN = 1024  # at 2048 there is nothing left to gain, and the scores take memory by the square

ROTARY_BASE = 10000.0


def attend(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
    """Each position sees itself and those before it.

    query [rows, n_head, length, width]; key and value [rows, kv_heads, length, width], each shared by as many query
    heads that follow each other as n_head / kv_heads; to the shape of query. dropout: of attention's weights.
    """
    group = query.shape[1] // key.shape[1]
    if query.device.type != "cpu" or query.shape[2] > LONGEST_PLAIN:
        return F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, enable_gqa=group > 1
        )
    if group > 1:
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    return _plain(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), dropout).view(query.shape)


def _plain(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """[batch, length, width] three times to the same shape; keys after the last query of a block are never read."""
    length = query.shape[1]
    future = torch.full((length, length), -torch.inf, dtype=query.dtype).triu(1)
    scale = query.shape[2] ** -0.5
    blocks = []
    for start in range(0, length, QUERIES_AT_A_TIME):
        end = min(start + QUERIES_AT_A_TIME, length)
        scores = torch.baddbmm(future[start:end, :end], query[:, start:end], key[:, :end].mT, alpha=scale)
        weights = scores.softmax(-1)
        if dropout:
            weights = F.dropout(weights, dropout)
        blocks.append(weights @ value[:, :end])
    return torch.cat(blocks, 1)


def rotary_angles(length: int, width: int, device: torch.device) -> Tensor:
    """Float32 [length, width]: by how much each position turns each pair of a head's numbers (RoFormer, Su 2021).

    The pair of number i is number i + width / 2, as in GPT-NeoX.
    """
    frequencies = ROTARY_BASE ** (-torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequencies
    return torch.cat((angles, angles), 1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """x [rows, heads, length, width] turned by angles [length, width]."""
    first, second = x.chunk(2, -1)
    return x * angles.cos().to(x.dtype) + torch.cat((-second, first), -1) * angles.sin().to(x.dtype)
