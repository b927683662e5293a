# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The network as a GPU likes it: fewer and larger products, short numbers, the same answers but for rounding.

A GPU takes longer to begin a small kernel than to run it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loftr_ros.loftr.backbone import Backbone, BasicBlock
from loftr_ros.loftr.folding import pad_channels
from loftr_ros.loftr.model import LoFTR
from loftr_ros.loftr.transformer import EncoderLayer, Transformer

# Sums over all tokens, of numbers that may be ten each, stay in the range of half precision with it.
_SCALE = 2.0**-12
_ALIGNED = 8  # numbers


class FusedEncoderLayer(nn.Module):
    """An `EncoderLayer` for evaluation, whose heads are not separated: their products are blocks of one product.

    With K and V of all heads side by side, the block diagonal of K^T V holds the summaries of the heads (Katharopoulos
    et al., ICML 2020, equation 6). V has a column of ones for each head, so that its last columns are the sums of K.
    That is as many times the arithmetic as there are heads, in a fifth of the kernels.
    """

    blocks: Tensor

    def __init__(self, layer: EncoderLayer) -> None:
        super().__init__()
        dim, self.heads = layer.q_proj.in_features, layer.heads
        ones = -(-self.heads // _ALIGNED) * _ALIGNED
        weights = (layer.q_proj.weight, layer.k_proj.weight, _SCALE * layer.v_proj.weight)
        self.inputs = nn.Linear(dim, 3 * dim + ones)
        self.inputs.weight.data = torch.cat([*weights, weights[0].new_zeros(ones, dim)])
        self.inputs.bias.data = torch.cat([weights[0].new_zeros(3 * dim), weights[0].new_full((ones,), _SCALE)])
        self.merge, self.mlp, self.norm1, self.norm2 = layer.merge, layer.mlp, layer.norm1, layer.norm2
        head = torch.arange(dim, device=weights[0].device) * self.heads // dim
        column = torch.cat([head, torch.arange(ones, device=head.device)])
        self.register_buffer("blocks", (head[:, None] == column).to(weights[0].dtype), persistent=False)
        self.requires_grad_(False)

    def forward(
        self, x: Tensor, source: Tensor, x_mask: Tensor | None = None, source_mask: Tensor | None = None
    ) -> Tensor:
        """As `EncoderLayer.forward`."""
        dim = x.shape[-1]
        if x is source:
            projected = self.inputs(x)
            query_key, value = _positive(projected[..., : 2 * dim]), projected[..., 2 * dim :]
            query, key = query_key[..., :dim], query_key[..., dim:]
        else:
            query = _positive(F.linear(x, self.inputs.weight[:dim]))
            projected = F.linear(source, self.inputs.weight[dim:], self.inputs.bias[dim:])
            key, value = _positive(projected[..., :dim]), projected[..., dim:]
        if source_mask is not None:
            key = key * source_mask[..., None]
        message = query @ ((key.transpose(1, 2) @ value) * self.blocks)
        total = message[..., dim : dim + self.heads] + max(1e-6 * _SCALE, torch.finfo(x.dtype).tiny)
        message = (message[..., :dim].unflatten(-1, (self.heads, -1)) / total[..., None]).flatten(-2)
        if x_mask is not None:
            message = message * x_mask[..., None]
        message = self.norm1(self.merge(message))
        return self.norm2(self.mlp(torch.cat([x, message], dim=-1))).add_(x)


def _positive(x: Tensor) -> Tensor:
    return F.elu(x).add_(1)


class FusedConv(nn.Module):
    """A convolution and the ReLU after it, in one kernel where there is a GPU.

    Args:
        conv: with a bias.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """relu(conv(x) + shortcut)."""
        conv = self.conv
        if x.device.type != "cuda" or torch.version.hip is not None:  # AMD's GPUs have no cuDNN
            y = conv(x)
            return (y if shortcut is None else y + shortcut).relu_()
        how = (conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        if shortcut is None:
            return torch.cudnn_convolution_relu(x, conv.weight, *how)
        return torch.cudnn_convolution_add_relu(x, conv.weight, shortcut, 1.0, *how)


class FusedBlock(nn.Module):
    """A `BasicBlock` whose batch norms are folded."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.first, self.second, self.downsample = FusedConv(block.conv1), FusedConv(block.conv2), block.downsample

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x), x if self.downsample is None else self.downsample(x))


def suit_gpu(network: LoFTR, dtype: torch.dtype) -> None:
    """Change a network whose batch norms are folded, in place: for evaluation on a GPU, without autocast.

    All but the dual softmax of what is compared, the expectation and the second refinement is computed in `dtype`.
    """
    if dtype != torch.float32:
        pad_channels(network.backbone)
    _fuse_convolutions(network.backbone)
    _fuse_layers(network.loftr_coarse)  # not of the fine one: its windows are many and small
    network.loftr_coarse.in_batches = network.loftr_fine.in_batches = True
    for part in (network.backbone, network.loftr_coarse, network.fine_preprocess, network.loftr_fine):
        part.to(dtype)


def _fuse_layers(transformer: Transformer) -> None:
    for k, layer in enumerate(transformer.layers):
        assert isinstance(layer, EncoderLayer)
        transformer.layers[k] = FusedEncoderLayer(layer)


def _fuse_convolutions(backbone: Backbone) -> None:
    backbone.conv1, backbone.relu = FusedConv(backbone.conv1), nn.Identity()  # type: ignore[assignment]
    for blocks in (backbone.layer1, backbone.layer2, backbone.layer3):
        for k, block in enumerate(blocks):
            blocks[k] = FusedBlock(block)
