# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Where tensors on a CPU lie: what comes and goes on the heap (see loftr_ros.allocator), what stays on own pages."""

from __future__ import annotations

import mmap

import torch
from torch import Tensor


def apart(tensor: Tensor) -> Tensor:
    """A copy of a tensor on the CPU, contiguous, on pages of its own, which are given back with it.

    For what is kept for long: between the tensors that come and go it would leave gaps that fit none of them.
    """
    if tensor.numel() == 0:
        return tensor.clone()
    # Private: shared pages, which are mmap's default, cost five times as much.
    pages = mmap.mmap(-1, tensor.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=tensor.dtype, count=tensor.numel()).view(tensor.shape).copy_(tensor)
