# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Where tensors on a CPU lie: what comes and goes on the heap (see loftr_ros.allocator), what stays on own pages."""

from __future__ import annotations

import mmap
import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

# Pages that no tensor lies on any more, a few more than one frame leaves behind; the oldest are given back.
_spare: deque[mmap.mmap] = deque(maxlen=12)


def apart(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A copy of a tensor on the CPU, contiguous, on pages of its own, which go to the next one of its size.

    For what is kept for long: between the tensors that come and go it would leave gaps that fit none of them.
    """
    dtype = dtype or tensor.dtype
    if tensor.numel() == 0:
        return tensor.to(dtype, copy=True)
    size = tensor.numel() * dtype.itemsize
    pages = _pages(size)
    holder = np.frombuffer(pages, np.uint8, size)  # lives as long as the tensor
    weakref.finalize(holder, _spare.append, pages).atexit = False
    return torch.from_numpy(holder).view(dtype).view(tensor.shape).copy_(tensor)


def release_spare_pages() -> None:
    """Give back the pages that are only kept for the next frame."""
    _spare.clear()


def _pages(size: int) -> mmap.mmap:
    """For so many bytes. New ones are cleared one by one when they are touched, at ten times the cost of a copy."""
    size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    for pages in list(_spare):
        if len(pages) == size:
            try:
                _spare.remove(pages)
            except ValueError:  # another thread has them
                continue
            return pages
    # Private: shared pages, which are mmap's default, cost five times as much.
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
