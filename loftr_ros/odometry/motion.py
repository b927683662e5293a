# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Does the camera move at all, and if so, does it move from its place?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.se3 import rotation_angle_deg
from loftr_ros.geometry.two_view import fit_rotation, homogeneous
from loftr_ros.types import Array, Matches

_BLOCKS = 4  # the image is cut into so many blocks along each side
_LEAST_PER_BLOCK = 5
_LEAST_COMMON = 20
_SIGMA_PER_MAD = 1.4826  # of a normal variable
_SIGNIFICANT = 2.0
# A single match moves by noise up to this many times what the average of many may move.
_NOISE = 4.0


class Motion(Enum):
    STILL = "still"
    ROTATING = "rotating"
    MOVING = "moving"


@dataclass
class Reference:
    """Where the keyframe's keypoints were seen when the camera last moved: the place that stillness is judged from.

    Judging from the previous frame instead would miss a motion that is slow enough.

    points: [K, 2] pixels by keypoint index, NaN where unseen; None while the reference is the keyframe itself.
    rotation: [3, 3] rotation_world_camera there; None where it is not known.
    """

    points: Array | None = None
    rotation: Array | None = None

    @staticmethod
    def unknown() -> Reference:
        """No keypoint was seen: every motion is taken for one."""
        return Reference(np.zeros((0, 2)))

    @staticmethod
    def of(matches: Matches, inliers: NDArray[np.bool_], rotation: Array) -> Reference:
        kept = matches[inliers]
        points = np.full((int(kept.index0.max(initial=-1)) + 1, 2), np.nan)
        points[kept.index0] = kept.points1
        return Reference(points, rotation)

    def lookup(self, matches: Matches) -> Array:
        """[N, 2] pixels, NaN where unseen."""
        if self.points is None:
            return matches.points0
        found = np.full((len(matches), 2), np.nan)
        known = matches.index0 < len(self.points)
        found[known] = self.points[matches.index0[known]]
        return found


def judge_motion(
    reference: Reference, matches: Matches, camera: Camera, still_px: float, rotation: Array | None = None
) -> Motion:
    """Compare where inlier matches are now with where they were at the reference.

    The image motion is averaged over blocks of the image, so that the noise of matches does not look like motion.

    Args:
        rotation: [3, 3] rotation_world_camera now, where it is known. Along a plane a translation looks like a
            rotation; one that contradicts the known rotation is none.
    """
    before = reference.lookup(matches)
    known = np.isfinite(before[:, 0])
    before, now = before[known], matches.points1[known]
    if len(now) < _LEAST_COMMON or still_px == 0:
        return Motion.MOVING
    if _is_small(before, now - before, camera, still_px):
        return Motion.STILL
    turn, _ = fit_rotation(camera.normalize(before), camera.normalize(now))
    if rotation is not None and reference.rotation is not None:
        other = rotation_angle_deg(turn @ reference.rotation.T @ rotation)
        if np.radians(other) > _NOISE * still_px / camera.focal:
            return Motion.MOVING
    turned = homogeneous(camera.normalize(before)) @ turn.T
    if np.any(turned[:, 2] < 0.1):
        return Motion.MOVING
    left = now - camera.project(turned)
    return Motion.ROTATING if _is_small(before, left, camera, still_px) else Motion.MOVING


def _is_small(points: Array, motion: Array, camera: Camera, still_px: float) -> bool:
    """Whether motions [N, 2] of matches at points [N, 2] are no more than the noise of matches."""
    if float(np.median(np.linalg.norm(motion, axis=1))) > _NOISE * still_px:
        return False
    return coherent_motion(points, motion, camera) < still_px


def coherent_motion(points: Array, motion: Array, camera: Camera) -> float:
    """Root mean square, over blocks of the image, of each block's median motion [N, 2] in pixels.

    What the scatter within a block makes likely by chance is taken off, so that a few wrong matches at the border of
    the image do not look like motion.
    """
    column = np.clip(points[:, 0] / camera.width * _BLOCKS, 0, _BLOCKS - 1).astype(np.int64)
    row = np.clip(points[:, 1] / camera.height * _BLOCKS, 0, _BLOCKS - 1).astype(np.int64)
    block = row * _BLOCKS + column
    blocks = [motion[block == b] for b in np.unique(block) if np.sum(block == b) >= _LEAST_PER_BLOCK] or [motion]
    return float(np.sqrt(np.mean([_squared_median(each) for each in blocks])))


def _squared_median(motion: Array) -> float:
    """Squared length of the median of [N, 2], less what it would be without any motion; 0 at least."""
    median = np.median(motion, axis=0)
    scatter = _SIGMA_PER_MAD * np.median(np.abs(motion - median), axis=0)
    # The median of N normal variables has a variance of pi / 2 sigma^2 / N.
    chance = _SIGNIFICANT**2 * np.pi / 2 * scatter**2 / len(motion)
    return float(np.sum(np.maximum(median**2 - chance, 0.0)))
