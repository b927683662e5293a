# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The lens as the matches see it: what the calibration leaves is learned from keyframes while the camera moves.

Points of two views lie on each other's epipolar lines only where the calibration is right (self-calibration; Faugeras,
Luong and Maybank, ECCV 1992). Even the rectified images of public recordings miss that by several pixels at their
corners, by which the scale of a monocular map grows or shrinks with every metre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.correction import COUNT, corrected, slopes, uncorrected
from loftr_ros.geometry.se3 import rotation_from_vector, skew
from loftr_ros.geometry.two_view import homogeneous
from loftr_ros.odometry.keyframe import DEPENDENT
from loftr_ros.types import Array, Matches

# How wrong calibrations are: k1, p1, p2, focal length (share of it), centre (5 pixels of 700).
_PRIOR = np.array([0.02, 0.002, 0.002, 0.01, 0.007, 0.007])
# The model is one of lenses that see less than 63 degrees to any side.
_WIDEST = 2.0
_LEAST_MATCHES = 50
# What may be noise is not used: estimates of six numbers are shrunk by the positive part of 1 - 4 / D, where
# D is their squared length in deviations (James and Stein, 1961).
_NOISE = COUNT - 2
# What changes no point by more than this is not worth a change of all that is known (a 20th of a pixel of 500).
_NOTICED = 1e-4
_CAUCHY = 2.0  # residuals beyond this many standard deviations lose influence
_ITERATIONS = 3
_STEP = 1e-6  # of numerical derivatives
_MOTION = 5  # unknowns of a motion without length


class SelfCalibration:
    """Gathers what pairs of keyframes say about the camera, as an information filter.

    Attributes:
        camera: the given one, corrected by all that is known so far.
    """

    def __init__(self, camera: Camera) -> None:
        self._given, self.camera = camera, camera
        self._outline = camera.normalize(_outline(camera))
        finite = bool(np.isfinite(self._outline).all())
        self._possible = (
            camera.model != "equidistant" and finite and bool(np.linalg.norm(self._outline, axis=1).max() < _WIDEST)
        )
        self._information = np.diag(_PRIOR**-2)
        self._weighted = np.zeros(COUNT)

    @property
    def correction(self) -> Array:
        """[6] in use."""
        return np.array(self.camera.correction) if self.camera.correction else np.zeros(COUNT)

    @property
    def told(self) -> dict[str, float]:
        """What was learned: pixels by which the edge of the image was off at most, and the correction."""
        given, refined = self._outline, corrected(self._outline, self.correction)
        k1, p1, p2, focal, right, below = self.correction
        off = np.linalg.norm(refined - given, axis=1).max() * self._given.focal if self._possible else 0.0
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
        if not np.abs(change).max() > _NOTICED:
            return False
        self.camera = self._given.with_correction(best)
        return True


def moved(points: Array, before: Camera, after: Camera) -> Array:
    """Points [N, 2] that one correction of a camera made, as another one would have made them."""
    measured = uncorrected(points, np.array(before.correction)) if before.correction else points
    return corrected(measured, np.array(after.correction)) if after.correction else measured


def _outline(camera: Camera) -> Array:
    """[M, 2] pixels along the edge of the image."""
    x, y = np.linspace(0, camera.width - 1, 9), np.linspace(0, camera.height - 1, 9)
    across = [np.stack([x, np.full(9, row)], axis=1) for row in (0, camera.height - 1)]
    return np.concatenate([*across, *(np.stack([np.full(9, column), y], axis=1) for column in (0, camera.width - 1))])


@dataclass(frozen=True)
class _Pair:
    """Normalized points [N, 2] as the given calibration has them, and [N] deviations of points1."""

    points0: Array
    points1: Array
    sigma1: Array


@dataclass(frozen=True)
class _Motion:
    """rotation [3, 3], and a translation of length 1 along the first row of axes [3, 3]."""

    rotation: Array
    axes: Array

    def moved(self, step: Array) -> _Motion:
        """By a rotation vector, and along the other two axes."""
        direction = self.axes[0] + step[3] * self.axes[1] + step[4] * self.axes[2]
        return _Motion(rotation_from_vector(step[:3]) @ self.rotation, _axes(direction))


def _axes(direction: Array) -> Array:
    """[3, 3] orthonormal rows, the first along the direction."""
    unit = direction / np.linalg.norm(direction)
    return np.vstack([unit, np.linalg.svd(unit[None])[2][1:]])


def _residuals(pair: _Pair, correction: Array, motion: _Motion) -> Array:
    """[N] distances of measured points1 from their epipolar lines, in standard deviations.

    In the image as it is measured: lines in corrected images would look nearer where a correction makes images smaller.
    """
    essential = skew(motion.axes[0]) @ motion.rotation
    lines = homogeneous(corrected(pair.points0, correction)) @ essential.T
    off = np.sum(homogeneous(corrected(pair.points1, correction)) * lines, axis=1)
    normals = np.einsum("nij,ni->nj", slopes(pair.points1, correction), lines[:, :2])
    return off / (np.linalg.norm(normals, axis=1) * pair.sigma1 + 1e-12)


def _evidence(pair: _Pair, correction: Array, pose_1_0: Array) -> tuple[Array, Array] | None:
    """Information matrix [6, 6] of a pair about the correction, and that times the correction [6]; None: nothing."""
    motion = _Motion(pose_1_0[:3, :3], _axes(pose_1_0[:3, 3]))
    try:
        for _ in range(_ITERATIONS):
            system = _linearize(pair, correction, motion)
            motion = motion.moved(np.asarray(-np.linalg.solve(system.motion, system.motion_gradient), np.float64))
        system = _linearize(pair, correction, motion)
        eliminated = np.linalg.solve(system.motion, np.column_stack([system.mixed.T, system.motion_gradient]))
    except np.linalg.LinAlgError:
        return None
    information = system.lens - system.mixed @ eliminated[:, :COUNT]
    gradient = system.lens_gradient - system.mixed @ eliminated[:, COUNT]
    if not (np.isfinite(information).all() and np.isfinite(gradient).all()):
        return None
    return information, information @ correction - gradient


@dataclass(frozen=True)
class _System:
    """Normal equations: of the motion [5], of the correction [6], and between them."""

    motion: Array  # [5, 5]
    motion_gradient: Array  # [5]
    lens: Array  # [6, 6]
    lens_gradient: Array  # [6]
    mixed: Array  # [6, 5]


def _linearize(pair: _Pair, correction: Array, motion: _Motion) -> _System:
    """With Cauchy weights, and deviations scaled so that they fit the residuals."""
    start = _residuals(pair, correction, motion)
    columns = [_residuals(pair, correction, motion.moved(step)) for step in np.eye(_MOTION) * _STEP]
    columns += [_residuals(pair, correction + step, motion) for step in _STEP * np.eye(COUNT)]
    jacobian = (np.stack(columns, axis=1) - start[:, None]) / _STEP
    scale = max(float(np.median(np.abs(start))) / 0.674, 0.1)
    weight = 1 / (1 + (start / scale / _CAUCHY) ** 2) / scale**2
    weighted = jacobian * weight[:, None]
    normal, gradient = weighted.T @ jacobian, weighted.T @ start
    own = slice(_MOTION), slice(_MOTION, None)
    return _System(
        normal[own[0], own[0]] + 1e-9 * np.trace(normal[own[0], own[0]]) * np.eye(_MOTION),
        gradient[own[0]],
        normal[own[1], own[1]],
        gradient[own[1]],
        normal[own[1], own[0]],
    )
