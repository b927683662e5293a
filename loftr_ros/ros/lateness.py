# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Which images come too late to be worth their time."""

from __future__ import annotations

from collections import deque

_RECENT = 50  # images
_COMPARABLE_S = 5.0


class Lateness:
    """How much longer an image took than the quickest of the last ones, from its stamp to when its turn comes.

    Only the difference means something: a camera that always stamps a third of a second before its images arrive is not
    late. Stamps of the future or of long ago are of another clock (a recording's, say): nothing is known then.
    """

    def __init__(self) -> None:
        self._ages: deque[float] = deque(maxlen=_RECENT)

    def seconds(self, stamp_ns: int, now_ns: int) -> float:
        """Of the image whose turn it is `now_ns`, on the node's clock; 0 where that cannot be told."""
        age = (now_ns - stamp_ns) * 1e-9
        if not 0 <= age < _COMPARABLE_S:
            self._ages.clear()
            return 0.0
        self._ages.append(age)
        return age - min(self._ages)
