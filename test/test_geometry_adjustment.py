# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The refinement of pose and depths: it finds the truth, and its covariance is honest."""

from __future__ import annotations

import numpy as np
import pytest
from support import angle_deg, scene

from loftr_ros.geometry import adjustment
from loftr_ros.geometry.adjustment import Adjustment, adjust_pose
from loftr_ros.geometry.se3 import (
    inverse,
    make_pose,
    rotation_angle_deg,
    rotation_from_vector,
    vector_from_rotation,
)

TRUTH = make_pose(rotation_from_vector(np.array([0.04, -0.12, 0.03])), np.array([-0.5, 0.08, 0.25]))
NOISE = 0.5 / 500
RELATIVE_DEPTH_SIGMA = 0.05


def draw(
    rng, known_share: float, count: int = 150, noise: float = NOISE, start: np.ndarray | None = None
) -> Adjustment:
    """One noisy problem: a share of the depths is known with noise, the others are free."""
    points, seen0, seen1 = scene(rng, TRUTH, count, noise)
    inverse_depth = 1 / points[:, 2]
    prior = inverse_depth * (1 + RELATIVE_DEPTH_SIGMA * rng.standard_normal(count))
    known = rng.random(count) < known_share
    prior_sigma = np.where(known, RELATIVE_DEPTH_SIGMA * inverse_depth, np.inf)
    if start is None:
        wrong = rotation_from_vector(0.02 * rng.standard_normal(3))
        start = make_pose(wrong @ TRUTH[:3, :3], TRUTH[:3, 3] + 0.03 * rng.standard_normal(3))
    begin = np.where(known, prior, 0.2)
    return adjust_pose(seen0, seen1, np.full(count, noise), start, begin, prior, prior_sigma)


def error_of(found: Adjustment) -> np.ndarray:
    """[6] position and rotation vector of the found camera 1 in camera 0, less the true ones."""
    pose, truth = inverse(found.pose_1_0), inverse(TRUTH)
    return np.concatenate([pose[:3, 3] - truth[:3, 3], vector_from_rotation(pose[:3, :3] @ truth[:3, :3].T)])


@pytest.mark.parametrize("known_share", [1.0, 0.5, 0.1])
def test_pose_is_recovered_from_mixtures(known_share):
    error = error_of(draw(np.random.default_rng(0), known_share))
    assert np.linalg.norm(error[:3]) < 0.03 and np.degrees(np.linalg.norm(error[3:])) < 0.2


@pytest.mark.parametrize("known_share", [1.0, 0.5])
def test_exact_data_give_the_exact_pose(known_share):
    rng = np.random.default_rng(1)
    points, seen0, seen1 = scene(rng, TRUTH)
    sigma = np.where(rng.random(len(points)) < known_share, 1e-3, np.inf)
    start = make_pose(TRUTH[:3, :3] @ rotation_from_vector(np.array([0.02, 0.01, 0.0])), TRUTH[:3, 3] * 1.1)
    found = adjust_pose(
        seen0, seen1, np.full(len(points), NOISE), start, np.full(len(points), 0.2), 1 / points[:, 2], sigma
    )
    np.testing.assert_allclose(found.pose_1_0, TRUTH, atol=1e-5)
    np.testing.assert_allclose(found.inverse_depth, 1 / points[:, 2], atol=1e-4)


@pytest.mark.parametrize("known_share", [1.0, 0.4])
def test_covariance_is_honest(known_share):
    """The normalized squared error of 6 degrees of freedom has mean 6."""
    rng = np.random.default_rng(2)
    values = []
    for _ in range(100):
        found = draw(rng, known_share)
        error = error_of(found)
        values.append(error @ np.linalg.solve(found.covariance, error))
    assert 3.0 < np.mean(values) < 9.0


def test_covariance_is_symmetric_and_positive_definite():
    covariance = draw(np.random.default_rng(3), 0.5).covariance
    np.testing.assert_array_equal(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_covariance_grows_with_the_noise():
    small, large = (
        draw(np.random.default_rng(4), 1.0, noise=noise).covariance for noise in (NOISE / 3, NOISE * 3)
    )
    assert np.trace(large[3:, 3:]) > 4 * np.trace(small[3:, 3:])


def test_priors_keep_the_scale():
    start = make_pose(TRUTH[:3, :3], TRUTH[:3, 3] * 2.0)
    found = draw(np.random.default_rng(5), 0.2, start=start)
    assert np.linalg.norm(found.pose_1_0[:3, 3]) == pytest.approx(np.linalg.norm(TRUTH[:3, 3]), rel=0.05)


@pytest.mark.parametrize("length", [0.5, 2.0])
def test_free_depths_leave_the_length_alone_and_say_so(length):
    start = make_pose(TRUTH[:3, :3], TRUTH[:3, 3] * length)
    found = draw(np.random.default_rng(6), 0.0, start=start)
    assert angle_deg(found.pose_1_0[:3, 3], TRUTH[:3, 3]) < 1.0
    assert rotation_angle_deg(found.pose_1_0[:3, :3] @ TRUTH[:3, :3].T) < 0.3
    along = inverse(found.pose_1_0)[:3, 3]
    along = along / np.linalg.norm(along)
    across = np.cross(along, [0.0, 1.0, 0.0])
    across /= np.linalg.norm(across)
    position = found.covariance[:3, :3]
    assert along @ position @ along > 20 * (across @ position @ across)


def test_outliers_lose_their_influence():
    rng = np.random.default_rng(7)
    points, seen0, seen1 = scene(rng, TRUTH, 200, NOISE)
    seen1[:40] += rng.uniform(0.02, 0.1, (40, 2))
    sigma = np.full(200, 0.01) / points[:, 2]
    found = adjust_pose(seen0, seen1, np.full(200, NOISE), TRUTH, 1 / points[:, 2], 1 / points[:, 2], sigma)
    assert np.linalg.norm(error_of(found)[:3]) < 0.03
    assert np.median(found.error[:40]) > 5 and np.median(found.error[40:]) < 2


def test_depths_become_more_certain_than_their_priors():
    found = draw(np.random.default_rng(8), 1.0)
    assert np.median(found.inverse_depth_sigma / found.inverse_depth) < RELATIVE_DEPTH_SIGMA


def test_the_same_input_gives_the_same_bits():
    first, second = (draw(np.random.default_rng(9), 0.5) for _ in range(2))
    np.testing.assert_array_equal(first.pose_1_0, second.pose_1_0)
    np.testing.assert_array_equal(first.covariance, second.covariance)


def test_the_derivatives_are_those_of_the_projection():
    rng = np.random.default_rng(3)
    points, seen0, _ = scene(rng, TRUTH, 20)
    rays, depth, sigma = np.c_[seen0, np.ones(20)], 1 / points[:, 2], rng.uniform(1e-4, 1e-3, 20)

    def projected(pose: np.ndarray, depth: np.ndarray) -> np.ndarray:
        position = pose[:3, :3] @ rays.T + pose[:3, 3, None] * depth
        return position[:2] / position[2]

    def moved(k: int, by: float) -> np.ndarray:
        step = by * np.eye(6)[k]
        return make_pose(rotation_from_vector(step[:3]) @ TRUTH[:3, :3], TRUTH[:3, 3] + step[3:])

    z = TRUTH[2, :3] @ rays.T + TRUTH[2, 3] * depth
    of_pose, of_depth = adjustment._jacobians(
        TRUTH[:3, :3] @ rays.T, projected(TRUTH, depth), 1 / (z * sigma), depth, TRUTH[:3, 3]
    )
    for k in range(6):
        wanted = (projected(moved(k, 1e-6), depth) - projected(moved(k, -1e-6), depth)) / 2e-6 / sigma
        np.testing.assert_allclose(of_pose[k], wanted, rtol=1e-5, atol=1e-3)
    wanted = (projected(TRUTH, depth + 1e-6) - projected(TRUTH, depth - 1e-6)) / 2e-6 / sigma
    np.testing.assert_allclose(of_depth, wanted, rtol=1e-5, atol=1e-3)
