"""How the C library hands memory back to the system, which costs time."""

from __future__ import annotations

import ctypes
import sys

# mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Let the process keep the memory that tensors free, as an allocator for GPUs does; False where it cannot be set.

    By default glibc gives a freed tensor's pages back at once, and the next one of its size gets them anew, cleared
    page by page. One arena: those of other threads cannot hold tensors of this size.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has none
        return False
    kept = mallopt(_TRIM_THRESHOLD, _KEPT_BYTES) and mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
    return bool(kept and mallopt(_ARENA_MAX, 1))
