# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Where metres come from. Each source says how many metres one unit of the map is."""

from __future__ import annotations

import threading
from collections import deque
from typing import Protocol

import numpy as np

from loftr_ros.config import ScaleConfig
from loftr_ros.odometry.depth import DepthMap
from loftr_ros.types import Array

# The ground is searched among points this far below the optical axis (tangent of the angle) ...
_BELOW = 0.05
# ... whose depth is known this well, with a normal that leaves the camera's y axis by at most this angle.
_DEPTH_SIGMA = 0.15
_MOST_TILT_DEG = 15.0
_GROUND_BAND = 0.03  # points of the ground lie this close to the plane, as a share of the camera's height
_LEAST_GROUND_POINTS = 20
_TRIALS = 300
# Share of a newly measured scale error (its logarithm) that is corrected at one keyframe.
_GAIN = 0.3
_LEAST_DISTANCE_M = 0.2
_WINDOW = 40
_GROUND_WINDOW = 15  # keyframes whose measurements of the ground count, by their median


class ScaleSource(Protocol):
    """Measures the metres in one unit of the map."""

    def add_step(self, distance_m: float | None, map_length: float) -> None:
        """A frame's way in metres as wheels tell it (or None), and in units of the map as the camera tells it."""
        ...

    def metres_per_unit(self, depths: DepthMap) -> float | None:
        """The latest measurement at a keyframe with these depths; None when there is none."""
        ...

    def rescaled(self, factor: float) -> None:
        """The map's unit has become 1 / factor of what it was."""
        ...


class Odometer:
    """Length of the way along the positions of another odometry, since it was last asked for."""

    def __init__(self) -> None:
        self._position: Array | None = None
        self._length: float | None = None
        self._lock = threading.Lock()  # one thread adds, another one takes

    def add(self, position: Array) -> None:
        """A position [3] in metres, in the order of time."""
        with self._lock:
            if self._position is not None:
                self._length = (self._length or 0.0) + float(np.linalg.norm(position - self._position))
            self._position = position

    def take(self) -> float | None:
        """Metres since the last call; None when nothing came in between."""
        with self._lock:
            length, self._length = self._length, None
        return length


class WheelScale:
    """Length of the way from wheels over that from the camera, in a sliding window."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, float]] = deque(maxlen=_WINDOW)

    def add_step(self, distance_m: float | None, map_length: float) -> None:
        if distance_m is not None:
            self._steps.append((distance_m, map_length))

    def metres_per_unit(self, depths: DepthMap) -> float | None:
        distance = sum(d for d, _ in self._steps)
        length = sum(m for _, m in self._steps)
        return distance / length if distance > _LEAST_DISTANCE_M and length > 0 else None

    def rescaled(self, factor: float) -> None:
        self._steps = deque(((d, m * factor) for d, m in self._steps), maxlen=_WINDOW)


class GroundScale:
    """Known height of the camera over the ground, over the height in the map (Song and Chandraker, CVPR 2014)."""

    def __init__(self, height_m: float) -> None:
        self._height_m = height_m
        self._measured: deque[float] = deque(maxlen=_GROUND_WINDOW)

    def add_step(self, distance_m: float | None, map_length: float) -> None:
        pass

    def metres_per_unit(self, depths: DepthMap) -> float | None:
        index = depths.precise
        points = depths.points3d(index)
        below = (points[:, 1] > _BELOW * points[:, 2]) & (depths.relative_sigma(index) < _DEPTH_SIGMA)
        height = ground_height(points[below])
        if height is None:
            return None
        self._measured.append(self._height_m / height)
        return float(np.median(self._measured))

    def rescaled(self, factor: float) -> None:
        self._measured = deque((value / factor for value in self._measured), maxlen=_GROUND_WINDOW)


def ground_height(points: Array) -> float | None:
    """Distance of the camera from the plane most points [N, 3] (camera frame) lie on; None where no plane stands out.

    RANSAC over planes whose normal is near the camera's y axis, then least squares over the inliers.
    """
    if len(points) < _LEAST_GROUND_POINTS:
        return None
    samples = np.random.default_rng(0).integers(0, len(points), (_TRIALS, 3))
    normals, heights = _planes(points[samples])
    upright = (normals[:, 1] > np.cos(np.radians(_MOST_TILT_DEG))) & (heights > 0)
    if not upright.any():
        return None
    normals, heights = normals[upright], heights[upright]
    # A wall behind the ground must not win by its many points: the band grows with the height.
    near = np.abs(points @ normals.T - heights) < _GROUND_BAND * heights
    best = int(np.argmax(near.sum(axis=0)))
    inliers = points[near[:, best]]
    if len(inliers) < _LEAST_GROUND_POINTS:
        return None
    center = inliers.mean(axis=0)
    normal = np.linalg.svd(inliers - center)[2][2]
    normal = normal * np.sign(normal[1])
    if normal[1] < np.cos(np.radians(_MOST_TILT_DEG)):
        return None
    return float(normal @ center)


def _planes(triples: Array) -> tuple[Array, Array]:
    """Unit normals [T, 3], pointing down (y > 0), and distances [T] of planes through point triples [T, 3, 3]."""
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.where(length > 0, normals / np.where(length > 0, length, 1.0), 0.0)
    normals = normals * np.where(normals[:, 1:2] < 0, -1.0, 1.0)
    return normals, np.sum(normals * triples[:, 0], axis=1)


def scale_source(config: ScaleConfig) -> ScaleSource | None:
    """The source that measures the map's unit; None for `none`, and for `depth`, whose map is metric from the start."""
    if config.source == "odometry":
        return WheelScale()
    if config.source == "camera_height":
        return GroundScale(config.camera_height_m)
    return None


def gradual(measured: float) -> float:
    """By how much to stretch a map that is metric already: part of the way, against noise."""
    return float(measured**_GAIN)
