# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Where the camera was last and how fast it went: velocities, and the refusal of jumps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from loftr_ros.errors import GeometryError
from loftr_ros.geometry.se3 import stretched_covariance, stretched_pose, vector_from_rotation
from loftr_ros.types import Array

_RECENT_SPEEDS = 10
_LEAST_SPEEDS = 3
# A step shorter than this share of the depth of the near part of the scene is never a jump.
_SHORT_STEP = 0.3


@dataclass(frozen=True)
class Step:
    """One pose on the way.

    Attributes:
        stamp_ns: of its frame.
        pose: pose_world_camera [4, 4].
        covariance: [6, 6] of the pose against its keyframe, in the keyframe's axes.
    """

    stamp_ns: int
    pose: Array
    covariance: Array


class Trace:
    """The last step, and the speeds of the recent ones."""

    def __init__(self) -> None:
        self.last: Step | None = None
        self._speeds: deque[float] = deque(maxlen=_RECENT_SPEEDS)

    def add(self, step: Step, moving: bool) -> None:
        """Take the next step; only a camera that moves from its place tells a speed."""
        if moving and self.last is not None and step.stamp_ns > self.last.stamp_ns:
            self._speeds.append(self.length_to(step.pose) / self._seconds_to(step.stamp_ns))
        self.last = step

    def became_keyframe(self, exact: Array) -> None:
        """The last frame is the keyframe now: against it, it has no error."""
        if self.last is not None:
            self.last = replace(self.last, covariance=exact)

    def length_to(self, pose: Array) -> float:
        """Distance of a pose from the last one; 0 without one."""
        return 0.0 if self.last is None else float(np.linalg.norm(pose[:3, 3] - self.last.pose[:3, 3]))

    def twist_to(self, step: Step, rotation_world_keyframe: Array) -> tuple[Array | None, Array | None]:
        """Mean velocity [6] since the last pose, in the axes of the camera now, and its covariance [6, 6]."""
        if self.last is None or step.stamp_ns <= self.last.stamp_ns:
            return None, None
        seconds = self._seconds_to(step.stamp_ns)
        rotation = step.pose[:3, :3].T
        linear = rotation @ (step.pose[:3, 3] - self.last.pose[:3, 3])
        angular = rotation @ vector_from_rotation(step.pose[:3, :3] @ self.last.pose[:3, :3].T)
        turn = np.kron(np.eye(2), rotation @ rotation_world_keyframe)  # keyframe to camera axes
        # Both ends are measured against the same keyframe, each with its own error.
        covariance = turn @ (step.covariance + self.last.covariance) @ turn.T / seconds**2
        return np.concatenate([linear, angular]) / seconds, covariance

    def refuse_jump(self, stamp_ns: int, pose: Array, near_depth: float, most_ratio: float) -> None:
        """Raises GeometryError for a step far beyond the recent speed and beyond a part of the scene's depth."""
        if self.last is None or len(self._speeds) < _LEAST_SPEEDS:
            return
        seconds, length = self._seconds_to(stamp_ns), self.length_to(pose)
        allowed = most_ratio * self.speed * seconds
        if length > max(allowed, _SHORT_STEP * near_depth):
            raise GeometryError(f"A step of {length:.3g} in {seconds:.3g} s would be a jump.")

    @property
    def speed(self) -> float:
        """Median of the recent ones; 0 where none is known."""
        return float(np.median(self._speeds)) if self._speeds else 0.0

    def stretch(self, center: Array, factor: float) -> None:
        """Make the way from the pose `center` to the last one `factor` times as long."""
        if self.last is not None:
            covariance = stretched_covariance(self.last.covariance, factor)
            self.last = replace(self.last, pose=stretched_pose(self.last.pose, center, factor), covariance=covariance)

    def rescale_speeds(self, factor: float) -> None:
        self._speeds = deque((speed * factor for speed in self._speeds), maxlen=_RECENT_SPEEDS)

    def _seconds_to(self, stamp_ns: int) -> float:
        assert self.last is not None
        return max(stamp_ns - self.last.stamp_ns, 1) * 1e-9
