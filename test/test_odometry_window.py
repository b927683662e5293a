# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Which points of the window were matched wrongly; which motions are more than chance."""

from __future__ import annotations

import numpy as np
import pytest
from support import pinhole
from test_geometry_bundle import problem

from loftr_ros.geometry.bundle import adjust_bundle
from loftr_ros.odometry.motion import coherent_motion
from loftr_ros.odometry.window import _OUTLIER, _contradicted


def test_points_that_a_frame_sees_elsewhere_are_wrong_and_only_they():
    bundle, _ = problem(noise=0.0)
    moved = [3, 17, 40]
    bundle.views[0].seen[moved] += 0.1  # its points are the first ones
    adjusted = adjust_bundle(bundle)
    assert np.flatnonzero(_contradicted(bundle, adjusted)).tolist() == moved
    assert all(errors.max() > _OUTLIER for errors in adjusted.errors[:1])


def motion_of(x: float, y: float, scatter: float, count: int = 400) -> float:
    """All of it in one block of the image: the motion (x, y) with a normal scatter."""
    rng = np.random.default_rng(0)
    points = rng.uniform([10, 10], [60, 50], (count, 2))
    return coherent_motion(points, [x, y] + scatter * rng.standard_normal((count, 2)), pinhole())


def test_motion_without_scatter_is_what_it_is():
    assert motion_of(0.3, 0.4, 0.0) == pytest.approx(0.5)


def test_scatter_alone_is_no_motion():
    assert motion_of(0.0, 0.0, 2.0) == 0.0


def test_what_chance_may_do_is_taken_off():
    """The variance of a median of N normal variables is pi / 2 sigma^2 / N; four times it in each direction."""
    scatter = 0.5
    chance = 4 * np.pi / 2 * scatter**2 / 400
    assert motion_of(3.0, 4.0, scatter) ** 2 == pytest.approx(25 - 2 * chance, abs=0.5)
    assert motion_of(0.15, 0.0, scatter) ** 2 == pytest.approx(0.15**2 - chance, abs=0.012)
    assert motion_of(0.02, 0.02, scatter) == 0.0
