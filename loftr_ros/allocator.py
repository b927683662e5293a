# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Settings of glibc's allocator. Nothing is imported here that could start a thread."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 1 << 30
_RESERVED_BYTES = 96 << 20  # beside 64, the heap of `tiny` still grew by 10 in the fourth minute


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


def touch_reserve() -> bool:
    """Take and free a reserve of the heap, as real-time processes do once they are warm; False where that fails.

    A piece of the heap that fits no longer then finds its place in pages that are there already, instead of new ones in
    the middle of a drive. Where freed memory is not kept (`keep_freed_memory`), nothing stays of it.
    """
    malloc, free = _of_the_c_library("malloc"), _of_the_c_library("free")
    if malloc is None or free is None:
        return False
    malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    address = malloc(_RESERVED_BYTES)
    if not address:
        return False
    ctypes.memset(address, 0, _RESERVED_BYTES)
    free(address)
    return True


def _of_the_c_library(name: str) -> Any:
    """A function of glibc; None elsewhere (musl and macOS have none of these)."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
