# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Where one camera stands, seen from another: rotation, and direction or length of the way between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transforms3d.euler import mat2euler

from loftr_ros.errors import GeometryError, InputError
from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.se3 import inverse, quat_xyzw
from loftr_ros.geometry.triangulation import triangulate
from loftr_ros.geometry.two_view import estimate_pose, fit_rotation
from loftr_ros.types import Array, Matches

# Largest distance from the epipolar line, in normalized units: 1 pixel at a focal length of 500, as in the odometry.
INLIER_THRESHOLD = 0.002
# Below this the direction of the translation is mostly noise.
_LEAST_PARALLAX_DEG = 0.3
_LEAST_DEPTHS = 10


@dataclass(frozen=True)
class RelativePose:
    """Pose of camera 1 in the frame of camera 0 (both optical: x right, y down, z forward).

    Attributes:
        pose_0_1: [4, 4]; its translation has length 1 unless `metric`. None where the matches give no pose.
        inliers: [N] bool, the matches that agree with it.
        metric: True when the translation is in metres.
        parallax_deg: median angle between the viewing rays that no rotation removes; below 0.3 the direction of the
            translation means little.
        reason: one sentence where there is no pose, or where the direction means little; else "".
    """

    pose_0_1: Array | None
    inliers: NDArray[np.bool_]
    metric: bool
    parallax_deg: float
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON: angles in degrees, about the fixed axes x, y, z of camera 0 in this order."""
        result: dict[str, Any] = {"parallax_deg": self.parallax_deg, "metric": self.metric, "reason": self.reason}
        if self.pose_0_1 is None:
            return {"rotation": None, "quaternion_xyzw": None, "euler_xyz_deg": None, "translation": None, **result}
        rotation = self.pose_0_1[:3, :3]
        return {
            "rotation": rotation.tolist(),
            "quaternion_xyzw": quat_xyzw(rotation).tolist(),
            "euler_xyz_deg": np.degrees(mat2euler(rotation, "sxyz")).tolist(),
            "translation": self.pose_0_1[:3, 3].tolist(),
            **result,
        }


def relative_pose(
    matches: Matches,
    camera0: Camera,
    camera1: Camera | None = None,
    depth0: NDArray[np.float32] | None = None,
    baseline: float | None = None,
) -> RelativePose:
    """Pose of camera 1 in camera 0 by the essential matrix (MAGSAC; Barath et al., CVPR 2020).

    Args:
        matches: N of them, in pixels.
        camera0, camera1: calibrations; camera1 is camera0 unless given.
        depth0: [H, W] metres aligned with image 0, 0 or NaN where unknown: makes the translation metric.
        baseline: distance of the cameras in metres: makes it metric, too.

    Example:
        >>> pose = relative_pose(matches, load_camera("camera_info.yaml"))
        >>> pose.pose_0_1[:3, :3], pose.pose_0_1[:3, 3]  # R [3, 3], t [3]

    Raises:
        InputError: the depth image has another size than the camera.
    """
    camera1 = camera1 or camera0
    points0, points1 = camera0.normalize(matches.points0), camera1.normalize(matches.points1)
    try:
        found = estimate_pose(points0, points1, INLIER_THRESHOLD)
    except GeometryError as error:
        return RelativePose(None, np.zeros(len(matches), bool), False, 0.0, str(error))
    inside0, inside1 = points0[found.inliers], points1[found.inliers]
    parallax_deg = float(np.degrees(np.median(fit_rotation(inside0, inside1)[1])))
    reason = ""
    if parallax_deg < _LEAST_PARALLAX_DEG:
        reason = f"The parallax of {parallax_deg:.2f} degrees is too small to tell the direction of the translation."
    length = baseline
    if depth0 is not None:
        _check_depth(depth0, camera0)
        pixels = matches.points0[found.inliers]
        length = _length_from_depth(found.pose_1_0, inside0, inside1, sampled(depth0, pixels))
        if length is None:
            reason = "The depth image does not tell the length of the translation."
    pose_0_1 = inverse(found.pose_1_0)
    if length is not None:
        pose_0_1[:3, 3] *= length
    return RelativePose(pose_0_1, found.inliers, length is not None, parallax_deg, reason)


def _check_depth(depth0: NDArray[np.float32], camera0: Camera) -> None:
    if depth0.shape != (camera0.height, camera0.width):
        height, width = depth0.shape
        raise InputError(f"The depth image is {width}x{height}, the image {camera0.width}x{camera0.height}.")


def sampled(depth: NDArray[np.float32], pixels: Array) -> Array:
    """[N] depth at the nearest pixel, 0 where it is unknown or outside."""
    column, row = np.rint(pixels).astype(np.int64).T
    inside = (row >= 0) & (row < depth.shape[0]) & (column >= 0) & (column < depth.shape[1])
    values = np.zeros(len(pixels))
    values[inside] = depth[row[inside], column[inside]]
    return np.where(np.isfinite(values) & (values > 0), values, 0.0)


def _length_from_depth(pose_1_0: Array, points0: Array, points1: Array, depth: Array) -> float | None:
    """Length of the translation: median ratio of measured to triangulated depth. None: too few depths to tell."""
    inverse_depth, sigma = triangulate(points0, points1, pose_1_0, np.full(len(points0), 1e-3))
    good = (depth > 0) & (inverse_depth > 2 * sigma)
    if good.sum() < _LEAST_DEPTHS:
        return None
    return float(np.median(depth[good] * inverse_depth[good]))
