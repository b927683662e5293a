# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Triangulation of inverse depths. Points are normalized (x / z, y / z), inverse depths are 1 / z in camera 0."""

from __future__ import annotations

import numpy as np

from loftr_ros.types import Array


def triangulate(points0: Array, points1: Array, pose_1_0: Array, sigma1: Array) -> tuple[Array, Array]:
    """Inverse depths of matches, by least squares over both coordinates in image 1.

    With q = R (x0, y0, 1) and inverse depth d the point projects to (q + d t) / (q_z + d t_z), so each coordinate of
    image 1 gives one equation that is linear in d: d (t_x - x1 t_z) = x1 q_z - q_x. Points at infinity are no
    special case (Civera et al., T-RO 2008).

    Args:
        points0, points1: [N, 2].
        pose_1_0: [4, 4]; its translation sets the unit.
        sigma1: [N] standard deviation of points1.

    Returns:
        [N] inverse depths, and [N] their standard deviations (infinite where the rays do not tell).
    """
    rays = np.concatenate([points0, np.ones((len(points0), 1))], axis=1) @ pose_1_0[:3, :3].T
    translation = pose_1_0[:3, 3]
    slope = translation[:2] - points1 * translation[2]
    offset = points1 * rays[:, 2:] - rays[:, :2]
    information = np.sum(slope**2, axis=1)
    safe = np.where(information > 0, information, 1.0)
    inverse_depth = np.where(information > 0, np.sum(slope * offset, axis=1) / safe, 0.0)
    # An error of points1 enters the equation times the depth ratio between the views.
    depth_ratio = np.abs(rays[:, 2] + inverse_depth * translation[2])
    sigma = np.where(information > 0, sigma1 * depth_ratio / np.sqrt(safe), np.inf)
    return inverse_depth, sigma
