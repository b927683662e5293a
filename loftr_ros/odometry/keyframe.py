# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Keyframes: features that are computed once, a pose, and depths."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.se3 import transform
from loftr_ros.geometry.triangulation import triangulate
from loftr_ros.geometry.two_view import homogeneous
from loftr_ros.odometry.depth import DepthMap
from loftr_ros.types import Array, Frame, Matches

# The geometry takes the errors of matches for independent. Those of neighbours are not, nor those of one keypoint in
# several frames: on rendered rooms, with SIFT and with LoFTR, poses are two to three times as wrong as it says.
DEPENDENT = 2.5**2
# Depth of a new keypoint is taken over from an old point that lies this close in the image (share of the focal length).
_SAME_POINT = 0.008
# A depth that is taken over from a neighbour is this much less certain, for the slope of the surface between them.
_SLOPE_SIGMA = 0.03
# Two estimates of one inverse depth agree when they differ by less than this many deviations.
_AGREE = 3.0


@dataclass(eq=False)
class Node:
    """A frame with a pose, as the window knows it.

    Attributes:
        pose_world_camera: [4, 4].
        covariance: [6, 6] of that pose: position, rotation vector, in world axes.
    """

    pose_world_camera: Array
    covariance: Array


@dataclass(eq=False)
class Keyframe(Node):
    """A frame that others are matched with.

    Attributes:
        frame: the camera frame.
        features: the matcher's features of it.
        depths: inverse depths of its keypoints; measured: those that a depth camera told.
        best_inliers: most inliers that any frame had with it, had the matcher looked at all matches; best_fitting: the
            same of matches that fit one motion, while the map had not started.
    """

    frame: Frame
    features: Any
    depths: DepthMap = field(default_factory=DepthMap)
    measured: DepthMap = field(default_factory=DepthMap)
    best_inliers: float = 0.0
    best_fitting: float = 0.0


@dataclass(frozen=True)
class KeyframePoints:
    """What a keyframe knows of its keypoints' depths.

    Attributes:
        pose_world_camera: [4, 4].
        index: [N] keypoints, as in Matches.index0.
        points: [N, 3] in the keyframe's camera frame, in the unit of the map.
        relative_sigma: [N] deviation of the inverse depth as a share of it.
    """

    pose_world_camera: Array
    index: NDArray[np.int64]
    points: Array
    relative_sigma: Array

    @property
    def world(self) -> Array:
        """[N, 3] points in the world."""
        return transform(self.pose_world_camera, self.points)


def keyframe_points(keyframe: Keyframe, most_relative_sigma: float = np.inf) -> KeyframePoints:
    """The points of a keyframe whose inverse depth is known to a share of itself."""
    index = keyframe.depths.precise
    sigma = keyframe.depths.relative_sigma(index)
    index, sigma = index[sigma <= most_relative_sigma], sigma[sigma <= most_relative_sigma]
    return KeyframePoints(keyframe.pose_world_camera, index, keyframe.depths.points3d(index), sigma)


@dataclass(frozen=True)
class NormalizedMatches:
    """Matches as a camera with focal length 1 would see them: [N, 2], [N, 2], and [N] deviations of points1."""

    points0: Array
    points1: Array
    sigma1: Array

    def __getitem__(self, selection: NDArray[Any]) -> NormalizedMatches:
        return NormalizedMatches(self.points0[selection], self.points1[selection], self.sigma1[selection])


def normalize(matches: Matches, camera: Camera) -> NormalizedMatches:
    return NormalizedMatches(
        camera.normalize(matches.points0), camera.normalize(matches.points1), matches.sigma / camera.focal
    )


def triangulate_keyframe(
    keyframe: Keyframe, matches: Matches, normalized: NormalizedMatches, pose_old_new: Array, threshold: float
) -> NDArray[np.bool_]:
    """Give a new keyframe its depths from its matches (0: new, 1: old) with the previous keyframe.

    Returns [N] which matches agree with the pose.

    Args:
        pose_old_new: [4, 4]; its length carries the scale from one keyframe to the next.
        threshold: largest distance from the epipolar line, in normalized units.
    """
    mean, sigma = triangulate(normalized.points0, normalized.points1, pose_old_new, normalized.sigma1)
    position = homogeneous(normalized.points0) @ pose_old_new[:3, :3].T + mean[:, None] * pose_old_new[:3, 3]
    depth = np.where(position[:, 2] > 1e-6, position[:, 2], np.inf)
    off_line = np.linalg.norm(position[:, :2] / depth[:, None] - normalized.points1, axis=1)
    good = np.isfinite(depth) & (off_line < threshold)
    keyframe.depths.store(matches.index0[good], normalized.points0[good], mean[good], sigma[good])
    return good


def hand_over_depths(
    old: Keyframe, new: Keyframe, pose_new_old: Array, matches: Matches, normalized: NormalizedMatches
) -> None:
    """Fuse what the old keyframe knows of the depths into the new one's, at the new one's matched keypoints."""
    source = old.depths.precise
    if len(source) == 0 or len(matches) == 0:
        return
    points = transform(pose_new_old, old.depths.points3d(source))
    front = points[:, 2] > 1e-6
    points, source = points[front], source[front]
    if len(points) == 0:
        return
    distance, nearest = cKDTree(points[:, :2] / points[:, 2:]).query(
        normalized.points0, distance_upper_bound=_SAME_POINT
    )
    near = np.isfinite(distance)
    index, nearest = matches.index0[near], nearest[near]
    prior = 1.0 / points[nearest, 2]
    slope = _SLOPE_SIGMA * np.minimum(distance[near] / _SAME_POINT, 1.0)
    prior_sigma = prior * np.hypot(old.depths.relative_sigma(source[nearest]), slope)
    mean, sigma = new.depths.lookup(index)
    fused = fuse(mean, sigma, prior, prior_sigma)
    new.depths.store(index, normalized.points0[near], *fused)


def fuse(mean: Array, sigma: Array, prior: Array, prior_sigma: Array) -> tuple[Array, Array]:
    """Product of two Gaussians where they agree; where they do not, the first one as it is."""
    weight, prior_weight = 1.0 / sigma**2, 1.0 / prior_sigma**2  # an infinite deviation has weight 0
    total = weight + prior_weight
    agree = np.abs(mean - prior) < _AGREE * np.hypot(sigma, prior_sigma)
    fused_mean = np.where(agree, (mean * weight + prior * prior_weight) / total, mean)
    return fused_mean, np.where(agree, total**-0.5, sigma)


def measure_depths(keyframe: Keyframe, matches: Matches, normalized: NormalizedMatches, max_depth: float) -> None:
    """Give keypoints the depths of the aligned depth image, where it has one and they have none of it yet."""
    depth_image = keyframe.frame.depth
    if depth_image is None or len(matches) == 0:
        return
    new = np.flatnonzero(np.isinf(keyframe.measured.lookup(matches.index0)[1]))
    matches, normalized = matches[new], normalized[new]
    column, row = np.rint(matches.points0).astype(np.int64).T
    inside = (row >= 0) & (row < depth_image.shape[0]) & (column >= 0) & (column < depth_image.shape[1])
    depth = np.zeros(len(matches))
    depth[inside] = depth_image[row[inside], column[inside]]
    good = np.isfinite(depth) & (depth > 0.05) & (depth < max_depth)
    inverse_depth = 1.0 / depth[good]
    sigma = inverse_depth**2 * depth_sigma(depth[good])
    for depths in (keyframe.depths, keyframe.measured):
        depths.store(matches.index0[good], normalized.points0[good], inverse_depth, sigma)


def depth_sigma(depth: Array) -> Array:
    """Deviation in metres of a depth camera at a depth in metres: after Khoshelham and Elberink, Sensors 2012."""
    return 0.005 + 0.003 * depth**2
