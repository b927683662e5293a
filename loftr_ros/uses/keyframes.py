# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The keyframes of an odometry, gathered with what they know of depths and where they see each other's keypoints.

Every keyframe's keypoints lie on its matcher's grid, so matching its neighbours against it gives one observation of the
same keypoint in each of them: a track.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loftr_ros.odometry import VisualOdometry
from loftr_ros.odometry.keyframe import Keyframe, KeyframePoints, keyframe_points
from loftr_ros.types import Array, Estimate, Frame

# Keyframes this many places before and after one are matched with it.
_REACH = 2
# An older keyframe's pose and depths do not change any more, and its features are let go.
_PENDING = 12


@dataclass(frozen=True)
class Track:
    """Where other keyframes see keypoints of one: their number, indices [M], pixels [M, 2], and deviations [M]."""

    target: int
    index: NDArray[np.int64]
    pixels: Array
    sigma: Array


@dataclass
class View:
    """A keyframe of the reconstruction.

    Attributes:
        stamp_ns: time of exposure.
        image: [H, W, 3] bgr or [H, W] grey.
        known: pose, and the depths that the odometry found.
        keypoints: [K, 2] pixels of all matched keypoints, by index; NaN for those that were never matched.
        tracks: other keyframes that see them.
    """

    stamp_ns: int
    image: NDArray[np.uint8]
    known: KeyframePoints
    keypoints: Array
    tracks: list[Track]


class Gatherer:
    """Follows an odometry and gathers its keyframes with their tracks. Call `add` after every frame, `finish` at last.

    Args:
        odometry: whose keyframes are gathered.
        image_at: the picture to take the colours from, by stamp; None: the grey image.
    """

    def __init__(
        self, odometry: VisualOdometry, image_at: Callable[[int], NDArray[np.uint8] | None] = lambda stamp: None
    ) -> None:
        self._odometry = odometry
        self._image_at = image_at
        self._pending: list[tuple[int, Keyframe]] = []
        self.views: list[View] = []

    def add(self, frame: Frame, estimate: Estimate) -> None:
        """Take the odometry's keyframe if it is a new one."""
        keyframe = self._odometry.keyframe
        if not estimate.is_keyframe or keyframe is None or any(k is keyframe for _, k in self._pending):
            return
        number = len(self.views)
        image = self._image_at(frame.stamp_ns)
        self.views.append(
            View(
                frame.stamp_ns, frame.image if image is None else image, keyframe_points(keyframe), _no_keypoints(), []
            )
        )
        for other, neighbour in self._pending[-_REACH:]:
            self._connect(number, keyframe, other, neighbour)
            self._connect(other, neighbour, number, keyframe)
        self._pending.append((number, keyframe))
        while len(self._pending) > _PENDING:
            self._settle(*self._pending.pop(0))

    def finish(self) -> list[View]:
        """All keyframes with their final poses."""
        for number, keyframe in self._pending:
            self._settle(number, keyframe)
        self._pending = []
        return self.views

    def _settle(self, number: int, keyframe: Keyframe) -> None:
        self.views[number].known = keyframe_points(keyframe)

    def _connect(self, number: int, keyframe: Keyframe, target: int, other: Keyframe) -> None:
        matches = self._odometry.matcher.match_features(keyframe.features, other.features)
        view = self.views[number]
        view.keypoints = _with_keypoints(view.keypoints, matches.index0, matches.points0)
        view.tracks.append(Track(target, matches.index0, matches.points1, matches.sigma))


def _no_keypoints() -> Array:
    return np.zeros((0, 2))


def _with_keypoints(table: Array, index: NDArray[np.int64], points: Array) -> Array:
    missing = int(index.max(initial=-1)) + 1 - len(table)
    if missing > 0:
        table = np.concatenate([table, np.full((missing, 2), np.nan)])
    table[index] = points
    return table
