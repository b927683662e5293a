# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Which size images are shrunk to before they are matched."""

from __future__ import annotations

import time
from collections.abc import Callable

# Shares of the largest size that are tried, largest first; each step saves about a third of the time.
_SHARES = (1.0, 0.85, 0.7, 0.6, 0.5, 0.425, 0.35, 0.3, 0.25)
_LEAST_SIDE = 128
_MATCHER_SHARE = 0.8  # of the time between two frames; the rest is for pose and publishing


def working_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """(width, height) to which an image is shrunk so that its longer side is at most max_side (0: no limit)."""
    longer = max(width, height)
    if max_side == 0 or longer <= max_side:
        return width, height
    ratio = max_side / longer
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def side_for_rate(longer_side: int, rate_hz: float, seconds_at: Callable[[int], float]) -> tuple[int, float]:
    """The largest side that reaches a rate, or the smallest one there is, and the rate it has.

    Args:
        longer_side: of the image without shrinking.
        rate_hz: frames a second to reach.
        seconds_at: time that one frame takes with its longer side shrunk to the given number of pixels.
    """
    sides = [8 * round(longer_side * share / 8) for share in _SHARES]
    sides = [side for side in sides if side >= _LEAST_SIDE] or [longer_side]
    for side in sides:
        rate = _MATCHER_SHARE / max(seconds_at(side), 1e-9)
        if rate >= rate_hz:
            break
    return side, rate


def fastest_of(action: Callable[[], object], repeats: int = 3) -> float:
    """Seconds of the fastest repetition, after one to warm up."""
    action()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
