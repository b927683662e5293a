# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""How long the camera has been without a pose, and whether it saw anything in that time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loftr_ros.types import Matches


class Loss:
    """Frames in a row without a pose.

    Attributes:
        frames: their number.
        seen: the number of those that showed something. A covered camera sees nothing, and is still where it was.
    """

    def __init__(self, match: Callable[[Any, Any], Matches]) -> None:
        self._match = match
        self._previous: Any = None
        self.frames = self.seen = 0

    def add(self) -> None:
        """One more."""
        self.frames += 1

    def judge(self, features: Any, matches: Matches, least: int) -> bool:
        """Whether the newest frame, with these features and matches with the keyframe, shows something; counts it.

        It does if it has the least number of matches, be they wrong ones, with the keyframe or with the frame before.
        (Not with itself: noise has those too.)
        """
        shows = len(matches) >= least
        if not shows and self._previous is not None:
            shows = len(self._match(self._previous, features)) >= least
        self._previous = features
        self.seen += shows
        return shows

    def end(self) -> None:
        """There is a pose again."""
        self.frames = self.seen = 0
        self._previous = None
