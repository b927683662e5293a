# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Where metres come from. Each source says how many metres one unit of the map is."""

from __future__ import annotations

import threading
from collections import deque
from typing import Protocol

import numpy as np

from loftr_ros.config import ScaleConfig
from loftr_ros.odometry.depth import DepthMap
from loftr_ros.odometry.ground import Ground, find_ground
from loftr_ros.types import Array

# Share of a scale error (its logarithm) newly measured by wheels that is corrected at one keyframe.
_GAIN = 0.3
_LEAST_DISTANCE_M = 0.2
_WINDOW = 40
# Standard deviations of logarithms: the drift of the scale from one keyframe to the next, and the least that the
# measured height varies by; before its variation is known, it is taken to be _FIRST_VARIATION.
_DRIFT = 0.01
_LEAST_VARIATION = 0.02
_FIRST_VARIATION = 0.05
_OUTLIER = 3.0  # deviations
_MANY = 100  # points of the ground: their height does not get better with more
_SIGMA_PER_MEDIAN = 1.4826  # of the size of a normal variable
# A vehicle on its ground: of so many keyframes so many see a plane along which they move, within these degrees.
_SEEN = 15
_LEAST_LEVEL = 8
_LEVEL_DEG = 1.5
_MEAN_LEVEL_DEG = 1.0
_LEAST_TRAVEL = 0.1  # of the height: a shorter way has no certain direction


class ScaleSource(Protocol):
    """Measures by how much the lengths of the map are wrong."""

    def add_step(self, distance_m: float | None, map_length: float) -> None:
        """A frame's way in metres as wheels tell it (or None), and in units of the map as the camera tells it."""
        ...

    def first_factor(self, depths: DepthMap, travel: Array) -> float | None:
        """Metres per unit of a map that is not metric yet; None while they are unknown.

        `travel`: [3] where the camera has moved, in the axes of the keyframe with these depths and in units of the map.
        """
        ...

    def correction(self, depths: DepthMap, travel: Array) -> float | None:
        """By how much to make a map longer at a new keyframe, against its drift; None: not at all."""
        ...

    def rescaled(self, factor: float) -> None:
        """The map's lengths have become `factor` times longer."""
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

    def first_factor(self, depths: DepthMap, travel: Array) -> float | None:
        distance = sum(d for d, _ in self._steps)
        length = sum(m for _, m in self._steps)
        return distance / length if distance > _LEAST_DISTANCE_M and length > 0 else None

    def correction(self, depths: DepthMap, travel: Array) -> float | None:
        measured = self.first_factor(depths, travel)
        return None if measured is None else measured**_GAIN

    def rescaled(self, factor: float) -> None:
        self._steps = deque(((d, m * factor) for d, m in self._steps), maxlen=_WINDOW)


class HeightFilter:
    """Kalman filter of two logarithms: the camera's height, a constant, and the error of the scale, which drifts.

    Measured is their sum, the logarithm of the height in the map.

    Args:
        height: in metres, if it is known; then the error of the scale is unknown at first. Otherwise the scale at the
            start is right by definition.
    """

    def __init__(self, height: float | None = None) -> None:
        self._state = np.array([0.0 if height is None else np.log(height), 0.0])
        self._covariance = np.diag([1e2**2, 0.0] if height is None else [1e-4**2, 1e2**2])
        self._surprises: deque[float] = deque(maxlen=_SEEN)

    @property
    def scale_error(self) -> float:
        """Logarithm of the map's unit over the right one."""
        return float(self._state[1])

    def add(self, height: float, points: int = _MANY) -> None:
        """The height in the map at a new keyframe, from so many points of the ground: few make it less certain.

        A height that is far from what is expected counts for nothing.
        """
        self._covariance[1, 1] += _DRIFT**2
        surprise = np.log(height) - self._state.sum()
        variance = self._covariance.sum()
        is_first = variance > 1.0
        if not is_first:
            self._surprises.append(abs(surprise))
        variance += self._variation**2 * max(1.0, _MANY / points)
        if not is_first and surprise**2 > _OUTLIER**2 * variance:
            return
        gain = self._covariance.sum(axis=1) / variance
        self._state = self._state + gain * surprise
        self._covariance = self._covariance - np.outer(gain, gain) * variance

    @property
    def _variation(self) -> float:
        if len(self._surprises) < _SEEN // 2:
            return _FIRST_VARIATION
        return max(_LEAST_VARIATION, _SIGMA_PER_MEDIAN * float(np.median(self._surprises)))

    def rescaled(self, factor: float) -> None:
        self._state[1] += np.log(factor)


class GroundScale:
    """Height of a vehicle's camera over its ground (Song and Chandraker, CVPR 2014): known, or that of the start.

    While the height is unknown, it only counts where the camera is seen to be a vehicle's.
    """

    def __init__(self, height_m: float | None = None) -> None:
        self._height_m = height_m
        self._filter = HeightFilter(height_m)
        self._seen: deque[Ground | None] = deque(maxlen=_SEEN)

    def add_step(self, distance_m: float | None, map_length: float) -> None:
        pass

    def first_factor(self, depths: DepthMap, travel: Array) -> float | None:
        if not self._look(depths, travel):
            return None
        return float(np.exp(-self._filter.scale_error))

    def correction(self, depths: DepthMap, travel: Array) -> float | None:
        seen = self._look(depths, travel)
        if self._height_m is None and all(_level_slope(ground) is None for ground in self._seen):
            self._filter = HeightFilter()  # no vehicle, or one that was lifted
            return None
        if not seen or (self._height_m is None and not self._is_vehicle):
            return None
        return float(np.exp(-self._filter.scale_error))

    def _look(self, depths: DepthMap, travel: Array) -> bool:
        """Whether a ground is seen; if so, its height enters the filter."""
        if np.linalg.norm(travel) == 0:
            return False
        index = depths.precise
        mean, sigma = depths.lookup(index)
        rolls = [ground.roll for ground in self._seen if ground is not None]
        roll = float(np.median(rolls)) if len(rolls) > _SEEN // 3 else None
        ground = find_ground(depths.points(index), mean, sigma, travel, roll)
        if ground is not None and np.linalg.norm(travel) < _LEAST_TRAVEL * ground.height:
            return False
        self._seen.append(ground)
        if ground is None:
            return False
        self._filter.add(ground.height, ground.points)
        return True

    @property
    def _is_vehicle(self) -> bool:
        level = [slope for slope in map(_level_slope, self._seen) if slope is not None]
        return len(level) >= _LEAST_LEVEL and abs(float(np.median(level))) < np.radians(_MEAN_LEVEL_DEG)

    def rescaled(self, factor: float) -> None:
        self._filter.rescaled(factor)


def _level_slope(ground: Ground | None) -> float | None:
    """Angle between a plane and the motion along it; None where the camera does not move along one."""
    if ground is None or ground.slope is None or abs(ground.slope) > np.radians(_LEVEL_DEG):
        return None
    return ground.slope


def scale_source(config: ScaleConfig) -> ScaleSource | None:
    """The source that measures the map's unit; None for `depth`, whose map is metric from the start."""
    if config.source == "odometry":
        return WheelScale()
    if config.source == "camera_height":
        return GroundScale(config.camera_height_m)
    if config.source == "none" and config.level_ground:
        return GroundScale()
    return None
