# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Settings of glibc's allocator. Nothing is imported here that could start a thread."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 1 << 30


def use_one_arena() -> bool:
    """Let all threads share one heap; False where that cannot be set. To be called before there is a second thread.

    Otherwise each has heaps of 64 MB, which come and go with the largest tensors. glibc fixes the number of arenas when
    the first thread asks for one.
    """
    mallopt = _of_the_c_library("mallopt")
    return mallopt is not None and bool(mallopt(_ARENA_MAX, 1))


def keep_freed_memory() -> bool:
    """Let the process keep the memory that tensors free, as an allocator for GPUs does; False where it cannot be set.

    By default glibc gives a freed tensor's pages back at once, and the next one of its size gets them anew, cleared
    page by page. What is kept for long must go elsewhere (loftr_ros.loftr.memory.apart), or the process grows.
    """
    mallopt = _of_the_c_library("mallopt")
    if mallopt is None:
        return False
    kept = mallopt(_TRIM_THRESHOLD, _KEPT_BYTES) and mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
    return bool(kept) and use_one_arena()


def _of_the_c_library(name: str) -> Any:
    """A function of glibc; None elsewhere (musl and macOS have none of these)."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
