# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Start of the map from two views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loftr_ros.errors import GeometryError
from loftr_ros.geometry.adjustment import adjust_pose
from loftr_ros.geometry.se3 import rotation_angle_deg
from loftr_ros.geometry.triangulation import triangulate
from loftr_ros.geometry.two_view import candidate_poses, estimate_essential, fit_rotation
from loftr_ros.odometry.depth import is_precise
from loftr_ros.odometry.keyframe import NormalizedMatches
from loftr_ros.odometry.tracking import Track, track_from
from loftr_ros.types import Array

# The best explanation must be this much cheaper than any other one that differs from it by more than this angle, and by
# so many standard deviations: both motions of a plane fit, and noise makes one of them cheaper (by up to 3.2 of them,
# in 1400 drawn planes).
_CLEARLY = 1.3
_DEVIATIONS = 5.0
_SAME_DEG = 1.0


@dataclass(frozen=True)
class Turn:
    """The rotation that explains matches best without translation.

    Attributes:
        rotation: [3, 3] rotation_frame_keyframe.
        inliers: [N] bool, matches that it explains.
        parallax_deg: median angle that it leaves.
    """

    rotation: Array
    inliers: NDArray[np.bool_]
    parallax_deg: float


def fit_turn(matches: NormalizedMatches, threshold: float) -> Turn:
    """`threshold`: largest angle in radians that the rotation leaves of a match that it explains."""
    rotation, residual = fit_rotation(matches.points0, matches.points1)
    return Turn(rotation, residual < threshold, float(np.degrees(np.median(residual))))


def fits_one_motion(matches: NormalizedMatches, threshold: float) -> NDArray[np.bool_]:
    """[N] matches that may belong to one rigid motion, a pure rotation too; all where that cannot be told."""
    try:
        return estimate_essential(matches.points0, matches.points1, threshold)[1]
    except GeometryError:
        return np.ones(len(matches.points0), bool)


def start_map(matches: NormalizedMatches, min_matches: int, threshold: float) -> Track:
    """Pose and depths of two views, in a unit that makes the median depth 1.

    Raises:
        GeometryError: no pose, too few points with a depth, or two different poses that explain the matches as well.
    """
    explained = sorted(
        (_explain(matches, pose, threshold) for pose in candidate_poses(matches.points0, matches.points1, threshold)),
        key=lambda item: float(item[0].mean()),
    )
    if not explained:
        raise GeometryError("No pose fits the matches.")
    cost, found = explained[0]
    for other_cost, other in explained[1:]:
        if not (_alike(found.pose_frame_keyframe, other.pose_frame_keyframe) or _clearly_less(cost, other_cost)):
            raise GeometryError("Two different motions explain the matches: the scene may be a plane.")
    usable = found.inliers & is_precise(found.inverse_depth, found.sigma)
    if usable.sum() < min_matches:
        raise GeometryError(f"Only {int(usable.sum())} points could be triangulated; {min_matches} are needed.")
    return scaled(found, float(np.median(found.inverse_depth[usable])))


def _clearly_less(cost: Array, other: Array) -> bool:
    """Whether one motion costs less than another one, [N] each, by more than chance.

    The costs are compared match by match, since what fits badly for one motion mostly does so for the other, too; and
    matches that fit neither tell nothing. Were both motions right, the squared errors of each would vary by the square
    root of 2 of their mean: so much at most is chance, whatever a few that fit one motion alone add to the variance.
    """
    telling = (cost < 1) | (other < 1)
    if not telling.any():
        return False
    cost, other = cost[telling], other[telling]
    chance = min(float(np.std(other - cost)), 2.0 * float(cost.mean())) / len(cost) ** 0.5
    less = float(other.mean() - cost.mean())
    return less > max(_DEVIATIONS * chance, (_CLEARLY - 1.0) * float(cost.mean()))


def _explain(matches: NormalizedMatches, pose: Array, threshold: float) -> tuple[Array, Track]:
    """Refine a candidate with free depths. The cost of each match: its squared error in thresholds, at most 1."""
    start, _ = triangulate(matches.points0, matches.points1, pose, matches.sigma1)
    unknown = np.full(len(start), np.inf)
    adjusted = adjust_pose(
        matches.points0, matches.points1, matches.sigma1, pose, np.maximum(start, 0.0), start, unknown
    )
    found = track_from(adjusted, matches, threshold)
    error = np.where(found.inliers, np.minimum(adjusted.error * matches.sigma1 / threshold, 1.0), 1.0)
    return error**2, found


def _alike(pose_a: Array, pose_b: Array) -> bool:
    """Whether two poses of free length are the same solution."""
    turn = rotation_angle_deg(pose_a[:3, :3] @ pose_b[:3, :3].T)
    directions = [pose[:3, 3] / max(float(np.linalg.norm(pose[:3, 3])), 1e-12) for pose in (pose_a, pose_b)]
    return turn < _SAME_DEG and float(directions[0] @ directions[1]) > np.cos(np.radians(5 * _SAME_DEG))


def scaled(track: Track, unit: float) -> Track:
    """The same with distances `unit` times longer."""
    pose, covariance = track.pose_frame_keyframe.copy(), track.covariance.copy()
    pose[:3, 3] *= unit
    covariance[:3] *= unit
    covariance[:, :3] *= unit
    return Track(pose, covariance, track.inliers, track.inverse_depth / unit, track.sigma / unit, track.parallax_deg)
