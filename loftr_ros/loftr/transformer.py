# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Self- and cross-attention between the features of two images, with linear attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loftr_ros.loftr.linear import apply

_NARROW = 64  # channels


def linear_attention(
    query: Tensor, key: Tensor, value: Tensor, query_mask: Tensor | None = None, key_mask: Tensor | None = None
) -> Tensor:
    """Attention in time linear in the number of tokens (Katharopoulos et al., ICML 2020, equation 7, elu + 1).

    Args:
        query: [B, L, heads, D]; key, value: [B, S, heads, D].
        query_mask: [B, L] and key_mask: [B, S], False where a token is to be ignored.

    Returns:
        [B, L, heads, D]; 0 for ignored queries.
    """
    query, key = _positive(query), _positive(key)
    if key_mask is not None:
        key = key * key_mask[:, :, None, None]
    # Means instead of sums, in the numerator and the denominator: half precision has no room for sums.
    key = key.div_(key.shape[1])
    total = key.sum(dim=1).to(key.dtype)
    least = max(1e-6 / key.shape[1], torch.finfo(key.dtype).tiny)
    attend = _attend_with_blocks if _heads_are_better_together(query) else _attend
    message, normalizer = attend(query, key, value, total)
    message = message.div_((normalizer + least)[..., None])
    return message if query_mask is None else message * query_mask[:, :, None, None]


def _attend(query: Tensor, key: Tensor, value: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Numerator [B, L, heads, D] and denominator [B, L, heads] of the attention, for keys whose sum is `total`."""
    summary = torch.einsum("bshd,bshv->bhdv", key, value)
    return torch.einsum("blhd,bhdv->blhv", query, summary), torch.einsum("blhd,bhd->blh", query, total)


def _attend_with_blocks(query: Tensor, key: Tensor, value: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """As `_attend`, in products that treat all heads at once: the heads' summaries are blocks on the diagonal of one.

    That is as many times the arithmetic as there are heads, but a CPU takes longer to begin so many tiny products.
    """
    heads, width = query.shape[2:]
    mine = torch.eye(heads, dtype=key.dtype).repeat_interleave(width, dim=0)  # [heads * D, heads] whose channel it is
    summary = (key.flatten(2).transpose(1, 2) @ value.flatten(2)).mul_(mine @ mine.T)
    normalizer = query.flatten(2) @ (total.flatten(1)[:, :, None] * mine)
    return (query.flatten(2) @ summary).view(query.shape), normalizer


def _heads_are_better_together(query: Tensor) -> bool:
    """Whether those of queries [B, L, heads, D] are: on a CPU, where a batch has few channels."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or query.device.type != "cpu":
        return False  # first: a compiler may not know the size of the batch
    return query.shape[0] > 1 and query.shape[2] * query.shape[3] <= _NARROW


def _positive(x: Tensor) -> Tensor:
    """elu(x) + 1. On a CPU by way of powers of 2, which cost a fourth of torch's other exponentials."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.elu(x).add_(1)
    return x.clamp(max=0).mul_(math.log2(math.e)).exp2_().add_(x.relu())


class EncoderLayer(nn.Module):
    """One attention layer with its feed-forward network (LoFTR section 3.2, figure 3), official parameter names."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.merge = nn.Linear(dim, dim, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(2 * dim, 2 * dim, bias=False), nn.ReLU(inplace=True), nn.Linear(2 * dim, dim, bias=False)
        )
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, source: Tensor, x_mask: Tensor | None = None, source_mask: Tensor | None = None
    ) -> Tensor:
        """Tokens x [B, L, C] updated by what they attend to in source [B, S, C]."""
        query = apply(self.q_proj, x).unflatten(-1, (self.heads, -1))
        key = apply(self.k_proj, source).unflatten(-1, (self.heads, -1))
        value = apply(self.v_proj, source).unflatten(-1, (self.heads, -1))
        message = linear_attention(query, key, value, x_mask, source_mask).flatten(-2)
        message = self.norm1(apply(self.merge, message))
        first, relu, second = self.mlp
        message = apply(second, relu(apply(first, torch.cat([x, message], dim=-1))))
        return self.norm2(message).add_(x)


class Transformer(nn.Module):
    """A sequence of attention layers over the tokens of two images.

    Tokens attend to those of their own image in "self" layers, to those of the other in "cross" layers. A "center"
    layer, the last one, is a "cross" layer in which both images are as they were before, and of image 0 the middle
    token alone is updated and returned.

    Attributes:
        in_batches: self-attention treats both images in one batch, where they have the same size.
    """

    def __init__(self, dim: int, heads: int, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names
        self.in_batches = False
        self.layers = nn.ModuleList(EncoderLayer(dim, heads) for _ in names)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    @property
    def leading_self_layers(self) -> int:
        """How many layers come before those that look at both images."""
        return next((k for k, name in enumerate(self.names) if name != "self"), len(self.names))

    def alone(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply the leading self-attention layers to one image's tokens [B, L, C]."""
        for layer in self.layers[: self.leading_self_layers]:
            tokens = layer(tokens, tokens, mask, mask)
        return tokens

    def together(
        self, tokens0: Tensor, tokens1: Tensor, mask0: Tensor | None = None, mask1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Apply the other layers to both images' tokens [B, L, C] and [B, S, C], already through `alone`."""
        start = self.leading_self_layers
        in_batches = self.in_batches and tokens0.shape == tokens1.shape and (mask0 is None) == (mask1 is None)
        mask = torch.cat([mask0, mask1]) if in_batches and mask0 is not None and mask1 is not None else None
        for layer, name in zip(self.layers[start:], self.names[start:]):
            if name == "self" and in_batches:
                both = torch.cat([tokens0, tokens1])
                tokens0, tokens1 = layer(both, both, mask, mask).chunk(2)
            elif name == "self":
                tokens0 = layer(tokens0, tokens0, mask0, mask0)
                tokens1 = layer(tokens1, tokens1, mask1, mask1)
            elif name == "center":
                middle = slice(tokens0.shape[1] // 2, tokens0.shape[1] // 2 + 1)
                middle_mask = None if mask0 is None else mask0[:, middle]
                center = layer(tokens0[:, middle], tokens1, middle_mask, mask1)
                tokens0, tokens1 = center, layer(tokens1, tokens0, mask1, mask0)
            else:
                tokens0 = layer(tokens0, tokens1, mask0, mask1)
                tokens1 = layer(tokens1, tokens0, mask1, mask0)
        return tokens0, tokens1

    def forward(self, tokens0: Tensor, tokens1: Tensor) -> tuple[Tensor, Tensor]:
        return self.together(self.alone(tokens0), self.alone(tokens1))
