# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Rigid motions as 4x4 matrices. `pose_a_b` maps points from frame b into frame a."""

from __future__ import annotations

import cv2
import numpy as np
from transforms3d.quaternions import mat2quat, quat2mat

from loftr_ros.errors import GeometryError
from loftr_ros.types import Array


def make_pose(rotation: Array, translation: Array) -> Array:
    """[4, 4] from a rotation matrix [3, 3] and a translation [3]."""
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = np.ravel(translation)
    return pose


def inverse(pose: Array) -> Array:
    rotation = pose[:3, :3].T
    return make_pose(rotation, -rotation @ pose[:3, 3])


def skew(vector: Array) -> Array:
    """[3, 3] matrix with skew(a) @ b = a x b."""
    x, y, z = vector
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def rotation_from_vector(vector: Array) -> Array:
    """Rotation matrix from axis times angle in radians (Rodrigues)."""
    return cv2.Rodrigues(np.asarray(vector, dtype=np.float64))[0]


def vector_from_rotation(rotation: Array) -> Array:
    """Axis times angle in radians, angle in [0, pi]."""
    cosine = (np.trace(rotation) - 1.0) / 2.0
    if cosine < 0:
        return cv2.Rodrigues(np.ascontiguousarray(rotation))[0].ravel()
    # OpenCV takes angles below 1e-5 for 0.
    upper, lower = rotation[[2, 0, 1], [1, 2, 0]], rotation[[1, 2, 0], [2, 0, 1]]
    axis_sine = (upper - lower) / 2.0
    sine = float(np.linalg.norm(axis_sine))
    return axis_sine * (np.arctan2(sine, cosine) / sine if sine > 0 else 1.0)


def rotation_angle_deg(rotation: Array) -> float:
    """Angle of a rotation in degrees; exact for small angles too."""
    return float(np.degrees(np.linalg.norm(vector_from_rotation(rotation))))


def normalized(pose: Array) -> Array:
    """The pose with its rotation brought back to SO(3), against the drift of long products."""
    u, _, vt = np.linalg.svd(pose[:3, :3])
    return make_pose(u @ vt, pose[:3, 3])


def quat_xyzw(rotation: Array) -> Array:
    """Unit quaternion (x, y, z, w), the order of ROS messages, with w >= 0."""
    w, x, y, z = mat2quat(rotation)
    return np.array([x, y, z, w])


def pose_from_xyz_quat(values: Array) -> Array:
    """[4, 4] from x y z qx qy qz qw.

    Raises GeometryError unless the numbers are finite and the quaternion has length 1 (within 1 %).
    """
    x, y, z, qx, qy, qz, qw = (float(v) for v in values)
    if not np.isfinite([x, y, z]).all():
        raise GeometryError(f"The position {x:g} {y:g} {z:g} is not finite.")
    length = float(np.linalg.norm([qx, qy, qz, qw]))
    if not abs(length - 1.0) < 0.01:
        raise GeometryError(f"The quaternion {qx:g} {qy:g} {qz:g} {qw:g} has length {length:g}, not 1.")
    return make_pose(quat2mat([qw, qx, qy, qz]), np.array([x, y, z]))


def xyz_quat(pose: Array) -> Array:
    """[7] x y z qx qy qz qw of a pose."""
    return np.concatenate([pose[:3, 3], quat_xyzw(pose[:3, :3])])


def transform(pose: Array, points: Array) -> Array:
    """Points [N, 3] moved by a pose."""
    return points @ pose[:3, :3].T + pose[:3, 3]


def compose_covariance(pose_a_b: Array, covariance_a_b: Array, position_b: Array, covariance_b: Array) -> Array:
    """Covariance of a pose in frame a, from that of frame b in a and that of the pose in b.

    All are [6, 6] of (position, rotation vector), each in the axes of the frame that the pose is given in;
    position_b is the pose's position in frame b. First order (Barfoot, State Estimation for Robotics, section 7.3).
    """
    rotation = pose_a_b[:3, :3]
    lever = np.eye(6)
    lever[:3, 3:] = -skew(rotation @ position_b)
    turn = np.kron(np.eye(2), rotation)
    return lever @ covariance_a_b @ lever.T + turn @ covariance_b @ turn.T


def stretched_pose(pose: Array, center: Array, factor: float) -> Array:
    """A pose whose distance from the pose `center` is `factor` times as long."""
    return make_pose(pose[:3, :3], center[:3, 3] + factor * (pose[:3, 3] - center[:3, 3]))


def stretched_covariance(covariance: Array, factor: float) -> Array:
    """[6, 6] of (position, rotation vector) when lengths become `factor` times longer."""
    scale = np.diag([factor] * 3 + [1.0] * 3)
    return scale @ covariance @ scale


def cross(a: Array, b: Array) -> Array:
    """Cross products [3, ...] along the first axis; numpy's own is several times slower for many vectors."""
    (x, y, z), (u, v, w) = a, b
    return np.stack([y * w - z * v, z * u - x * w, x * v - y * u])
