# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What a calibration leaves: a small change of normalized points, linear in six numbers.

A lens whose first coefficient, focal length and centre are a little other than its calibration says puts a point that
belongs at u = (x, y) to the place u + B(u) c, with the terms of Brown ("Decentering distortion of lenses", 1966):
(k1, p1, p2) as in OpenCV's plumb_bob, then the share by which the true focal length is longer, and how far right and
below of the given centre the true one lies, in focal lengths. As c is small, a measured point x is moved to x - B(x) c.
"""

from __future__ import annotations

import numpy as np

from loftr_ros.types import Array

COUNT = 6
_ITERATIONS = 6
_LEAST_STEP = 1e-9  # after one of this size, the next one is that squared
_EDGE = 2.0  # of what the model is for
_LEAST_DETERMINANT = 0.05  # steps stay finite where there is no inverse


def changes(points: Array) -> Array:
    """B [N, 2, 6] at normalized points [N, 2]."""
    x, y = points[:, 0], points[:, 1]
    squared, mixed = x**2 + y**2, 2 * x * y
    result = np.zeros((len(points), 2, COUNT))
    result[:, :, 0] = points * squared[:, None]
    result[:, 0, 1], result[:, 1, 1] = mixed, squared + 2 * y**2
    result[:, 0, 2], result[:, 1, 2] = squared + 2 * x**2, mixed
    result[:, :, 3] = points
    result[:, 0, 4] = result[:, 1, 5] = 1.0
    return result


def corrected(points: Array, correction: Array) -> Array:
    """Where measured normalized points [N, 2] belong."""
    return points - changes(points) @ correction


def uncorrected(points: Array, correction: Array) -> Array:
    """The inverse of `corrected` by Newton's method, where it is one; far outside of any image it is not."""
    measured = points
    for _ in range(_ITERATIONS):
        near = np.clip(measured, -_EDGE, _EDGE)  # what the change is at the edge goes on outside
        slope = slopes(near, correction)
        (a, b), (c, d) = slope[:, 0].T, slope[:, 1].T
        off = measured - changes(near) @ correction - points
        determinant = np.maximum(a * d - b * c, _LEAST_DETERMINANT)
        step = np.stack([d * off[:, 0] - b * off[:, 1], a * off[:, 1] - c * off[:, 0]], axis=1) / determinant[:, None]
        measured = measured - np.clip(step, -_EDGE, _EDGE)
        if (np.abs(step) < _LEAST_STEP).all():
            break
    return measured


def slopes(points: Array, correction: Array) -> Array:
    """[N, 2, 2] derivative of `corrected` by the point."""
    x, y = points[:, 0], points[:, 1]
    k1, p1, p2, focal = correction[:4]
    result = np.empty((len(points), 2, 2))
    across = 2 * (k1 * x * y + p1 * x + p2 * y)
    result[:, 0, 0] = 1 - focal - k1 * (3 * x**2 + y**2) - 2 * p1 * y - 6 * p2 * x
    result[:, 1, 1] = 1 - focal - k1 * (x**2 + 3 * y**2) - 6 * p1 * y - 2 * p2 * x
    result[:, 0, 1] = result[:, 1, 0] = -across
    return result
