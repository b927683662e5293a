# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The slopes that the bundle adjustment works with are those of its cost, by finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_geometry_bundle import KEYFRAMES, problem, way
from test_odometry_start import THRESHOLD, views

from loftr_ros.errors import GeometryError
from loftr_ros.geometry import bundle as module
from loftr_ros.geometry.bundle import Bundle
from loftr_ros.geometry.two_view import estimate_pose

STEP = 1e-6


def with_unit_and_prior(noise: float, outliers: float) -> tuple[Bundle, float]:
    """A bundle away from its minimum, a third of its depths measured; and a length that its unit does not have."""
    made, truth = problem(noise=noise, outliers=outliers, points=12)
    rng = np.random.default_rng(2)
    sigma = np.where(np.arange(len(truth)) % 3 == 0, 0.02 * truth, np.inf)
    prior = truth * (1 + 0.05 * rng.standard_normal(len(truth)))
    return replace(made, unit=(0, 1), prior=prior, prior_sigma=sigma), 1.002 * float(np.linalg.norm(way()[1, :3, 3]))


def linearized(bundle: Bundle, poses: np.ndarray, depth: np.ndarray, length: float) -> module._System:
    return module._linearize(bundle, module._Sight.of(bundle), poses, depth, length)


def system_at(bundle: Bundle, length: float, step: np.ndarray, depth_step: np.ndarray) -> module._System:
    poses = module._moved(bundle.poses, step)
    return linearized(bundle, poses, bundle.inverse_depth + depth_step, length)


def directions(bundle: Bundle):
    """Random small steps of the poses and of the depths."""
    rng = np.random.default_rng(7)
    for _ in range(5):
        yield rng.standard_normal(6 * KEYFRAMES), 0.1 * rng.standard_normal(len(bundle.inverse_depth))


@pytest.mark.parametrize("outliers", [0.0, 0.3])
def test_gradient_is_half_the_slope_of_the_cost(outliers):
    bundle, length = with_unit_and_prior(0.001, outliers)
    system = linearized(bundle, bundle.poses, bundle.inverse_depth, length)
    for step, depth_step in directions(bundle):
        costs = [system_at(bundle, length, s * step, s * depth_step).cost for s in (-STEP, STEP)]
        slope = (costs[1] - costs[0]) / (4 * STEP)
        assert system.gradient @ step + system.depth_gradient @ depth_step == pytest.approx(slope, rel=1e-4)


def test_a_measured_depth_weighs_what_its_deviation_says():
    made, truth = problem(noise=0.001, points=12)
    sigma = np.where(np.arange(len(truth)) % 3 == 0, 0.02 * truth, np.inf)
    fitting = replace(made, inverse_depth=truth, prior=truth)
    free, measured = (
        linearized(replace(fitting, prior_sigma=each), made.poses, truth, 1.0)
        for each in (np.full(len(truth), np.inf), sigma)
    )
    np.testing.assert_allclose(measured.depth_hessian - free.depth_hessian, sigma**-2.0, rtol=1e-6)


def test_hessian_is_the_slope_of_the_gradient_where_all_fits():
    """Gauss-Newton leaves out what is 0 there."""
    made, truth = problem(noise=0.0, points=12)
    length = float(np.linalg.norm(way()[1, :3, 3]))
    sigma = np.where(np.arange(len(truth)) % 3 == 0, 0.02 * truth, np.inf)
    bundle = replace(made, poses=way(), inverse_depth=truth, unit=(0, 1), prior=truth, prior_sigma=sigma)
    system = linearized(bundle, bundle.poses, truth, length)
    assert system.cost == pytest.approx(0, abs=1e-12)
    for step, depth_step in directions(bundle):
        ends = [system_at(bundle, length, s * step, s * depth_step) for s in (-STEP, STEP)]
        pose_slope = (ends[1].gradient - ends[0].gradient) / (2 * STEP)
        depth_slope = (ends[1].depth_gradient - ends[0].depth_gradient) / (2 * STEP)
        scale = np.abs(pose_slope).max()
        np.testing.assert_allclose(
            system.hessian @ step + system.mixed @ depth_step, pose_slope, rtol=1e-3, atol=1e-3 * scale
        )
        np.testing.assert_allclose(
            step @ system.mixed + system.depth_hessian * depth_step,
            depth_slope,
            rtol=1e-3,
            atol=1e-3 * np.abs(depth_slope).max(),
        )


def test_errors_are_distances_in_deviations():
    bundle, truth = problem(noise=0.0, points=12)
    views = bundle.views[0]
    off = replace(views, seen=views.seen + views.sigma[:, None] * np.array([3.0, 4.0]))
    system = linearized(replace(bundle, poses=way(), inverse_depth=truth, views=[off]), way(), truth, 0.0)
    np.testing.assert_allclose(system.errors[0], 5.0, rtol=1e-6)
    # Cauchy's: c^2 log(1 + e^2 / c^2)
    c = module._CAUCHY
    assert system.cost == pytest.approx(len(off.seen) * c**2 * np.log1p(25 / c**2))


def test_fewest_inliers_of_a_pose():
    """Among random matches some fit a motion, but not 15 of them."""
    for count, enough in ((15, True), (14, False)):
        matches, _ = views(count=count, noise=0.0)
        if enough:
            assert estimate_pose(matches.points0, matches.points1, THRESHOLD).inliers.sum() == 15
        else:
            with pytest.raises(GeometryError, match="before both cameras"):
                estimate_pose(matches.points0, matches.points1, THRESHOLD)
