# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Batch norms folded into the convolutions before them: the same answers with fewer passes over the data."""

from __future__ import annotations

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
