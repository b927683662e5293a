# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Laws that hold for any input: of camera models, geometry, conversions and settings."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support import scene

from loftr_ros.config import config_from_dict, config_to_dict, default_of, limits_of
from loftr_ros.config import settings as all_settings
from loftr_ros.errors import ConfigError, GeometryError
from loftr_ros.geometry.adjustment import adjust_pose
from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.se3 import (
    compose_covariance,
    inverse,
    make_pose,
    normalized,
    pose_from_xyz_quat,
    rotation_angle_deg,
    rotation_from_vector,
    transform,
    vector_from_rotation,
    xyz_quat,
)
from loftr_ros.geometry.triangulation import triangulate
from loftr_ros.geometry.two_view import estimate_pose, fit_rotation, homogeneous
from loftr_ros.imaging import _LAYOUT, _TO_GREY, to_grey, unpack
from loftr_ros.odometry.keyframe import NormalizedMatches
from loftr_ros.odometry.tracking import track

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SLOW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])

component = st.floats(-3.0, 3.0, allow_nan=False)
vectors = st.tuples(component, component, component).map(np.array)
turns = vectors.map(lambda v: rotation_from_vector(v / 3.0))
small_turns = vectors.map(lambda v: rotation_from_vector(0.1 * v))
poses = st.builds(make_pose, turns, vectors)
seeds = st.integers(0, 2**31)


def is_rotation(matrix: np.ndarray) -> bool:
    return np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-9) and np.linalg.det(matrix) > 0


def moving_pose(turn: np.ndarray, direction: np.ndarray) -> np.ndarray:
    assume(np.linalg.norm(direction) > 0.3)
    return make_pose(turn, 0.5 * direction / np.linalg.norm(direction))


# -- rigid motions ---------------------------------------------------------------------------------------------------


@QUICK
@given(poses, poses)
def test_rigid_motions_are_a_group(a, b):
    assert is_rotation((a @ b)[:3, :3]) and is_rotation(inverse(a)[:3, :3])
    np.testing.assert_allclose(a @ inverse(a), np.eye(4), atol=1e-9)
    np.testing.assert_allclose(inverse(a @ b), inverse(b) @ inverse(a), atol=1e-8)
    np.testing.assert_allclose(pose_from_xyz_quat(xyz_quat(a)), a, atol=1e-9)


@QUICK
@given(vectors)
def test_a_rotation_and_its_vector_are_one(vector):
    assume(np.linalg.norm(vector) < np.pi - 1e-3)
    rotation = rotation_from_vector(vector)
    assert is_rotation(rotation)
    np.testing.assert_allclose(vector_from_rotation(rotation), vector, atol=1e-6)
    assert rotation_angle_deg(rotation) == pytest.approx(np.degrees(np.linalg.norm(vector)), abs=1e-4)


@QUICK
@given(poses, seeds)
def test_a_spoilt_rotation_is_brought_back(pose, seed):
    spoilt = pose.copy()
    spoilt[:3, :3] += 1e-3 * np.random.default_rng(seed).standard_normal((3, 3))
    back = normalized(spoilt)
    assert is_rotation(back[:3, :3]) and np.abs(back - spoilt).max() < 1e-2


@QUICK
@given(poses, seeds)
def test_composed_covariances_stay_covariances(pose, seed):
    rng = np.random.default_rng(seed)
    a, b = (root @ root.T for root in rng.standard_normal((2, 6, 6)))
    found = compose_covariance(pose, a, rng.standard_normal(3), b)
    np.testing.assert_allclose(found, found.T, atol=1e-9 * np.abs(found).max())
    assert np.linalg.eigvalsh(found).min() > -1e-9 * np.abs(found).max()


# -- camera models ---------------------------------------------------------------------------------------------------

distortions = st.one_of(
    st.tuples(st.just("plumb_bob"), st.tuples(*[st.floats(-0.05, 0.05)] * 2, *[st.floats(-0.002, 0.002)] * 2)),
    st.tuples(st.just("equidistant"), st.tuples(*[st.floats(-0.02, 0.02)] * 4)),
    st.tuples(st.just("rational_polynomial"), st.tuples(*[st.floats(-0.02, 0.02)] * 8)),
    st.just(("plumb_bob", ())),
)


@QUICK
@given(distortions, st.floats(200, 900), st.integers(64, 1500), st.integers(64, 1500), seeds)
def test_pixels_and_rays_undo_each_other_and_resizing(lens, focal, width, height, seed):
    matrix = np.array([[focal, 0, (width - 1) / 2], [0, 1.1 * focal, (height - 1) / 2], [0, 0, 1]])
    camera = Camera(width, height, matrix, *lens)
    rays = np.random.default_rng(seed).uniform(-0.5, 0.5, (30, 2))
    pixels = camera.project(homogeneous(rays) * 3.0)
    np.testing.assert_allclose(camera.normalize(pixels), rays, atol=1e-5)
    double = camera.resized(2 * width, 2 * height)
    np.testing.assert_allclose(double.project(homogeneous(rays)), 2 * (pixels + 0.5) - 0.5, atol=1e-6)


# -- two views -------------------------------------------------------------------------------------------------------


@SLOW
@given(small_turns, vectors, seeds)
def test_the_order_of_the_matches_does_not_matter_and_the_cameras_may_change_places(turn, direction, seed):
    pose, rng = moving_pose(turn, direction), np.random.default_rng(seed)
    _, seen0, seen1 = scene(rng, pose, noise=1e-6)  # see estimate_essential on exact points
    order = rng.permutation(len(seen0))
    wanted = make_pose(pose[:3, :3], 2.0 * pose[:3, 3])
    found = estimate_pose(seen0, seen1, 1e-3).pose_1_0
    shuffled = estimate_pose(seen0[order], seen1[order], 1e-3).pose_1_0
    swapped = inverse(estimate_pose(seen1, seen0, 1e-3).pose_1_0)
    for each in (found, shuffled, swapped):
        assert is_rotation(each[:3, :3]) and np.linalg.norm(each[:3, 3]) == pytest.approx(1.0)
        assert rotation_angle_deg(each[:3, :3] @ pose[:3, :3].T) < 0.05
        assert each[:3, 3] @ wanted[:3, 3] > 1 - 1e-3


@QUICK
@given(small_turns, small_turns, small_turns, seeds)
def test_a_rotation_turns_with_the_cameras(turn, turn0, turn1, seed):
    """With camera 0 turned by A and camera 1 by B, the rotation between them becomes B R A^T."""
    rays0 = homogeneous(np.random.default_rng(seed).uniform(-0.4, 0.4, (50, 2)))
    rays1 = rays0 @ turn.T

    def seen(rays: np.ndarray) -> np.ndarray:
        return rays[:, :2] / rays[:, 2:]

    found, residual = fit_rotation(seen(rays0), seen(rays1))
    turned, _ = fit_rotation(seen(rays0 @ turn0.T), seen(rays1 @ turn1.T))
    assert is_rotation(found) and is_rotation(turned) and residual.max() < 1e-6
    np.testing.assert_allclose(turned, turn1 @ found @ turn0.T, atol=1e-7)


@QUICK
@given(small_turns, vectors, st.floats(1e-3, 1e3), seeds)
def test_depths_scale_with_the_way(turn, direction, factor, seed):
    pose = moving_pose(turn, direction)
    points, seen0, seen1 = scene(np.random.default_rng(seed), pose)
    far = make_pose(pose[:3, :3], factor * pose[:3, 3])
    sigma = np.full(len(points), 1e-3)
    (depth, deviation), (far_depth, far_deviation) = (triangulate(seen0, seen1, p, sigma) for p in (pose, far))
    np.testing.assert_allclose(far_depth * factor, depth, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(far_deviation * factor, deviation, rtol=1e-6)
    np.testing.assert_allclose(depth, 1 / points[:, 2], rtol=1e-4, atol=1e-6)


@SLOW
@given(small_turns, vectors, st.floats(0.01, 100.0), small_turns, seeds)
def test_tracking_scales_with_the_scene_and_turns_with_the_camera(turn, direction, factor, turn1, seed):
    pose, rng = moving_pose(turn, direction), np.random.default_rng(seed)
    points, seen0, seen1 = scene(rng, pose, noise=1e-4)
    sigma1 = np.full(len(points), 1e-3)
    inverse_depth = 1 / points[:, 2]

    def tracked(unit: float, seen: np.ndarray) -> np.ndarray:
        matches = NormalizedMatches(seen0, seen, sigma1)
        return track(matches, inverse_depth / unit, 0.01 * inverse_depth / unit, None, 2e-3).pose_frame_keyframe

    found, scaled = tracked(1.0, seen1), tracked(factor, seen1)
    assert is_rotation(found[:3, :3]) and is_rotation(scaled[:3, :3])
    np.testing.assert_allclose(found, pose, atol=5e-3)
    np.testing.assert_allclose(scaled[:3, :3], found[:3, :3], atol=1e-3)
    np.testing.assert_allclose(scaled[:3, 3] / factor, found[:3, 3], atol=5e-3)
    rays = homogeneous(seen1) @ turn1.T
    assume(rays[:, 2].min() > 0.3)
    turned = tracked(1.0, rays[:, :2] / rays[:, 2:])
    np.testing.assert_allclose(turned[:3, :3], turn1 @ found[:3, :3], atol=5e-3)


@QUICK
@given(st.sampled_from([np.nan, np.inf, -np.inf, 1e308]), st.integers(0, 199), st.booleans(), seeds)
def test_numbers_that_are_none_give_a_pose_or_an_error_but_no_nonsense(value, index, first, seed):
    pose = make_pose(np.eye(3), np.array([0.3, 0.0, 0.0]))
    points, seen0, seen1 = scene(np.random.default_rng(seed), pose)
    spoilt = seen0 if first else seen1
    spoilt[index] = value
    known = 1 / points[:, 2]
    with np.errstate(all="ignore"):
        try:
            found = adjust_pose(seen0, seen1, np.full(200, 1e-3), pose, known, known, 0.01 * known)
        except GeometryError:
            return
    assert is_rotation(found.pose_1_0[:3, :3]) and np.isfinite(found.covariance).all()


@QUICK
@given(poses, seeds)
def test_points_moved_there_and_back_are_where_they_were(pose, seed):
    points = np.random.default_rng(seed).uniform(-10, 10, (20, 3))
    np.testing.assert_allclose(transform(inverse(pose), transform(pose, points)), points, atol=1e-9)


# -- images ----------------------------------------------------------------------------------------------------------


@QUICK
@given(
    st.sampled_from(sorted(_TO_GREY)), st.integers(1, 20), st.integers(1, 20), st.integers(0, 9), st.booleans(), seeds
)
def test_pixels_come_out_of_a_message_as_they_went_in(encoding, height, width, padding, big_endian, seed):
    kind, channels = _LAYOUT[encoding]
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256 if kind == "u1" else 65536, (height, width, channels)).astype(kind)
    raw = pixels.astype((">" if big_endian else "<") + kind).reshape(height, -1).view(np.uint8)
    rows = np.concatenate([raw, rng.integers(0, 256, (height, padding), np.uint8)], axis=1)
    found = unpack(encoding, height, width, rows.shape[1], rows.tobytes(), big_endian)
    np.testing.assert_array_equal(found.reshape(pixels.shape), pixels)
    grey = to_grey(found, encoding)
    assert grey.shape == (height, width) and grey.dtype == np.uint8
    if encoding in ("mono8", "8UC1"):
        np.testing.assert_array_equal(grey, pixels[:, :, 0])


# -- settings --------------------------------------------------------------------------------------------------------

RANGED = sorted(key for key, (_, item) in all_settings().items() if limits_of(item).maximum is not None)


@QUICK
@given(st.sampled_from(RANGED), st.floats(0.0, 1.0))
def test_what_is_in_the_range_is_taken_and_comes_back(key, share):
    item = all_settings()[key][1]
    limits = limits_of(item)
    value = limits.minimum + share * (limits.maximum - limits.minimum)
    value = int(value) if isinstance(default_of(item), int) else value
    config = config_from_dict({key: value})
    assert config_to_dict(config)[key] == value
    assert config_from_dict(config_to_dict(config)) == config


@QUICK
@given(st.sampled_from(RANGED), st.floats(1e-6, 1e30), st.booleans())
def test_what_is_outside_is_refused_by_name(key, beyond, above):
    item = all_settings()[key][1]
    limits = limits_of(item)
    value = limits.maximum + beyond if above else limits.minimum - beyond
    assume(not limits.minimum <= value <= limits.maximum)
    value = int(np.ceil(value) if above else np.floor(value)) if isinstance(default_of(item), int) else value
    with pytest.raises(ConfigError, match=rf"^{key} must be at {'most' if above else 'least'} "):
        config_from_dict({key: value})


@QUICK
@given(st.sampled_from(sorted(all_settings())), st.integers(0, 20), st.characters(codec="ascii", categories=["Ll"]))
def test_a_key_with_a_wrong_letter_is_refused_with_the_right_one(key, place, letter):
    wrong = key[: place % len(key)] + letter + key[place % len(key) + 1 :]
    assume(wrong not in all_settings())
    with pytest.raises(ConfigError, match=f"There is no setting '{wrong}'; did you mean '") as caught:
        config_from_dict({wrong: 1})
    assert dataclasses.is_dataclass(all_settings()[str(caught.value).split("'")[3]][1]) is False
