# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""A corrected camera as a calibration that every program understands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import least_squares

from loftr_ros.geometry.camera import Camera
from loftr_ros.types import Array

_COLUMNS, _ROWS = 17, 13  # of the pixels that are compared
_COEFFICIENTS = 5  # of plumb_bob


def refitted(camera: Camera) -> Camera:
    """The camera of the same model, without a correction, that sees all pixels as this one does.

    To a tenth of a pixel for rectified images; at the corners of lenses that distort much up to a fifth of the
    correction is left. Not for equidistant cameras, which are not corrected.
    """
    if not camera.correction:
        return camera
    x, y = np.meshgrid(np.linspace(0, camera.width - 1, _COLUMNS), np.linspace(0, camera.height - 1, _ROWS))
    pixels = np.stack([x, y], axis=2).reshape(-1, 2)
    rays = np.column_stack([camera.normalize(pixels), np.ones(len(pixels))])
    model = camera.model or "plumb_bob"
    distortion = np.pad(camera.distortion, (0, max(_COEFFICIENTS - len(camera.distortion), 0)))
    first = replace(camera, model=model, distortion=tuple(distortion), correction=())

    def changed(change: Array) -> Camera:
        matrix, coefficients = first.matrix.copy(), np.array(first.distortion)
        matrix[[0, 1, 0, 1], [0, 1, 2, 2]] += change[:4] * first.focal
        coefficients += change[4:]
        return replace(first, matrix=matrix, distortion=tuple(float(c) for c in coefficients))

    def off(change: Array) -> Array:
        return (changed(change).project(rays) - pixels).ravel()

    return changed(least_squares(off, np.zeros(4 + len(first.distortion)), x_scale="jac").x)
