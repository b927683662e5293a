"""Start of the map from two views."""

from __future__ import annotations

import numpy as np

from loftr_ros.errors import GeometryError
from loftr_ros.geometry.adjustment import adjust_pose
from loftr_ros.geometry.triangulation import triangulate
from loftr_ros.geometry.two_view import estimate_pose, fit_rotation
from loftr_ros.odometry.depth import is_precise
from loftr_ros.odometry.keyframe import NormalizedMatches
from loftr_ros.odometry.tracking import Track, track_from
from loftr_ros.types import Array


def rotation_and_parallax(matches: NormalizedMatches) -> tuple[Array, float]:
    """Rotation that explains the matches best without translation, and the median angle in degrees left over."""
    rotation, residual = fit_rotation(matches.points0, matches.points1)
    return rotation, float(np.degrees(np.median(residual)))


def start_map(matches: NormalizedMatches, min_matches: int, threshold: float) -> Track:
    """Pose and depths from the essential matrix, in a unit that makes the median depth 1.

    Raises:
        GeometryError: no pose, or too few points with a depth.
    """
    two_view = estimate_pose(matches.points0, matches.points1, threshold)
    start, _ = triangulate(matches.points0, matches.points1, two_view.pose_1_0, matches.sigma1)
    unknown = np.full(len(start), np.inf)
    adjusted = adjust_pose(
        matches.points0, matches.points1, matches.sigma1, two_view.pose_1_0, np.maximum(start, 0.0), start, unknown
    )
    found = track_from(adjusted, matches, threshold)
    usable = found.inliers & is_precise(found.inverse_depth, found.sigma)
    if usable.sum() < min_matches:
        raise GeometryError(f"Only {int(usable.sum())} points could be triangulated; {min_matches} are needed.")
    return _scaled(found, float(np.median(found.inverse_depth[usable])))


def _scaled(track: Track, unit: float) -> Track:
    """The same with distances `unit` times longer."""
    pose, covariance = track.pose_frame_keyframe.copy(), track.covariance.copy()
    pose[:3, 3] *= unit
    covariance[:3] *= unit
    covariance[:, :3] *= unit
    return Track(
        pose, covariance, track.inliers, track.inverse_depth / unit, track.sigma / unit, track.parallax_deg
    )
