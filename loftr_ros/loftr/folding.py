# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Batch norms folded into the convolutions before them: the same answers with fewer passes over the data."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(module: nn.Module) -> None:
    """Replace each pair of a convolution and its batch norm, in place and for evaluation only.

    Pairs are neighbours in an nn.Sequential, and the attributes `conv<N>` and `bn<N>` of one module.
    """
    for parent in module.modules():
        children = dict(parent.named_children())
        for name, child in children.items():
            norm = _norm_of(name, isinstance(parent, nn.Sequential))
            if isinstance(child, nn.Conv2d) and isinstance(children.get(norm), nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(child, children[norm]))
                setattr(parent, norm, nn.Identity())


def _norm_of(name: str, in_sequence: bool) -> str:
    return str(int(name) + 1) if in_sequence and name.isdigit() else name.replace("conv", "bn")


def pad_channels(module: nn.Module, multiple: int = 8) -> None:
    """Give each convolution channels that are a multiple of a number, in place; the new ones are 0 everywhere.

    Matrix units multiply half precision in pieces of eight. Of the results only those of convolutions with another
    number of outputs are wider; a picture, which is an input of one channel, stays as it is.
    """
    for conv in module.modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        outputs = -conv.out_channels % multiple
        inputs = -conv.in_channels % multiple if conv.in_channels > 1 else 0
        conv.weight = nn.Parameter(F.pad(conv.weight.data, (0, 0, 0, 0, 0, inputs, 0, outputs)), requires_grad=False)
        if conv.bias is not None:
            conv.bias = nn.Parameter(F.pad(conv.bias.data, (0, outputs)), requires_grad=False)
        conv.out_channels, conv.in_channels = conv.out_channels + outputs, conv.in_channels + inputs
