# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Pose between two views from matched points.

Points are normalized: undistorted (x / z, y / z), [N, 2]. Poses are pose_1_0, points of camera 0 into camera 1, and
the translation has length 1 where nothing tells its length.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros.errors import GeometryError
from loftr_ros.geometry.se3 import cross, make_pose
from loftr_ros.geometry.triangulation import triangulate
from loftr_ros.types import Array

# Among random matches some always fit one motion: seldom as many as this.
_LEAST_INLIERS = 15

# OpenCV's robust estimators have thresholds inside that are meant for pixels: with normalized points they find clearly
# worse poses. So points go in as those of a camera with this focal length.
PIXELS = 1000.0
PIXEL_CAMERA = np.diag([PIXELS, PIXELS, 1.0])


@dataclass(frozen=True)
class TwoViewPose:
    """pose_1_0: [4, 4], translation of length 1; inliers: [N] bool, those that also lie before both cameras."""

    pose_1_0: Array
    inliers: NDArray[np.bool_]


def homogeneous(points: Array) -> Array:
    """[N, 3] rays (x, y, 1) of normalized points."""
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)


def bearings(points: Array) -> Array:
    """[N, 3] unit rays of normalized points."""
    rays = homogeneous(points)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def estimate_essential(
    points0: Array, points1: Array, threshold: float, focal: float = PIXELS
) -> tuple[list[Array], NDArray[np.bool_]]:
    """Essential matrices by MAGSAC (Barath et al., CVPR 2020): the candidates [3, 3], and [N] bool inliers.

    Args:
        threshold: largest distance of an inlier from its epipolar line, in normalized units.
        focal: of the camera in pixels, if it is known: it sets the unit of OpenCV's own thresholds.

    Points without any error, of a motion exactly along the image's y axis, may get no or a wrong solution from OpenCV;
    an error of a millionth is enough to avoid that.

    Raises:
        GeometryError: too few points, or no solution.
    """
    if len(points0) < 6:
        raise GeometryError(f"{len(points0)} matches are too few for an essential matrix.")
    try:
        matrix, mask = cv2.findEssentialMat(
            points0 * focal,
            points1 * focal,
            np.diag([focal, focal, 1.0]),
            method=cv2.USAC_MAGSAC,
            prob=0.99999,
            threshold=threshold * focal,
        )
    except cv2.error:  # some degenerate points
        matrix, mask = None, None
    if matrix is None or mask is None or matrix.shape[0] % 3 or not np.isfinite(matrix).all():
        raise GeometryError("No essential matrix fits the matches.")
    return [matrix[i : i + 3] for i in range(0, len(matrix), 3)], mask.ravel().astype(bool)


def decompose(essential: Array) -> list[Array]:
    """The four poses of an essential matrix (Hartley and Zisserman, result 9.19)."""
    rotation_a, rotation_b, translation = cv2.decomposeEssentialMat(essential)
    direction = translation.ravel()
    return [make_pose(r, s * direction) for r in (rotation_a, rotation_b) for s in (1.0, -1.0)]


def estimate_pose(
    points0: Array, points1: Array, threshold: float, focal: float = PIXELS, doubtful: bool = False
) -> TwoViewPose:
    """R and t by the essential matrix, the one of all candidates that puts most inliers before both cameras.

    Raises GeometryError when no pose has at least half of its inliers there, or too few to mean anything; where it may
    be doubtful, only when there is none at all. See estimate_essential for threshold and focal.
    """
    candidates, inliers = estimate_essential(points0, points1, threshold, focal)
    inside0, inside1 = points0[inliers], points1[inliers]
    best_pose: Array | None = None
    best_front: NDArray[np.bool_] = np.zeros(0, bool)
    for pose in (p for matrix in candidates for p in decompose(matrix)):
        front = in_front(pose, inside0, inside1)
        if best_pose is None or front.sum() > best_front.sum():
            best_pose, best_front = pose, front
    least = 1 if doubtful else max(_LEAST_INLIERS, int(inliers.sum()) // 2)
    if best_pose is None or best_front.sum() < least:
        raise GeometryError("No pose puts the matched points before both cameras.")
    kept = inliers.copy()
    kept[inliers] = best_front
    return TwoViewPose(best_pose, kept)


def candidate_poses(points0: Array, points1: Array, threshold: float) -> list[Array]:
    """All poses that an essential matrix or a homography leave possible, those with few points in front left out.

    On a plane the essential matrix is not unique, and the homography gives both of its two solutions (Longuet-Higgins,
    1986; Ma et al., An Invitation to 3-D Vision, section 5.3): whoever chooses should look at all of them.
    """
    poses: list[Array] = []
    try:
        essentials, _ = estimate_essential(points0, points1, threshold)
        poses += [pose for essential in essentials for pose in decompose(essential)]
    except GeometryError:
        pass
    try:
        homography, _ = cv2.findHomography(
            points0 * PIXELS, points1 * PIXELS, cv2.USAC_MAGSAC, 2 * threshold * PIXELS, maxIters=2000, confidence=0.999
        )
    except cv2.error:  # some degenerate points
        homography = None
    if homography is not None and np.isfinite(homography).all():
        _, rotations, translations, _ = cv2.decomposeHomographyMat(homography, PIXEL_CAMERA)
        poses += [
            make_pose(r, t.ravel() / np.linalg.norm(t))
            for r, t in zip(rotations, translations)
            if np.linalg.norm(t) > 1e-9
        ]
    return [pose for pose in poses if in_front(pose, points0, points1).mean() > 0.6]


def in_front(pose_1_0: Array, points0: Array, points1: Array) -> NDArray[np.bool_]:
    """[N] whether each triangulated point lies before both cameras; points at infinity count as before."""
    inverse_depth, sigma = triangulate(points0, points1, pose_1_0, np.full(len(points0), 1e-3))
    depth_ratio = (homogeneous(points0) @ pose_1_0[:3, :3].T + inverse_depth[:, None] * pose_1_0[:3, 3])[:, 2]
    return (inverse_depth > -2 * sigma) & (depth_ratio > 0)


def fit_rotation(points0: Array, points1: Array, iterations: int = 10) -> tuple[Array, Array]:
    """Rotation_1_0 that best explains the matches without translation, and each match's residual angle in radians.

    Kabsch's algorithm, reweighted with Cauchy weights so that a minority of wrong matches does not matter.

    Raises GeometryError for fewer than 2 matches, and for points that are not finite.
    """
    if len(points0) < 2:
        raise GeometryError(f"{len(points0)} matches are too few for a rotation.")
    if not (np.isfinite(points0).all() and np.isfinite(points1).all()):
        raise GeometryError("Points that are not finite have no rotation.")
    rays0, rays1 = bearings(points0), bearings(points1)
    weights: Array = np.ones(len(rays0))
    for _ in range(iterations):
        u, _, vt = np.linalg.svd((rays1 * weights[:, None]).T @ rays0)
        rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
        residual = angles(rays0 @ rotation.T, rays1)
        scale = max(1.5 * float(np.median(residual)), 1e-6)
        weights = 1.0 / (1.0 + (residual / scale) ** 2)
    return rotation, residual


def angles(rays_a: Array, rays_b: Array) -> Array:
    """[N] angles in radians between unit rays; exact for small angles too."""
    return np.arctan2(np.linalg.norm(cross(rays_a.T, rays_b.T), axis=0), np.sum(rays_a * rays_b, axis=1))


def parallax(rotation_1_0: Array, points0: Array, points1: Array) -> Array:
    """[N] angles in radians between the matched rays once the rotation is removed."""
    return angles(bearings(points0) @ rotation_1_0.T, bearings(points1))
