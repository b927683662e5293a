# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The unit of the map: what is known of it, and how a map is brought to metres."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from loftr_ros.config import ScaleConfig
from loftr_ros.geometry.se3 import stretched_covariance, stretched_pose
from loftr_ros.odometry.depth import DepthMap
from loftr_ros.odometry.keyframe import Keyframe, Node
from loftr_ros.odometry.scale import scale_source
from loftr_ros.types import Array


class MapUnit:
    """Whether lengths are metres, and the source that makes them so.

    Attributes:
        metric: True once they are.
    """

    def __init__(self, config: ScaleConfig) -> None:
        self.metric = False
        self._source = scale_source(config)
        self._tells_metres = config.source != "none"
        self._distance_m: float | None = None

    @property
    def awaited(self) -> bool:
        """A source will make the map metric, but has not yet: until then no pose can be given."""
        return self._tells_metres and self._source is not None and not self.metric

    def add_distance(self, distance_m: float | None) -> None:
        """The way since the last frame as wheels tell it. Frames without a motion of their own add to the next one."""
        if distance_m is not None:
            self._distance_m = (self._distance_m or 0.0) + distance_m

    def forget_distance(self) -> None:
        """The map starts here: the way before it does not count."""
        self._distance_m = None

    def add_step(self, map_length: float) -> None:
        """The way since the last motion as the camera tells it, in units of the map."""
        if self._source is not None:
            self._source.add_step(self._distance_m, map_length)
            self._distance_m = None

    def first_factor(self, depths: DepthMap, travel: Array) -> float | None:
        """Metres per unit of a map that is not metric yet; None while they are unknown. `travel` as in ScaleSource."""
        if self._source is None or not self.awaited:
            return None
        return _usable(self._source.first_factor(depths, travel))

    def correct(self, depths: DepthMap, travel: Array) -> float | None:
        """By how much to stretch the map at a new keyframe, against its drift; None: not at all."""
        if self._source is None or self.awaited:
            return None
        return _usable(self._source.correction(depths, travel))

    def stretched(self, factor: float) -> None:
        """The map's lengths have become `factor` times longer."""
        if self._source is not None:
            self._source.rescaled(factor)


def _usable(factor: float | None) -> float | None:
    return factor if factor is not None and np.isfinite(factor) and factor > 0 else None


def stretch(nodes: Iterable[Node], center: Array, factor: float) -> None:
    """Make all lengths of a map `factor` times longer, seen from the pose `center`."""
    for node in nodes:
        node.pose_world_camera = stretched_pose(node.pose_world_camera, center, factor)
        node.covariance = stretched_covariance(node.covariance, factor)
        if isinstance(node, Keyframe):
            node.depths.rescale(factor)
