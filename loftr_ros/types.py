# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The values that pass between matching, odometry and their users. numpy only.

Conventions, everywhere in this package:

* Pixels are (x right, y down), and the centre of the first pixel is (0, 0).
* `pose_a_b` is the 4x4 matrix that maps points from frame b into frame a, so the pose of b in a.
* The camera frame is the optical frame of REP-103: z forward, x right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Image = NDArray[np.uint8]


class MotionState(str, Enum):
    """What the odometry knows about the current frame; see the README's table of states."""

    INITIALIZING = "INITIALIZING"
    OK = "OK"
    STATIC = "STATIC"
    PURE_ROTATION = "PURE_ROTATION"
    LOW_PARALLAX = "LOW_PARALLAX"
    FEW_MATCHES = "FEW_MATCHES"
    LOST = "LOST"


@dataclass(frozen=True)
class Matches:
    """Points of image 0 found again in image 1.

    Attributes:
        points0: [N, 2] pixels in the original image 0.
        points1: [N, 2] pixels in the original image 1.
        confidence: [N] in [0, 1]; larger is better.
        index0: [N] which keypoint of image 0 each match starts from. The same number means the same pixel in every
            match of the same image 0, so it names a track.
        sigma: [N] standard deviation of points1 in pixels, as far as the matcher knows it.
        share: of all matches that there are, those that the matcher had a closer look at, evenly over the image; it may
            leave out some to save time. Selections keep it.
    """

    points0: Array
    points1: Array
    confidence: Array
    index0: NDArray[np.int64]
    sigma: Array
    share: float = 1.0

    def __len__(self) -> int:
        return len(self.points0)

    def __getitem__(self, selection: NDArray[np.bool_] | NDArray[np.int64] | slice) -> Matches:
        return Matches(
            self.points0[selection],
            self.points1[selection],
            self.confidence[selection],
            self.index0[selection],
            self.sigma[selection],
            self.share,
        )

    @staticmethod
    def empty() -> Matches:
        return Matches(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True)
class Frame:
    """One camera frame.

    Attributes:
        stamp_ns: time of exposure in nanoseconds.
        image: [H, W] grey uint8.
        depth: [H, W] float32 metres aligned with the image, 0 or NaN where unknown; None without a depth camera.
        distance: length of the way travelled since the previous frame in metres, from wheels or the like; or None.
    """

    stamp_ns: int
    image: Image
    depth: NDArray[np.float32] | None = None
    distance: float | None = None


@dataclass(frozen=True)
class Estimate:
    """What one frame added.

    Attributes:
        stamp_ns: the frame's stamp.
        state: see MotionState.
        pose_world_camera: [4, 4] pose of the camera in the first camera's frame; None when it is not known.
        twist_camera: [6] linear (length unit / s) and angular (rad / s) velocity in the camera frame, or None.
        pose_covariance: [6, 6] of the position (world axes) and of the rotation vector (world axes), or None.
        twist_covariance: [6, 6] of twist_camera, or None.
        metric: True when lengths are metres; False when their unit is arbitrary (but the same over the run).
        matches: all matches between keyframe and frame.
        inliers: [N] bool, those of `matches` that agree with the pose.
        parallax_deg: median angle between the viewing rays of keyframe and frame, rotation removed.
        keyframe_stamp_ns: stamp of the keyframe that the frame was matched with.
        is_keyframe: True when this frame became the keyframe.
        reason: one sentence when the state is not OK, else "".
    """

    stamp_ns: int
    state: MotionState
    pose_world_camera: Array | None = None
    twist_camera: Array | None = None
    pose_covariance: Array | None = None
    twist_covariance: Array | None = None
    metric: bool = False
    matches: Matches = field(default_factory=Matches.empty)
    inliers: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    parallax_deg: float = 0.0
    keyframe_stamp_ns: int = 0
    is_keyframe: bool = False
    reason: str = ""
