# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What makes matching harder, done to frames: darkness with noise, and roll. The same for every matcher and run."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from loftr_ros.errors import InputError
from loftr_ros.geometry.camera import Camera
from loftr_ros.types import Array, Image

DARK_GAINS = (0.15, 0.35)
DARK_NOISE = 4.0  # grey levels


def darkened(images: Sequence[Image]) -> list[Image]:
    """Frames [H, W] as an under-exposed camera would give them, each with a gain and a noise of its own."""
    return [_darkened(image, np.random.default_rng([0, k])) for k, image in enumerate(images)]


def _darkened(image: Image, rng: np.random.Generator) -> Image:
    dark = image * rng.uniform(*DARK_GAINS) + rng.normal(0, DARK_NOISE, image.shape)
    return np.clip(np.rint(dark), 0, 255).astype(np.uint8)


def roll_of_frame(index: int, most_deg: float) -> float:
    """Degrees between -most_deg and most_deg, evenly distributed over the frames."""
    return float(np.random.default_rng([1, index]).uniform(-most_deg, most_deg))


def roll_pose(roll_deg: float) -> Array:
    """[4, 4] pose_rolled_camera: from the camera's frame to that of the camera rolled about its optical axis."""
    angle = np.radians(roll_deg)
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return pose


def rolled(image: Image, camera: Camera, roll_deg: float) -> Image:
    """The frame [H, W] that the rolled camera would see, black where the frame has nothing.

    Raises:
        InputError: the camera distorts; a roll would then be no homography.
    """
    if roll_deg == 0:
        return image
    if not camera.is_ideal:
        raise InputError("Frames of a camera with distortion cannot be rolled; rectify them first.")
    homography = camera.matrix @ roll_pose(roll_deg)[:3, :3] @ np.linalg.inv(camera.matrix)
    return cv2.warpPerspective(image, homography, image.shape[::-1], flags=cv2.INTER_LINEAR)
