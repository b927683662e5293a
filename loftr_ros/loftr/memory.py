# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""How the C library hands memory back to the system, which costs time."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Let the process keep the memory that tensors free, as an allocator for GPUs does; False where it cannot be set.

    By default glibc gives a freed tensor's pages back at once, and the next one of its size gets them anew, cleared
    page by page. One arena: those of other threads cannot hold tensors of this size.
    """
    mallopt = _of_the_c_library("mallopt")
    if mallopt is None:
        return False
    kept = mallopt(_TRIM_THRESHOLD, _KEPT_BYTES) and mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
    return bool(kept and mallopt(_ARENA_MAX, 1))


def give_back_freed_memory() -> bool:
    """Give the pages that are free at present back to the system; False where there were none, or it cannot be done.

    The features of keyframes, which stay, lie scattered among the tensors that come and go, so that the gaps between
    them fit ever worse and the process grows for long. Now and then this costs nothing: 9 ms for 80 MB.
    """
    trim = _of_the_c_library("malloc_trim")
    return trim is not None and bool(trim(0))


def _of_the_c_library(name: str) -> Any:
    """A function of glibc; None elsewhere (musl and macOS have none of these)."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
