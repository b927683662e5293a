# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Bundle adjustment: it finds the truth, keeps what is fixed, and its covariance is honest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loftr_ros.errors import GeometryError
from loftr_ros.geometry.bundle import Adjusted, Bundle, Views, adjust_bundle
from loftr_ros.geometry.se3 import make_pose, rotation_angle_deg, rotation_from_vector, vector_from_rotation

KEYFRAMES = 4
NOISE = 0.5 / 500


def way() -> np.ndarray:
    """[K, 4, 4] true poses: forward and to the right, turning a little."""
    return np.stack(
        [
            make_pose(rotation_from_vector(np.array([0.01, 0.03, -0.01]) * i), np.array([0.2, 0.02, 0.1]) * i)
            for i in range(KEYFRAMES)
        ]
    )


def problem(seed: int = 0, noise: float = NOISE, outliers: float = 0.0, points: int = 60) -> tuple[Bundle, np.ndarray]:
    """Poses and depths away from the truth, all keyframes but the first two free; and the true inverse depths."""
    rng = np.random.default_rng(seed)
    poses = way()
    rays = np.concatenate([rng.uniform(-0.5, 0.5, (KEYFRAMES * points, 2)), np.ones((KEYFRAMES * points, 1))], axis=1)
    truth = 1 / rng.uniform(2, 8, KEYFRAMES * points)
    views = []
    for anchor in range(KEYFRAMES):
        own = np.arange(anchor * points, (anchor + 1) * points)
        for target in (t for t in range(KEYFRAMES) if t != anchor):
            world = poses[anchor, :3, 3] + (rays[own] / truth[own, None]) @ poses[anchor, :3, :3].T
            local = (world - poses[target, :3, 3]) @ poses[target, :3, :3]
            seen = local[:, :2] / local[:, 2:] + noise * rng.standard_normal((points, 2))
            wrong = rng.random(points) < outliers
            seen[wrong] += rng.uniform(-0.2, 0.2, (int(wrong.sum()), 2))
            views.append(Views(anchor, target, own, seen, np.full(points, NOISE)))
    start = poses.copy()
    for pose in start[2:]:
        pose[:3, :3] = rotation_from_vector(0.01 * rng.standard_normal(3)) @ pose[:3, :3]
        pose[:3, 3] += 0.02 * rng.standard_normal(3)
    unknown = np.full(len(truth), np.inf)
    free = np.arange(KEYFRAMES) >= 2
    depths = truth * np.exp(0.2 * rng.standard_normal(len(truth)))
    return Bundle(start, free, None, rays, depths, np.zeros(len(truth)), unknown, views), truth


def error_of(found: Adjusted, number: int) -> np.ndarray:
    """[6] position and rotation vector less the true ones, world axes."""
    pose, truth = found.poses[number], way()[number]
    return np.concatenate([pose[:3, 3] - truth[:3, 3], vector_from_rotation(pose[:3, :3] @ truth[:3, :3].T)])


def test_exact_views_give_the_exact_poses_and_depths():
    bundle, truth = problem(noise=0.0)
    found = adjust_bundle(bundle)
    np.testing.assert_allclose(found.poses, way(), atol=1e-5)
    np.testing.assert_allclose(found.inverse_depth, truth, atol=1e-4)


def test_wrong_matches_hardly_matter():
    found = adjust_bundle(problem(outliers=0.15)[0])
    for number in (2, 3):
        error = error_of(found, number)
        assert np.linalg.norm(error[:3]) < 0.006 and np.degrees(np.linalg.norm(error[3:])) < 0.08
    assert all((errors > 5).mean() == pytest.approx(0.15, abs=0.12) for errors in found.errors)


def test_fixed_poses_stay_and_have_no_variance():
    found = adjust_bundle(problem()[0])
    np.testing.assert_array_equal(found.poses[:2], way()[:2])
    np.testing.assert_array_equal(found.covariance[:12], 0.0)
    assert np.linalg.eigvalsh(found.covariance[12:, 12:]).min() > 0


def test_the_unit_is_kept_where_only_the_first_pose_is_fixed():
    bundle, _ = problem()
    found = adjust_bundle(replace(bundle, free=np.arange(KEYFRAMES) >= 1, unit=(0, 1)))
    length = np.linalg.norm(way()[1, :3, 3])
    assert np.linalg.norm(found.poses[1, :3, 3]) == pytest.approx(length, rel=1e-3)
    assert np.linalg.norm(error_of(found, 3)[:3]) < 0.02
    assert rotation_angle_deg(found.poses[3, :3, :3] @ way()[3, :3, :3].T) < 0.2


def test_known_depths_set_the_unit():
    """Poses 10 % too long, and depths measured within 1 %: the lengths come out right."""
    bundle, truth = problem()
    start = way()
    start[1:, :3, 3] *= 1.1
    measured = truth * (1 + 0.01 * np.random.default_rng(1).standard_normal(len(truth)))
    free = np.arange(KEYFRAMES) >= 1
    found = adjust_bundle(replace(bundle, poses=start, free=free, prior=measured, prior_sigma=0.01 * truth))
    np.testing.assert_allclose(found.poses[:, :3, 3], way()[:, :3, 3], atol=0.006)


def test_deviations_that_are_all_wrong_by_one_factor_change_nothing():
    bundle, _ = problem(outliers=0.1)
    wider = replace(bundle, views=[replace(views, sigma=3 * views.sigma) for views in bundle.views])
    one, two = adjust_bundle(bundle), adjust_bundle(wider)
    np.testing.assert_allclose(two.poses, one.poses, atol=2e-4)
    np.testing.assert_allclose(np.diag(two.covariance), np.diag(one.covariance), rtol=0.1)


def test_covariance_is_that_of_the_errors():
    """The normalized error squared of 6 numbers has mean 6; its mean over 60 draws a deviation of 0.45."""
    values = []
    for seed in range(60):
        found = adjust_bundle(problem(seed)[0])
        error = error_of(found, 3)
        values.append(error @ np.linalg.solve(found.covariance[18:24, 18:24], error))
    assert 4.5 < np.mean(values) < 8.0


def test_nothing_to_go_by_is_refused():
    bundle, _ = problem()
    with pytest.raises(GeometryError, match="do not determine"):
        adjust_bundle(replace(bundle, poses=np.full_like(bundle.poses, np.nan)))
