# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Where tensors on a CPU lie: what comes and goes in memory that the process keeps, what stays on pages of its own."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import torch
from torch import Tensor

# mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Let the process keep the memory that tensors free, as an allocator for GPUs does; False where it cannot be set.

    By default glibc gives a freed tensor's pages back at once, and the next one of its size gets them anew, cleared
    page by page. One arena: those of other threads cannot hold tensors of this size. What is kept for long must go
    elsewhere (`apart`), or the process grows for hours.
    """
    mallopt = _of_the_c_library("mallopt")
    if mallopt is None:
        return False
    kept = mallopt(_TRIM_THRESHOLD, _KEPT_BYTES) and mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
    return bool(kept and mallopt(_ARENA_MAX, 1))


def apart(tensor: Tensor) -> Tensor:
    """A copy of a tensor on the CPU, contiguous, on pages of its own, which are given back with it.

    For what is kept for long: between the tensors that come and go it would leave gaps that fit none of them.
    """
    if tensor.numel() == 0:
        return tensor.clone()
    # Private: shared pages, which are mmap's default, cost five times as much.
    pages = mmap.mmap(-1, tensor.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=tensor.dtype, count=tensor.numel()).view(tensor.shape).copy_(tensor)


def _of_the_c_library(name: str) -> Any:
    """A function of glibc; None elsewhere (musl and macOS have none of these)."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
