# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Inverse depths: exact without noise, right at infinity, and as uncertain as they say."""

from __future__ import annotations

import numpy as np
import pytest
from support import scene

from loftr_ros.geometry.se3 import make_pose, rotation_from_vector
from loftr_ros.geometry.triangulation import triangulate

POSE = make_pose(rotation_from_vector(np.array([0.03, -0.1, 0.02])), np.array([-0.4, 0.1, 0.2]))
FORWARD = make_pose(np.eye(3), np.array([0.0, 0.0, -1.0]))


@pytest.mark.parametrize("pose", [POSE, FORWARD], ids=["general", "forward"])
def test_exact_without_noise(pose):
    points, seen0, seen1 = scene(np.random.default_rng(0), pose)
    inverse_depth, sigma = triangulate(seen0, seen1, pose, np.full(len(points), 1e-3))
    np.testing.assert_allclose(inverse_depth, 1 / points[:, 2], rtol=1e-9)
    assert (sigma > 0).all() and np.isfinite(sigma).all()


def test_the_unit_is_that_of_the_translation():
    points, seen0, seen1 = scene(np.random.default_rng(1), POSE)
    doubled = make_pose(POSE[:3, :3], 2 * POSE[:3, 3])
    inverse_depth, _ = triangulate(seen0, seen1, doubled, np.full(len(points), 1e-3))
    np.testing.assert_allclose(inverse_depth, 0.5 / points[:, 2], rtol=1e-9)


def test_points_at_infinity_have_inverse_depth_zero():
    seen0 = np.random.default_rng(2).uniform(-0.4, 0.4, (50, 2))
    turned = np.concatenate([seen0, np.ones((50, 1))], axis=1) @ POSE[:3, :3].T
    inverse_depth, sigma = triangulate(seen0, turned[:, :2] / turned[:, 2:], POSE, np.full(50, 1e-3))
    np.testing.assert_allclose(inverse_depth, 0.0, atol=1e-12)
    assert np.isfinite(sigma).all()


def test_the_point_one_moves_towards_tells_nothing():
    inverse_depth, sigma = triangulate(np.zeros((1, 2)), np.zeros((1, 2)), FORWARD, np.array([1e-3]))
    assert inverse_depth[0] == 0.0 and np.isinf(sigma[0])


@pytest.mark.parametrize("pose", [POSE, FORWARD], ids=["general", "forward"])
def test_sigma_is_what_sampling_gives(pose):
    rng = np.random.default_rng(3)
    points, seen0, seen1 = scene(rng, pose, count=40)
    noise = 5e-4
    samples = np.array(
        [
            triangulate(seen0, seen1 + noise * rng.standard_normal(seen1.shape), pose, np.full(40, noise))[0]
            for _ in range(600)
        ]
    )
    _, sigma = triangulate(seen0, seen1, pose, np.full(40, noise))
    strong = sigma < 0.2 / points[:, 2]  # first order holds
    assert strong.sum() > 25
    np.testing.assert_allclose(samples.std(axis=0)[strong], sigma[strong], rtol=0.15)
