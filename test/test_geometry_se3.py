# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Rigid motions: properties that hold for every rotation, and the first-order covariance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loftr_ros.errors import GeometryError
from loftr_ros.geometry import se3

NUMBER = st.floats(-10, 10, allow_subnormal=False)
VECTOR = st.tuples(NUMBER, NUMBER, NUMBER).map(np.array)


@st.composite
def rotation_vectors(draw) -> np.ndarray:
    """Angles below pi, down to very small ones."""
    axis = draw(VECTOR.filter(lambda v: np.linalg.norm(v) > 1e-3))
    angle = draw(st.sampled_from([1e-9, 1e-6, 1e-3])) if draw(st.booleans()) else draw(st.floats(0, 3.1))
    return axis / np.linalg.norm(axis) * angle


ROTATION = rotation_vectors().map(se3.rotation_from_vector)
POSE = st.builds(se3.make_pose, ROTATION, VECTOR)


@given(POSE)
def test_inverse(pose):
    np.testing.assert_allclose(se3.inverse(pose) @ pose, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(se3.inverse(se3.inverse(pose)), pose, atol=1e-12)


@given(rotation_vectors())
def test_rotation_vector_round_trip(vector):
    rotation = se3.rotation_from_vector(vector)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(se3.vector_from_rotation(rotation), vector, atol=1e-7)
    assert se3.rotation_angle_deg(rotation) == pytest.approx(np.degrees(np.linalg.norm(vector)), abs=1e-5)


def test_rotation_of_a_right_angle_is_right_handed():
    turned = se3.rotation_from_vector(np.array([0, 0, np.pi / 2])) @ np.array([1.0, 0, 0])
    np.testing.assert_allclose(turned, [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(se3.quat_xyzw(np.eye(3)), [0, 0, 0, 1])
    half = se3.rotation_from_vector(np.array([0, np.pi / 2, 0]))
    np.testing.assert_allclose(se3.quat_xyzw(half), [0, 2**-0.5, 0, 2**-0.5], atol=1e-12)


@given(POSE)
def test_quaternion_round_trip(pose):
    values = se3.xyz_quat(pose)
    assert np.linalg.norm(values[3:]) == pytest.approx(1.0) and values[6] >= 0
    np.testing.assert_allclose(se3.pose_from_xyz_quat(values), pose, atol=1e-7)


@pytest.mark.parametrize("quaternion", [(0, 0, 0, 0), (0, 0, 0, 2), (np.nan, 0, 0, 1)])
def test_quaternions_that_are_not_of_length_one_are_refused(quaternion):
    with pytest.raises(GeometryError, match="not 1"):
        se3.pose_from_xyz_quat(np.array([0, 0, 0, *quaternion]))


@given(POSE, POSE, VECTOR)
def test_transform_composes(pose_a_b, pose_b_c, point):
    at_once = se3.transform(pose_a_b @ pose_b_c, point[None])
    np.testing.assert_allclose(
        at_once, se3.transform(pose_a_b, se3.transform(pose_b_c, point[None])), atol=1e-10
    )


@given(VECTOR, VECTOR)
def test_skew_is_the_cross_product(a, b):
    np.testing.assert_allclose(se3.skew(a) @ b, np.cross(a, b), atol=1e-12)


@given(POSE)
def test_normalized_brings_a_drifted_rotation_back(pose):
    drifted = pose.copy()
    drifted[:3, :3] *= 1.0 + 1e-6
    clean = se3.normalized(drifted)
    np.testing.assert_allclose(clean, pose, atol=1e-9)


def test_composed_covariance_agrees_with_sampling():
    rng = np.random.default_rng(0)
    pose_a_b = se3.make_pose(se3.rotation_from_vector(np.array([0.3, -0.8, 0.5])), np.array([1.0, 2.0, -1.0]))
    pose_b_c = se3.make_pose(se3.rotation_from_vector(np.array([-0.2, 0.4, 0.9])), np.array([3.0, -1.0, 2.0]))
    roots = [np.tril(rng.normal(size=(6, 6))) * 0.004 for _ in range(2)]
    covariance_ab, covariance_bc = (root @ root.T for root in roots)

    def disturbed(pose: np.ndarray, root: np.ndarray) -> np.ndarray:
        error = root @ rng.normal(size=6)
        return se3.make_pose(se3.rotation_from_vector(error[3:]) @ pose[:3, :3], pose[:3, 3] + error[:3])

    mean = pose_a_b @ pose_b_c
    samples = []
    for _ in range(4000):
        pose = disturbed(pose_a_b, roots[0]) @ disturbed(pose_b_c, roots[1])
        samples.append(
            np.concatenate(
                [pose[:3, 3] - mean[:3, 3], se3.vector_from_rotation(pose[:3, :3] @ mean[:3, :3].T)]
            )
        )
    predicted = se3.compose_covariance(pose_a_b, covariance_ab, pose_b_c[:3, 3], covariance_bc)
    measured = np.cov(np.array(samples).T)
    assert np.abs(measured - predicted).max() < 0.08 * np.abs(predicted).max()
