# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Pose from two views of synthetic scenes: noise, outliers, planes, pure rotation, and odd answers of OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from support import angle_deg, scene

from loftr_ros.errors import GeometryError
from loftr_ros.geometry import two_view
from loftr_ros.geometry.se3 import make_pose, rotation_angle_deg, rotation_from_vector

POSES = {
    "sideways": make_pose(np.eye(3), np.array([0.6, 0.0, 0.0])),
    "forward": make_pose(np.eye(3), np.array([0.0, 0.0, -0.7])),
    "turning": make_pose(rotation_from_vector(np.array([0.05, 0.2, -0.04])), np.array([-0.5, 0.1, 0.3])),
    "backward": make_pose(rotation_from_vector(np.array([0.0, -0.1, 0.02])), np.array([0.1, 0.0, 0.8])),
}
NOISE, THRESHOLD = 0.3 / 500, 1.0 / 500


def errors(pose: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Rotation and direction errors in degrees."""
    return rotation_angle_deg(pose[:3, :3] @ truth[:3, :3].T), angle_deg(pose[:3, 3], truth[:3, 3])


@pytest.mark.parametrize("name", POSES)
@pytest.mark.parametrize("seed", range(3))
def test_pose_is_recovered(name, seed):
    _, seen0, seen1 = scene(np.random.default_rng(seed), POSES[name], noise=NOISE)
    found = two_view.estimate_pose(seen0, seen1, THRESHOLD)
    rotation, direction = errors(found.pose_1_0, POSES[name])
    assert rotation < 0.3 and direction < 2.0
    assert np.linalg.norm(found.pose_1_0[:3, 3]) == pytest.approx(1.0)
    assert found.inliers.mean() > 0.9


@pytest.mark.parametrize("name", POSES)
def test_outliers_are_found_out(name):
    rng = np.random.default_rng(5)
    _, seen0, seen1 = scene(rng, POSES[name], count=300, noise=NOISE)
    wrong = rng.permutation(300)[:120]
    seen1[wrong] = rng.uniform(-0.5, 0.5, (120, 2))
    found = two_view.estimate_pose(seen0, seen1, THRESHOLD)
    rotation, direction = errors(found.pose_1_0, POSES[name])
    assert rotation < 0.6 and direction < 3.0
    is_wrong = np.isin(np.arange(300), wrong)
    # A few wrong matches happen to lie on their epipolar line.
    assert found.inliers[~is_wrong].mean() > 0.85 and found.inliers[is_wrong].mean() < 0.15


@pytest.mark.parametrize("seed", range(4))
def test_planar_scene_gives_one_of_the_two_poses_that_a_plane_allows(seed):
    """Two views of a plane leave two solutions before both cameras (Longuet-Higgins, 1986): no estimator can choose."""
    truth = POSES["turning"]
    _, seen0, seen1 = scene(np.random.default_rng(seed), truth, noise=NOISE / 3, planar=True)
    found = two_view.estimate_pose(seen0, seen1, THRESHOLD).pose_1_0
    normal = np.array([-0.4, 0.2, 1.0]) / 5.0  # n x = 1 on the plane of `scene`
    homography = truth[:3, :3] + np.outer(truth[:3, 3], normal)
    _, rotations, translations, _ = cv2.decomposeHomographyMat(homography, np.eye(3))
    allowed = [make_pose(r, t) for r, t in zip(rotations, translations)]
    rotation, direction = min(errors(found, pose) for pose in allowed)
    assert rotation < 1.0 and direction < 6.0
    assert min(errors(truth, pose)[0] for pose in allowed) < 1e-6


def test_the_same_matches_give_the_same_pose():
    _, seen0, seen1 = scene(np.random.default_rng(1), POSES["turning"], noise=NOISE)
    first, second = (two_view.estimate_pose(seen0, seen1, THRESHOLD) for _ in range(2))
    np.testing.assert_array_equal(first.pose_1_0, second.pose_1_0)
    np.testing.assert_array_equal(first.inliers, second.inliers)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_matches_are_refused(count):
    with pytest.raises(GeometryError, match=f"{count} matches are too few"):
        two_view.estimate_pose(np.zeros((count, 2)), np.zeros((count, 2)), THRESHOLD)


def test_matches_that_fit_nothing_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(GeometryError):
        two_view.estimate_pose(rng.uniform(-1, 1, (40, 2)), rng.uniform(-1, 1, (40, 2)), 1e-6)


@pytest.mark.parametrize("same", [0.0, 0.3])
def test_matches_that_are_all_one_point_do_not_crash(same):
    points = np.full((30, 2), same)
    try:
        pose = two_view.estimate_pose(points, points, THRESHOLD).pose_1_0
    except GeometryError:
        return
    assert np.isfinite(pose).all()


@pytest.mark.parametrize(
    "answer",
    [
        (None, None),
        (np.eye(3), None),
        (np.full((3, 3), np.nan), np.ones((50, 1), np.uint8)),
        (np.zeros((4, 3)), np.ones((50, 1))),
    ],
    ids=["none", "no mask", "nan", "four rows"],
)
def test_no_usable_answer_of_opencv_is_a_geometry_error(monkeypatch, answer):
    monkeypatch.setattr(cv2, "findEssentialMat", lambda *args, **kwargs: answer)
    with pytest.raises(GeometryError, match="No essential matrix"):
        two_view.estimate_pose(np.zeros((50, 2)), np.zeros((50, 2)), THRESHOLD)


def test_of_stacked_solutions_the_right_one_is_taken(monkeypatch):
    truth = POSES["turning"]
    _, seen0, seen1 = scene(np.random.default_rng(2), truth, noise=NOISE / 10)
    right = two_view_essential(truth)
    wrong = two_view_essential(
        make_pose(rotation_from_vector(np.array([0.0, 1.0, 0.0])), np.array([0.0, 1.0, 0.0]))
    )
    stacked = np.concatenate([wrong, right, wrong.T])
    monkeypatch.setattr(
        cv2, "findEssentialMat", lambda *a, **k: (stacked, np.ones((len(seen0), 1), np.uint8))
    )
    rotation, direction = errors(two_view.estimate_pose(seen0, seen1, THRESHOLD).pose_1_0, truth)
    assert rotation < 1e-4 and direction < 1e-3


def two_view_essential(pose_1_0: np.ndarray) -> np.ndarray:
    x, y, z = pose_1_0[:3, 3]
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ pose_1_0[:3, :3]


def test_decompose_holds_the_true_pose():
    truth = POSES["turning"].copy()
    truth[:3, 3] /= np.linalg.norm(truth[:3, 3])
    poses = two_view.decompose(two_view_essential(truth))
    assert len(poses) == 4 and min(np.abs(pose - truth).max() for pose in poses) < 1e-9


def test_points_before_and_behind():
    truth = POSES["sideways"]
    _, seen0, seen1 = scene(np.random.default_rng(3), truth)
    mirrored = make_pose(truth[:3, :3], -truth[:3, 3])
    assert (
        two_view.in_front(truth, seen0, seen1).all() and not two_view.in_front(mirrored, seen0, seen1).any()
    )
    far = two_view.in_front(truth, seen0, seen0)  # at infinity nothing moves
    assert far.all()


@pytest.mark.parametrize("share_wrong", [0.0, 0.3])
def test_pure_rotation_is_fitted_exactly(share_wrong):
    rng = np.random.default_rng(4)
    truth = make_pose(rotation_from_vector(np.array([0.1, -0.25, 0.05])), np.zeros(3))
    _, seen0, seen1 = scene(rng, truth, noise=0.0)
    wrong = rng.permutation(len(seen0))[: int(share_wrong * len(seen0))]
    seen1[wrong] += rng.uniform(0.05, 0.3, (len(wrong), 2))
    rotation, residual = two_view.fit_rotation(seen0, seen1)
    right = ~np.isin(np.arange(len(seen0)), wrong)
    assert rotation_angle_deg(rotation @ truth[:3, :3].T) < 1e-4 and np.degrees(residual[right].max()) < 1e-4


def test_rotation_needs_two_matches():
    with pytest.raises(GeometryError, match="1 matches are too few for a rotation"):
        two_view.fit_rotation(np.zeros((1, 2)), np.zeros((1, 2)))


def test_parallax_is_the_angle_that_the_translation_makes():
    # A point 4 m ahead, seen after one metre to the right: atan(1 / 4).
    seen0, seen1 = np.array([[0.0, 0.0]]), np.array([[-0.25, 0.0]])
    np.testing.assert_allclose(two_view.parallax(np.eye(3), seen0, seen1), [np.arctan(0.25)], atol=1e-12)
    turn = rotation_from_vector(np.array([0.0, 0.3, 0.0]))
    turned = two_view.homogeneous(seen0) @ turn.T
    np.testing.assert_allclose(
        two_view.parallax(turn, seen0, turned[:, :2] / turned[:, 2:]), [0.0], atol=1e-9
    )
