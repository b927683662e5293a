# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Which images come too late to be worth their time."""

from __future__ import annotations

from collections import deque

_RECENT = 50  # images
_RECENT_GAPS = 10
_COMPARABLE_S = 5.0  # stamps of the future or of long ago are of another clock (a recording's, say)


class Lateness:
    """How much longer an image took than the quickest of the last ones, from its stamp to when its turn comes.

    Only the difference means something: a camera that always stamps a third of a second before its images arrive is not
    late.
    """

    def __init__(self) -> None:
        self._ages: deque[float] = deque(maxlen=_RECENT)

    def seconds(self, age_s: float | None) -> float:
        """Of the image with this age when its turn comes; 0 where the age is not known."""
        if age_s is None:
            self._ages.clear()
            return 0.0
        self._ages.append(age_s)
        return age_s - min(self._ages)


class Period:
    """Time from one of the camera's images to the next, as far as their stamps tell.

    Attributes:
        seconds: the least of the last gaps: images that never came make the others longer.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last_ns: int | None = None
        self._gaps: deque[int] = deque(maxlen=_RECENT_GAPS)

    def add(self, stamp_ns: int) -> None:
        """The stamp of an image that has come."""
        if self._last_ns is not None and stamp_ns > self._last_ns:
            self._gaps.append(stamp_ns - self._last_ns)
            self.seconds = min(self._gaps) * 1e-9
        self._last_ns = stamp_ns


def age_of(stamp_ns: int, now_ns: int) -> float | None:
    """Seconds from a stamp to now, on the node's clock; None where the stamp is of another clock."""
    age = (now_ns - stamp_ns) * 1e-9
    return age if 0 <= age < _COMPARABLE_S else None
