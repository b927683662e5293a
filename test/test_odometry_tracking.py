# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Pose of a frame against a keyframe with many, few or no depths: exact scenes with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from support import angle_deg, scene

from loftr_ros.errors import GeometryError
from loftr_ros.geometry.se3 import make_pose, rotation_angle_deg, rotation_from_vector
from loftr_ros.odometry.keyframe import NormalizedMatches
from loftr_ros.odometry.tracking import LEAST_POINTS_FOR_SCALE, _best, track

POSE = make_pose(rotation_from_vector(np.array([0.02, -0.05, 0.03])), np.array([0.4, -0.1, 0.2]))
THRESHOLD = 0.002
NOISE = 0.0002


def seen(pose=POSE, count=200, known=200, noise=NOISE, wrong=0):
    """Matches, and the mean and deviation of their inverse depths, of which the first `known` are known to 1 %."""
    rng = np.random.default_rng(3)
    points, points0, points1 = scene(rng, pose, count, noise)
    points1[count - wrong :] += rng.uniform(0.05, 0.2, (wrong, 2))
    mean = 1 / points[:, 2]
    sigma = np.where(np.arange(count) < known, 0.01 * mean, np.inf)
    return NormalizedMatches(points0, points1, np.full(count, max(noise, 1e-5))), mean, sigma, points


def errors(found, pose=POSE) -> tuple[float, float]:
    """Degrees, and length over the true one less 1."""
    turn = rotation_angle_deg(found.pose_frame_keyframe[:3, :3] @ pose[:3, :3].T)
    length = np.linalg.norm(found.pose_frame_keyframe[:3, 3]) / np.linalg.norm(pose[:3, 3])
    return turn, float(length - 1)


@pytest.mark.parametrize("known", [200, 60, 20])
@pytest.mark.parametrize("predicted", [None, np.eye(4), POSE])
def test_pose_and_its_length_come_from_points_with_depths(known, predicted):
    matches, mean, sigma, _ = seen(known=known)
    found = track(matches, mean, sigma, predicted, THRESHOLD)
    turn, length = errors(found)
    assert turn < 0.05 and abs(length) < 0.02
    assert angle_deg(found.pose_frame_keyframe[:3, 3], POSE[:3, 3]) < 1
    assert found.inliers.mean() > 0.97


@pytest.mark.parametrize("known", [LEAST_POINTS_FOR_SCALE, 10, 19])
def test_few_depths_give_the_length_and_the_epipolar_geometry_the_rest(known):
    matches, mean, sigma, _ = seen(known=known)
    turn, length = errors(track(matches, mean, sigma, None, THRESHOLD))
    assert turn < 0.1 and abs(length) < 0.05


def test_too_few_depths_leave_the_length_unknown():
    matches, mean, sigma, _ = seen(known=LEAST_POINTS_FOR_SCALE - 1)
    with pytest.raises(
        GeometryError, match=r"^Only 5 matched points have a depth: the length of the motion is unknown\.$"
    ):
        track(matches, mean, sigma, None, THRESHOLD)


def test_depths_that_were_unknown_are_found():
    matches, mean, sigma, points = seen(known=100)
    found = track(matches, mean, sigma, None, THRESHOLD)
    new = np.arange(100, 200)[found.inliers[100:]]
    error = found.inverse_depth[new] * points[new, 2] - 1
    assert np.median(np.abs(error)) < 0.01
    # They say how well they are known.
    assert 0.5 < np.sqrt(np.mean(((found.inverse_depth[new] - 1 / points[new, 2]) / found.sigma[new]) ** 2)) < 2


def test_wrong_matches_are_no_inliers():
    matches, mean, sigma, _ = seen(wrong=60)
    found = track(matches, mean, sigma, None, THRESHOLD)
    assert errors(found)[0] < 0.05
    assert not found.inliers[140:].any() and found.inliers[:140].mean() > 0.97


def test_median_and_near_depth_are_those_of_the_inliers():
    matches, mean, sigma, points = seen(wrong=60)
    found = track(matches, mean, sigma, None, THRESHOLD)
    depths = points[found.inliers, 2]
    assert found.median_depth == pytest.approx(np.median(depths), rel=0.02)
    assert found.near_depth == pytest.approx(np.quantile(depths, 0.25), rel=0.02)


def test_position_is_less_certain_with_more_noise():
    deviations = [track(*seen(noise=noise)[:3], None, 10 * noise).position_sigma for noise in (0.0002, 0.0008)]
    assert 1.3 < deviations[1] / deviations[0] < 4  # the depths, as certain as before, hold it
    assert 1e-4 < deviations[0] < 1e-2


def test_parallax_is_the_angle_that_the_translation_makes():
    matches, mean, sigma, points = seen()
    found = track(matches, mean, sigma, None, THRESHOLD)
    to_camera = -POSE[:3, :3].T @ POSE[:3, 3]
    angles = [angle_deg(p, p - to_camera) for p in points]
    assert found.parallax_deg == pytest.approx(np.median(angles), rel=0.02)


def test_the_candidate_that_most_points_agree_with_is_taken():
    matches, mean, _, _ = seen(wrong=60)
    far = make_pose(rotation_from_vector(np.array([0.0, 1.2, 0.0])), np.array([-3.0, 0.0, 1.0]))
    for candidates in ([far, POSE], [POSE, far], [np.eye(4), POSE]):
        assert _best(candidates, matches, mean, np.ones(200, bool), THRESHOLD) is POSE
