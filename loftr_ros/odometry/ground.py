# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The ground under a vehicle: a plane that the camera moves along.

A point on the plane n . X = h (n the unit normal, h the camera's distance) has the inverse depth ray . n / h: the plane
is linear in what is measured, with the measurements' own deviations. And a vehicle moves along its ground: a normal
perpendicular to the way leaves one angle unknown instead of two, and heights that vary several times less (on a
drive through a town by 2 % instead of 9 %), since a small error of the slope moves the plane under the camera far.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loftr_ros.geometry.two_view import homogeneous
from loftr_ros.types import Array

# Points take part that lie this far below the plane of motion (sine of the angle) with a depth known this well.
_BELOW = 0.05
_DEPTH_SIGMA = 0.15
_ROUGHNESS = 0.02  # no ground is flatter than this, as a share of its depth
_MOST_ROLL = np.radians(15.0)  # from the camera's y axis, about the direction of motion
_ROLL_SIGMA = np.radians(1.0)  # of a known roll: a camera on wheels
_MOST_SLOPE = np.radians(15.0)  # where the slope is searched
_LEAST_POINTS = 20
_LEAST_SHARE = 0.25  # of the points below; a stripe of a wall is fewer
_TRIALS = 300
_INLIER = 3.0  # deviations
_ITERATIONS = 10


@dataclass(frozen=True)
class Ground:
    """A plane along which the camera moves.

    Attributes:
        height: distance of the camera, in the unit of the depths.
        points: number of points that lie on it.
        roll: angle of its normal about the direction of motion, from the camera's y axis; radians.
        slope: angle in radians between the motion and the plane that fits best without the condition that they are
            parallel; None where no such plane stands out.
    """

    height: float
    points: int
    roll: float
    slope: float | None


def find_ground(
    points: Array, inverse_depth: Array, sigma: Array, travel: Array, roll: float | None = None
) -> Ground | None:
    """The plane most points lie on among those parallel to the motion; None where none stands out.

    Args:
        points: [N, 2] normalized; inverse_depth, sigma: [N].
        travel: [3] direction of motion in the camera's axes, of any length.
        roll: that of earlier planes, in radians, if it is known.
    """
    forward = travel / np.linalg.norm(travel)
    down = np.array([0.0, 1.0, 0.0]) - forward[1] * forward
    if np.linalg.norm(down) < 0.5:  # it moves along its own y axis: up or down
        return None
    down /= np.linalg.norm(down)
    axes = np.stack([down, np.cross(forward, down), forward], axis=1)
    rays = homogeneous(points)
    usable = (rays @ down > _BELOW * np.linalg.norm(rays, axis=1)) & (sigma < _DEPTH_SIGMA * inverse_depth)
    if usable.sum() < _LEAST_POINTS:
        return None
    rays, inverse_depth, sigma = rays[usable] @ axes, inverse_depth[usable], sigma[usable]
    deviation = np.hypot(sigma, _ROUGHNESS * inverse_depth)
    plane = _fit(rays[:, :2], inverse_depth, deviation, roll)
    if plane is None:
        return None
    return Ground(
        height=1.0 / float(np.linalg.norm(plane)),
        points=int(_agreeing(rays[:, :2], inverse_depth, deviation, plane).sum()),
        roll=float(np.arctan2(plane[1], plane[0])),
        slope=_slope(rays, inverse_depth, deviation),
    )


def _slope(rays: Array, inverse_depth: Array, deviation: Array) -> float | None:
    plane = _fit(rays, inverse_depth, deviation, None)
    return None if plane is None else float(np.arcsin(plane[2] / np.linalg.norm(plane)))


def _fit(rays: Array, inverse_depth: Array, deviation: Array, roll: float | None) -> Array | None:
    """[D] n / h with rays [N, D] @ n / h = inverse_depth: RANSAC, then least squares with Geman-McClure weights."""
    found = _most_agreed(rays, inverse_depth, deviation)
    if found is None:
        return None
    plane = np.asarray(found, dtype=np.float64)
    for _ in range(_ITERATIONS):
        error = (rays @ plane - inverse_depth) / deviation
        weight = 1.0 / ((1.0 + error**2 / 2) * deviation) ** 2
        weighted = rays * weight[:, None]
        normal, right = weighted.T @ rays, weighted.T @ inverse_depth
        if roll is not None:
            side = np.zeros(len(plane))
            side[:2] = np.array([-np.tan(roll), 1.0]) / (_ROLL_SIGMA * abs(plane[0]))
            normal = normal + np.outer(side, side)
        try:
            plane = np.asarray(np.linalg.solve(normal, right))
        except np.linalg.LinAlgError:
            return None
        if not _is_below(plane[None])[0]:
            return None
    agreeing = _agreeing(rays, inverse_depth, deviation, plane).sum()
    return plane if agreeing >= max(_LEAST_POINTS, _LEAST_SHARE * len(rays)) else None


def _agreeing(rays: Array, inverse_depth: Array, deviation: Array, plane: Array) -> NDArray[np.bool_]:
    return np.abs(rays @ plane - inverse_depth) < _INLIER * deviation


def _most_agreed(rays: Array, inverse_depth: Array, deviation: Array) -> Array | None:
    samples = np.random.default_rng(0).integers(0, len(rays), (_TRIALS, rays.shape[1]))
    chosen = rays[samples]
    solvable = np.abs(np.linalg.det(chosen)) > 1e-6
    planes = np.linalg.solve(chosen[solvable], inverse_depth[samples[solvable]][..., None])[..., 0]
    planes = planes[_is_below(planes)]
    if len(planes) == 0:
        return None
    error = (planes @ rays.T - inverse_depth) / deviation
    best: Array = planes[np.argmin(np.minimum(error**2, _INLIER**2).sum(axis=1))]
    return best


def _is_below(planes: Array) -> Array:
    """[T] whether planes [T, D] (down, side and, with D = 3, forward) lie below the camera, within the angles."""
    flat = planes[:, 0] > 0
    level = np.abs(planes[:, 1]) < np.tan(_MOST_ROLL) * planes[:, 0]
    if planes.shape[1] == 3:
        level &= np.abs(planes[:, 2]) < np.tan(_MOST_SLOPE) * planes[:, 0]
    return flat & level
