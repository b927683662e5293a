# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Lengths of a map made longer, seen from a pose."""

from __future__ import annotations

import numpy as np

from loftr_ros.geometry.se3 import make_pose, rotation_from_vector, stretched_covariance, stretched_pose

CENTER = make_pose(rotation_from_vector(np.array([0.3, 0.1, -0.2])), np.array([1.0, 2.0, 3.0]))
POSE = make_pose(rotation_from_vector(np.array([-0.1, 0.5, 0.2])), np.array([2.0, 0.0, 7.0]))


def test_a_pose_moves_away_from_the_center_and_keeps_its_rotation():
    moved = stretched_pose(POSE, CENTER, 3.0)
    np.testing.assert_allclose(moved[:3, 3], [4.0, -4.0, 15.0])
    np.testing.assert_array_equal(moved[:3, :3], POSE[:3, :3])
    np.testing.assert_array_equal(moved[3], [0, 0, 0, 1])
    np.testing.assert_allclose(stretched_pose(CENTER, CENTER, 3.0), CENTER)


def test_covariance_of_lengths_grows_with_the_square():
    covariance = np.arange(36.0).reshape(6, 6)
    stretched = stretched_covariance(covariance, 2.0)
    np.testing.assert_allclose(stretched[:3, :3], 4 * covariance[:3, :3])
    np.testing.assert_allclose(stretched[:3, 3:], 2 * covariance[:3, 3:])
    np.testing.assert_allclose(stretched[3:, :3], 2 * covariance[3:, :3])
    np.testing.assert_allclose(stretched[3:, 3:], covariance[3:, 3:])
