# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Which points of the window were matched wrongly; which motions are more than chance."""

from __future__ import annotations

import numpy as np
import pytest
from support import pinhole
from test_geometry_bundle import problem

from loftr_ros.geometry.bundle import adjust_bundle
from loftr_ros.odometry.keyframe import Keyframe, NormalizedMatches
from loftr_ros.odometry.motion import coherent_motion
from loftr_ros.odometry.window import _OUTLIER, Window, _contradicted
from loftr_ros.types import Frame, Matches


def test_points_that_a_frame_sees_elsewhere_are_wrong_and_only_they():
    bundle, _ = problem(noise=0.0)
    moved = [3, 17, 40]
    bundle.views[0].seen[moved] += 0.1  # its points are the first ones
    adjusted = adjust_bundle(bundle)
    assert np.flatnonzero(_contradicted(bundle, adjusted)).tolist() == moved
    assert all(errors.max() > _OUTLIER for errors in adjusted.errors[:1])


def seen_points(seed: int, count: int) -> tuple[Matches, NormalizedMatches]:
    pixels, points = np.random.default_rng(seed).uniform(-1, 1, (2, count, 2))
    ones = np.ones(count)
    return Matches(pixels, pixels, ones, np.arange(count), ones), NormalizedMatches(pixels, points, ones)


def test_what_frames_saw_is_moved_together_and_stays_with_whom_it_belongs_to():
    frame = Frame(0, np.zeros((4, 4), np.uint8))
    keyframes = [Keyframe(np.eye(4), np.zeros((6, 6)), frame, None) for _ in range(3)]
    window, calls, before = Window(6), [], []
    window.move_points(calls.append)  # nothing was seen yet
    assert calls == []
    for number, (keyframe, target) in enumerate([(0, 1), (0, 2), (1, 2), (2, 1)]):
        matches, normalized = seen_points(number, 5 + number)
        window.link(keyframes[keyframe], keyframes[target], matches, normalized, np.ones(len(matches), bool))
        before.append((keyframe, target, normalized.points1))

    def moved(points):
        calls.append(len(points))
        return points + points**3

    window.move_points(moved)
    assert calls == [5 + 6 + 7 + 8]
    links = [(number, link) for number in range(3) for link in window.links(keyframes[number])]
    for (number, link), (keyframe, target, points) in zip(links, before, strict=True):
        assert number == keyframe and link.target is keyframes[target]
        assert np.array_equal(link.seen, points + points**3) and len(link.index) == len(points)


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
