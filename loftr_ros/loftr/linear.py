# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Linear layers, by the fastest way the device has."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Smaller inputs and single threads do not reach oneDNN through a convolution.
_LEAST_NUMBERS = 20_480


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., C] times weight [D, C] transposed, plus bias [D]: [..., D].

    On a CPU torch gives single-precision products to MKL. With AVX-512 its code for processors that are not Intel's is
    half as fast as that of oneDNN, to which a 1x1 convolution goes; with AVX2 it is the faster one.
    """
    if not _through_onednn(x):
        return F.linear(x, weight, bias)
    image = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # channels last: no copy
    result = F.conv2d(image, weight[:, :, None, None], bias)
    return result.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def apply(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer's answer to x [..., C]."""
    return project(x, layer.weight, layer.bias)


def _through_onednn(x: Tensor) -> bool:
    return (
        not (torch.compiler.is_compiling() or torch.jit.is_tracing())  # they choose for themselves
        and x.device.type == "cpu"
        and not mkl_suffices()
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and x.numel() > _LEAST_NUMBERS
        and torch.get_num_threads() > 1
        and torch.backends.mkldnn.is_available()
    )


@cache
def mkl_suffices() -> bool:
    """Whether the CPU is one for which oneDNN has no better code than MKL, and MKL is there."""
    return torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX2"
