# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The lens as the matches see it: what the calibration leaves is learned from keyframes while the camera moves.

Points of two views lie on each other's epipolar lines only where the calibration is right (self-calibration; Faugeras,
Luong and Maybank, ECCV 1992). Even the rectified images of public recordings miss that by several pixels at their
corners, by which the scale of a monocular map grows or shrinks with every metre.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.correction import COUNT, changes, corrected, slopes, uncorrected
from loftr_ros.geometry.se3 import rotation_from_vector, skew
from loftr_ros.geometry.two_view import homogeneous
from loftr_ros.odometry.keyframe import DEPENDENT
from loftr_ros.types import Array, Matches

# How wrong calibrations are: k1, p1, p2, focal length (share of it), centre (5 pixels of 700).
_PRIOR = np.array([0.02, 0.002, 0.002, 0.01, 0.007, 0.007])
# The model is one of lenses whose corners are less than 63 degrees off the axis.
_WIDEST = 2.0
_LEAST_MATCHES = 50
# What may be noise is not used: the estimate is shrunk by the positive part of 1 - 4 / D, D its squared length in
# deviations, after James and Stein (1961). Stricter than theirs, since D contains the prior.
_NOISE = COUNT - 2
# What changes no point by more than this is not worth a change of all that is known (a 20th of a pixel of 500).
_NOTICED = 1e-4
# A correction that would make the image shrink to less than this share of its area anywhere cannot be.
_LEAST_SLOPE = 0.2
_CAUCHY = 2.0  # residuals beyond this many standard deviations lose influence
_ITERATIONS = 2
_STEP = 1e-6  # of numerical derivatives
_MOTION = 5  # unknowns of a motion without length


class SelfCalibration:
    """Gathers what pairs of keyframes say about the camera, as an information filter.

    Attributes:
        camera: the given one, corrected by all that is known so far.
        told: what was learned: pixels by which the edge of the image was off at most (off_px), and the correction.
    """

    def __init__(self, camera: Camera) -> None:
        self._given, self.camera = replace(camera, correction=()), camera
        self._pixels = _outline(camera)
        self._outline = self._given.normalize(self._pixels)
        finite = bool(np.isfinite(self._outline).all())
        self._possible = (
            camera.model != "equidistant" and finite and bool(np.linalg.norm(self._outline, axis=1).max() < _WIDEST)
        )
        self._information = np.diag(_PRIOR**-2)
        self._weighted = np.zeros(COUNT)
        self.told = self._told()

    @property
    def correction(self) -> Array:
        """[6] in use."""
        return np.array(self.camera.correction) if self.camera.correction else np.zeros(COUNT)

    def _told(self) -> dict[str, float]:
        k1, p1, p2, focal, right, below = self.correction
        off = 0.0
        if self._possible:
            refined = homogeneous(corrected(self._outline, self.correction))
            off = np.linalg.norm(self._given.project(refined) - self._pixels, axis=1).max()
        numbers = {
            "off_px": (off, 2),
            "k1": (k1, 5),
            "p1": (p1, 5),
            "p2": (p2, 5),
            "focal_percent": (100 * focal, 3),
            "centre_x_px": (right * self._given.matrix[0, 0], 2),
            "centre_y_px": (below * self._given.matrix[1, 1], 2),
        }
        return {name: round(float(value), digits) for name, (value, digits) in numbers.items()}

    def learn(self, matches: Matches, pose_1_0: Array) -> bool:
        """Take in the matches of two views, all of which fit the motion; True where `camera` is another one now.

        pose_1_0: [4, 4]; the length of its translation does not matter.
        """
        length = float(np.linalg.norm(pose_1_0[:3, 3]))
        if not self._possible or len(matches) < _LEAST_MATCHES or not length > 0:
            return False
        pair = _Pair(
            self._given.normalize(matches.points0),
            self._given.normalize(matches.points1),
            matches.sigma / self._given.focal,
        )
        evidence = _evidence(pair, self.correction, pose_1_0)
        if evidence is None:
            return False
        self._information += evidence[0] / DEPENDENT
        self._weighted += evidence[1] / DEPENDENT
        best = np.linalg.solve(self._information, self._weighted)
        best *= max(0.0, 1 - _NOISE / max(float(best @ self._weighted), 1e-9))
        change = corrected(self._outline, best) - corrected(self._outline, self.correction)
        if not np.abs(change).max() > _NOTICED or np.linalg.det(slopes(self._outline, best)).min() < _LEAST_SLOPE:
            return False
        self.camera = self._given.with_correction(best)
        self.told = self._told()
        return True


def recorrected(points: Array, before: Camera, after: Camera) -> Array:
    """Points [N, 2] that one correction of a camera made, as another one would have made them."""
    measured = uncorrected(points, np.array(before.correction)) if before.correction else points
    return corrected(measured, np.array(after.correction)) if after.correction else measured


def _outline(camera: Camera) -> Array:
    """[M, 2] pixels along the edge of the image."""
    x, y = np.linspace(0, camera.width - 1, 9), np.linspace(0, camera.height - 1, 9)
    across = [np.stack([x, np.full(9, row)], axis=1) for row in (0, camera.height - 1)]
    return np.concatenate([*across, *(np.stack([np.full(9, column), y], axis=1) for column in (0, camera.width - 1))])


class _Pair:
    """Two views as the given calibration has them: normalized points [N, 2], and [N] deviations of points1."""

    def __init__(self, points0: Array, points1: Array, sigma1: Array) -> None:
        self.points0, self.points1, self.sigma1 = points0, points1, sigma1
        self._changes0, self._changes1 = changes(points0), changes(points1)

    def sight(self, correction: Array) -> _Sight:
        return _Sight(
            homogeneous(self.points0 - self._changes0 @ correction),
            homogeneous(self.points1 - self._changes1 @ correction),
            slopes(self.points1, correction),
        )


@dataclass(frozen=True)
class _Sight:
    """Corrected rays [N, 3] of both views, and the derivative [N, 2, 2] of the second by its measured points."""

    rays0: Array
    rays1: Array
    slopes1: Array


@dataclass(frozen=True)
class _Motion:
    """rotation [3, 3], and the direction of the translation [3]."""

    rotation: Array
    direction: Array

    def moved(self, step: Array, axes: Array) -> _Motion:
        """By a rotation vector, and along two axes [2, 3] across the direction."""
        direction = self.direction + step[3:] @ axes
        return _Motion(rotation_from_vector(step[:3]) @ self.rotation, direction / np.linalg.norm(direction))

    @property
    def axes(self) -> Array:
        """[2, 3] unit vectors across the direction."""
        axes: Array = np.linalg.svd(self.direction[None])[2][1:]
        return axes


def _residuals(sight: _Sight, motion: _Motion, sigma1: Array) -> Array:
    """[N] distances of measured points1 from their epipolar lines, in standard deviations.

    In the image as it is measured: lines in corrected images would look nearer where a correction makes images smaller.
    """
    lines = sight.rays0 @ (skew(motion.direction) @ motion.rotation).T
    off = np.einsum("ni,ni->n", sight.rays1, lines)
    normals = np.einsum("nij,ni->nj", sight.slopes1, lines[:, :2])
    return off / (np.hypot(normals[:, 0], normals[:, 1]) * sigma1 + 1e-12)


def _evidence(pair: _Pair, correction: Array, pose_1_0: Array) -> tuple[Array, Array] | None:
    """Information matrix [6, 6] of a pair about the correction, and that times the correction [6]; None: nothing."""
    sight = pair.sight(correction)
    motion = _Motion(pose_1_0[:3, :3], pose_1_0[:3, 3] / np.linalg.norm(pose_1_0[:3, 3]))
    try:
        for _ in range(_ITERATIONS):
            start, columns = _about_motion(sight, motion, pair.sigma1)
            normal, gradient = _normal_equations(start, columns)
            motion = motion.moved(np.asarray(-np.linalg.solve(normal, gradient), np.float64), motion.axes)
        start, columns = _about_motion(sight, motion, pair.sigma1)
        shifted = (pair.sight(correction + step) for step in _STEP * np.eye(COUNT))
        columns += [(_residuals(each, motion, pair.sigma1) - start) / _STEP for each in shifted]
        normal, gradient = _normal_equations(start, columns)
        gradient = gradient * _step_factor(start)
        mixed = normal[_MOTION:, :_MOTION]
        eliminated = np.linalg.solve(normal[:_MOTION, :_MOTION], np.column_stack([mixed.T, gradient[:_MOTION]]))
    except np.linalg.LinAlgError:
        return None
    information = normal[_MOTION:, _MOTION:] - mixed @ eliminated[:, :COUNT]
    gradient = gradient[_MOTION:] - mixed @ eliminated[:, COUNT]
    if not (np.isfinite(information).all() and np.isfinite(gradient).all()):
        return None
    return information, information @ correction - gradient


def _about_motion(sight: _Sight, motion: _Motion, sigma1: Array) -> tuple[Array, list[Array]]:
    """Residuals [N], and their derivatives [N] by each of the five numbers of a motion without length."""
    start, axes = _residuals(sight, motion, sigma1), motion.axes
    steps = (motion.moved(step, axes) for step in _STEP * np.eye(_MOTION))
    return start, [(_residuals(sight, each, sigma1) - start) / _STEP for each in steps]


def _weights(start: Array) -> tuple[Array, Array, float]:
    """Cauchy weights [N] of residuals, their u squared [N], and the factor by which residuals exceed deviations."""
    scale = max(float(np.median(np.abs(start))) / 0.674, 0.1)
    squared = (start / scale / _CAUCHY) ** 2
    return 1 / (1 + squared), squared, scale


def _step_factor(start: Array) -> float:
    """By how much one step with these weights falls short, since they count errors but not how they change with them.

    The slope of a residual r's pull w r is w^2 (1 - u^2), not w. Others iterate; a pair's evidence is taken once.
    """
    weight, squared, _ = _weights(start)
    return float(weight.sum() / max((weight**2 * (1 - squared)).sum(), 0.3 * weight.sum()))


def _normal_equations(start: Array, columns: list[Array]) -> tuple[Array, Array]:
    """[K, K] and [K], with Cauchy weights, and deviations scaled so that they fit the residuals."""
    jacobian = np.stack(columns, axis=1)
    weight, _, scale = _weights(start)
    weighted = jacobian * (weight / scale**2)[:, None]
    normal = weighted.T @ jacobian
    motion = np.arange(_MOTION)
    normal[motion, motion] += 1e-9 * np.trace(normal[:_MOTION, :_MOTION])  # no direction is without any hold
    return normal, weighted.T @ start
