# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Inverse depths of a keyframe's keypoints, refined by every frame that sees them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from loftr_ros.geometry.two_view import homogeneous
from loftr_ros.types import Array

# An estimate is precise enough to act as a 3D point when its deviation is below this share of it.
_PRECISE = 0.35
# After this many frames in a row that contradict a depth, it is forgotten.
_MOST_MISSES = 3
# Deviations never shrink below this share of the inverse depth: one keyframe's frames share errors.
_LEAST_RELATIVE_SIGMA = 0.005


class DepthMap:
    """Mean and standard deviation of the inverse depth 1 / z of each keypoint, by its index (`Matches.index0`).

    Keypoints that were never triangulated have an infinite deviation. The unit is that of the map.
    """

    def __init__(self) -> None:
        self._points: Array = np.zeros((0, 2))
        self._mean: Array = np.zeros(0)
        self._sigma: Array = np.zeros(0)
        self._misses: NDArray[np.int64] = np.zeros(0, np.int64)

    def lookup(self, index: NDArray[np.int64]) -> tuple[Array, Array]:
        """[N] means and [N] deviations of keypoints."""
        self._grow(index)
        return self._mean[index], self._sigma[index]

    def store(self, index: NDArray[np.int64], points: Array, mean: Array, sigma: Array) -> None:
        """Set the estimates of keypoints at normalized points [N, 2]; impossible ones become unknown.

        A point at infinity may come out slightly behind the camera: it stays, at a positive distance.
        """
        self._grow(index)
        possible = np.isfinite(mean) & np.isfinite(sigma) & (mean > -2 * sigma) & (sigma > 0)
        least = 1e-6
        mean = np.where(possible, np.maximum(mean, least), 0.0)
        self._points[index] = points
        self._mean[index] = mean
        self._sigma[index] = np.where(possible, np.maximum(sigma, _LEAST_RELATIVE_SIGMA * mean), np.inf)
        self._misses[index] = 0

    def update(
        self, index: NDArray[np.int64], points: Array, mean: Array, sigma: Array, inliers: NDArray[np.bool_]
    ) -> None:
        """Take the refined estimates of inliers; forget those that contradicted the pose several times in a row."""
        self._grow(index)
        self.store(index[inliers], points[inliers], mean[inliers], sigma[inliers])
        outliers = index[~inliers]
        self._misses[outliers] += 1
        self._sigma[outliers[self._misses[outliers] >= _MOST_MISSES]] = np.inf

    def rescale(self, factor: float) -> None:
        """Make all distances `factor` times longer."""
        self._mean /= factor
        self._sigma /= factor

    @staticmethod
    def move(maps: Sequence[DepthMap], moved: Callable[[Array], Array]) -> None:
        """Put the keypoints whose depth is known to other normalized points [N, 2], all in one call."""
        known = [np.isfinite(each._sigma) for each in maps]
        points = in_one_call(moved, [each._points[which] for each, which in zip(maps, known)])
        for each, which, part in zip(maps, known, points):
            each._points[which] = part

    @property
    def precise(self) -> NDArray[np.int64]:
        """Indices of the keypoints that can act as 3D points."""
        return np.flatnonzero(self._sigma < _PRECISE * self._mean)

    def points(self, index: NDArray[np.int64]) -> Array:
        """[N, 2] normalized points of keypoints that were stored."""
        return self._points[index]

    def points3d(self, index: NDArray[np.int64]) -> Array:
        """[N, 3] points in the keyframe's camera frame."""
        return homogeneous(self._points[index]) / self._mean[index, None]

    def relative_sigma(self, index: NDArray[np.int64]) -> Array:
        """[N] deviation over mean."""
        return self._sigma[index] / self._mean[index]

    def _grow(self, index: NDArray[np.int64]) -> None:
        missing = int(index.max(initial=-1)) + 1 - len(self._mean)
        if missing > 0:
            self._points = np.concatenate([self._points, np.zeros((missing, 2))])
            self._mean = np.concatenate([self._mean, np.zeros(missing)])
            self._sigma = np.concatenate([self._sigma, np.full(missing, np.inf)])
            self._misses = np.concatenate([self._misses, np.zeros(missing, np.int64)])


def in_one_call(moved: Callable[[Array], Array], parts: Sequence[Array]) -> list[Array]:
    """`moved` of several arrays of points [N, 2]: for a few points the call is most of what it costs."""
    if not parts:
        return []
    ends = np.cumsum([len(each) for each in parts])[:-1]
    return np.split(moved(np.concatenate(parts)), ends)


def is_precise(mean: Array, sigma: Array) -> NDArray[np.bool_]:
    """[N] whether inverse depths are known well enough to act as 3D points."""
    return sigma < _PRECISE * mean
