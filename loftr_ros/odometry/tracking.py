# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Pose of a frame relative to a keyframe whose points have depths."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros.errors import GeometryError
from loftr_ros.geometry.adjustment import Adjustment, adjust_pose
from loftr_ros.geometry.se3 import make_pose, rotation_from_vector
from loftr_ros.geometry.triangulation import triangulate
from loftr_ros.geometry.two_view import PIXEL_CAMERA, PIXELS, estimate_pose, homogeneous, parallax
from loftr_ros.odometry.depth import is_precise
from loftr_ros.odometry.keyframe import DEPENDENT, NormalizedMatches
from loftr_ros.types import Array

# With fewer 3D points than this the essential matrix gives the direction, and they give only the length.
_LEAST_POINTS = 20
LEAST_POINTS_FOR_SCALE = 6
# For a way back: so many points of known depth, such a share of them; and the deviation of the position, as a share of
# the depth of the near points.
_LEAST_KNOWN, _LEAST_KNOWN_SHARE, _UNCERTAIN = 8, 0.1, 0.03


@dataclass(frozen=True)
class Track:
    """A frame's pose against a keyframe.

    Attributes:
        pose_frame_keyframe: [4, 4].
        covariance: [6, 6] of the frame's pose in the keyframe: position, rotation vector, keyframe axes.
        inliers: [N] bool, the matches that agree with it.
        inverse_depth, sigma: [N] refined inverse depths of the matched keypoints.
        parallax_deg: median over the inliers.
    """

    pose_frame_keyframe: Array
    covariance: Array
    inliers: NDArray[np.bool_]
    inverse_depth: Array
    sigma: Array
    parallax_deg: float

    @property
    def median_depth(self) -> float:
        """Of the inliers."""
        return 1.0 / max(float(np.median(self.inverse_depth[self.inliers])), 1e-9)

    @property
    def near_depth(self) -> float:
        """Depth of the near quarter of the inliers."""
        return 1.0 / max(float(np.quantile(self.inverse_depth[self.inliers], 0.75)), 1e-9)

    @property
    def position_sigma(self) -> float:
        """Largest standard deviation of the position against the keyframe in any direction."""
        return float(np.sqrt(max(np.linalg.eigvalsh(self.covariance[:3, :3])[-1], 0.0)))


def track(
    matches: NormalizedMatches,
    mean: Array,
    sigma: Array,
    predicted: Array | None,
    threshold: float,
) -> Track:
    """Pose from matches whose inverse depths [N] have mean and sigma (infinite: unknown).

    Args:
        predicted: pose_frame_keyframe to expect; or None.
        threshold: largest error of an inlier, in normalized units.

    Raises:
        GeometryError: the matches do not determine the pose and its length.
    """
    precise = is_precise(mean, sigma)
    # 1. Where to start: the candidate that most matches agree with
    pose = _best(_candidates(matches, mean, precise, predicted, threshold), matches, mean, precise, threshold)
    # 2. Depths that are not known start where the pose puts them
    start = np.where(precise, mean, triangulate(matches.points0, matches.points1, pose, matches.sigma1)[0])
    # 3. Pose and depths together
    adjusted = adjust_pose(matches.points0, matches.points1, matches.sigma1, pose, np.maximum(start, 0.0), mean, sigma)
    return track_from(adjusted, matches, threshold)


def track_from(adjusted: Adjustment, matches: NormalizedMatches, threshold: float) -> Track:
    inliers = (adjusted.error * matches.sigma1 < threshold) & (
        adjusted.inverse_depth > -2 * adjusted.inverse_depth_sigma
    )
    angle = parallax(adjusted.pose_1_0[:3, :3], matches.points0[inliers], matches.points1[inliers])
    return Track(
        pose_frame_keyframe=adjusted.pose_1_0,
        covariance=DEPENDENT * adjusted.covariance,
        inliers=inliers,
        inverse_depth=adjusted.inverse_depth,
        sigma=adjusted.inverse_depth_sigma,
        parallax_deg=float(np.degrees(np.median(angle))) if len(angle) else 0.0,
    )


def refuse_doubtful(found: Track, known: NDArray[np.bool_]) -> None:
    """After frames without a pose: there nothing else tells wrong matches that agree by chance from the way back.

    Args:
        known: [N] matches whose depth was known before.

    Raises:
        GeometryError: the pose is uncertain, or it is not the points of known depth that agree.
    """
    agreeing = int((found.inliers & known).sum())
    if agreeing < max(_LEAST_KNOWN, _LEAST_KNOWN_SHARE * known.sum()):
        raise GeometryError(f"Only {agreeing} of {int(known.sum())} points of known depth fit the motion.")
    if found.position_sigma > _UNCERTAIN * found.near_depth:
        raise GeometryError("The position found again is too uncertain.")


def _candidates(
    matches: NormalizedMatches, mean: Array, precise: NDArray[np.bool_], predicted: Array | None, threshold: float
) -> list[Array]:
    found = [] if predicted is None else [predicted]
    if precise.sum() >= _LEAST_POINTS:
        found += _pose_from_points(matches, mean, precise, threshold)
    if len(found) <= (predicted is not None):
        found.append(_pose_from_essential(matches, mean, precise, threshold))
    return found


def _pose_from_points(
    matches: NormalizedMatches, mean: Array, precise: NDArray[np.bool_], threshold: float
) -> list[Array]:
    """Perspective-n-point by RANSAC with MSAC's score (Torr and Zisserman, CVIU 2000); an empty list where none fits.

    Without the local optimisation of its hypotheses, which takes three times as long: what follows adjusts the best.
    """
    points = homogeneous(matches.points0[precise]) / mean[precise, None]
    params = cv2.UsacParams()
    params.threshold = 2 * threshold * PIXELS  # the depths are not final yet
    params.confidence = 0.9999
    params.maxIterations = 500
    params.loMethod = cv2.LOCAL_OPTIM_NULL
    params.score = cv2.SCORE_METHOD_MSAC
    try:
        found, _, vector, translation, _ = cv2.solvePnPRansac(
            points, matches.points1[precise] * PIXELS, PIXEL_CAMERA, None, params=params
        )
    except cv2.error:
        return []
    if not found or vector is None or not np.isfinite(vector).all() or not np.isfinite(translation).all():
        return []
    return [make_pose(rotation_from_vector(vector), translation)]


def _pose_from_essential(
    matches: NormalizedMatches, mean: Array, precise: NDArray[np.bool_], threshold: float
) -> Array:
    """Direction by the essential matrix, length by the few depths that are known."""
    two_view = estimate_pose(matches.points0, matches.points1, threshold)
    known = precise & two_view.inliers
    if known.sum() < LEAST_POINTS_FOR_SCALE:
        raise GeometryError(
            f"Only {int(known.sum())} matched points have a depth: the length of the motion is unknown."
        )
    unit, _ = triangulate(matches.points0[known], matches.points1[known], two_view.pose_1_0, matches.sigma1[known])
    length = float(np.median(unit / mean[known]))
    if not length > 0:
        raise GeometryError("The known depths contradict the essential matrix.")
    pose = two_view.pose_1_0.copy()
    pose[:3, 3] *= length
    return pose


def _best(
    candidates: list[Array], matches: NormalizedMatches, mean: Array, precise: NDArray[np.bool_], threshold: float
) -> Array:
    rays = homogeneous(matches.points0[precise])
    depth, points1 = mean[precise], matches.points1[precise]

    def agreeing(pose: Array) -> int:
        position = rays @ pose[:3, :3].T + depth[:, None] * pose[:3, 3]
        z = np.where(position[:, 2] > 1e-6, position[:, 2], np.inf)
        return int(np.sum(np.linalg.norm(position[:, :2] / z[:, None] - points1, axis=1) < 3 * threshold))

    return max(candidates, key=agreeing)
