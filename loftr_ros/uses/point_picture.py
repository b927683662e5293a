# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""A picture of points in space and the cameras that saw them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros.geometry.se3 import inverse, make_pose, transform
from loftr_ros.pictures import Picture
from loftr_ros.types import Array

_FIELD_OF_VIEW = np.radians(50)
_PITCH = np.radians(40)  # looking down
_YAW = np.radians(25)  # from the side
_PATH = (60, 160, 255)
_FRUSTUM = np.array([[-0.6, -0.45, 1], [0.6, -0.45, 1], [0.6, 0.45, 1], [-0.6, 0.45, 1]])


def point_picture(
    points: Array, colours: NDArray[np.uint8], poses: list[Array], size: tuple[int, int] = (1280, 800)
) -> Picture:
    """Points [N, 3] with colours [N, 3] (r, g, b) and camera poses, seen obliquely from above.

    Args:
        points, poses: in a frame whose y axis points down, as the first camera's does.
        size: (width, height) in pixels.
    """
    pose_eye_world, focal = _eye(points, np.array([pose[:3, 3] for pose in poses]), size)
    picture = np.full((size[1], size[0], 3), 24, np.uint8)
    seen = transform(pose_eye_world, points)
    _splat(picture, seen, colours[:, ::-1], focal)
    _draw_cameras(picture, [pose_eye_world @ pose for pose in poses], focal)
    return picture


def _eye(points: Array, positions: Array, size: tuple[int, int]) -> tuple[Array, float]:
    """pose_eye_world [4, 4] and focal length of a camera that sees all but the outermost points."""
    low, high = np.percentile(points, [1, 99], axis=0)
    inside = np.concatenate([points[np.all((points >= low) & (points <= high), axis=1)], positions])
    cy, sy, cp, sp = np.cos(_YAW), np.sin(_YAW), np.cos(_PITCH), np.sin(_PITCH)
    forward, right = np.array([sy * cp, sp, cy * cp]), np.array([cy, 0.0, -sy])
    rotation = np.stack([right, np.cross(forward, right), forward], axis=1)
    turned = inside @ rotation
    centre = (turned.min(axis=0) + turned.max(axis=0)) / 2
    turned -= centre
    focal = size[0] / (2 * np.tan(_FIELD_OF_VIEW / 2))
    # A point is in the picture when |x| focal / (distance + z) is less than half of it.
    needed = np.abs(turned[:, :2]) * (2.1 * focal / np.array(size))
    distance = float(np.max(needed - turned[:, 2:]))
    return inverse(make_pose(rotation, rotation @ (centre - [0.0, 0.0, distance]))), focal


def _splat(picture: Picture, seen: Array, colours: NDArray[np.uint8], focal: float) -> None:
    """Squares of 3 pixels, the farthest first."""
    front = seen[:, 2] > 1e-6
    seen, colours = seen[front], colours[front]
    order = np.argsort(-seen[:, 2])
    seen, colours = seen[order], colours[order]
    height, width = picture.shape[:2]
    at = np.rint(focal * seen[:, :2] / seen[:, 2:] + [width / 2, height / 2]).astype(np.int64)
    square = np.array([(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)])
    x, y = (at[:, None] + square).reshape(-1, 2).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    picture[y[inside], x[inside]] = np.repeat(colours, len(square), axis=0)[inside]


def _draw_cameras(picture: Picture, poses_eye_camera: list[Array], focal: float) -> None:
    """The path and a small pyramid for each camera."""
    positions = np.array([pose[:3, 3] for pose in poses_eye_camera])
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    span = float(np.linalg.norm(np.ptp(positions, axis=0)))
    length = max(float(np.median(steps)) if len(steps) else 0.0, 0.03 * span)
    middle = np.array([picture.shape[1] / 2, picture.shape[0] / 2])

    def line(a: Array, b: Array, thickness: int) -> None:
        if min(a[2], b[2]) > 1e-6:
            ends = [
                tuple(np.clip(np.rint(focal * p[:2] / p[2] + middle), -9999, 9999).astype(int).tolist()) for p in (a, b)
            ]
            cv2.line(picture, *ends, _PATH, thickness, cv2.LINE_AA)

    for a, b in zip(positions, positions[1:]):
        line(a, b, 2)
    for pose in poses_eye_camera:
        corners = transform(pose, _FRUSTUM * length * 0.5)
        for i, corner in enumerate(corners):
            line(pose[:3, 3], corner, 1)
            line(corner, corners[(i + 1) % 4], 1)
