# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What several test modules build on: textures, cameras, and small things to compare with."""

from __future__ import annotations

import cv2
import numpy as np

from loftr_ros.geometry.camera import Camera
from loftr_ros.training.photometric import Effects, motion_kernel


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Grey uint8 noise with structure at all scales, so that every detector finds something."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width))
    for size in (2, 4, 8, 16, 32):
        coarse = rng.standard_normal((height // size + 2, width // size + 2))
        image += size**0.5 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image -= image.min()
    return np.rint(image * (255 / image.max())).astype(np.uint8)


def pinhole(width: int = 320, height: int = 240, focal: float = 300.0) -> Camera:
    matrix = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return Camera(width, height, matrix)


# A camera of the training that leaves pictures as they are.
NO_EFFECTS = Effects(
    focus=0.2, motion=motion_kernel(0.0, 0.0), light=np.array([[0, 0], [1, 0], [0, 1.0]]), light_gain=1.0,
    light_softness=1.0, vignette=0.0, gamma=1.0, gain=1.0, offset=0.0, darkness=1.0, noise=0.0, quality=0,
)  # fmt: skip


CAMERA_INFO = """image_width: {width}
image_height: {height}
camera_matrix: {{rows: 3, cols: 3, data: [{focal}, 0, {cx}, 0, {focal}, {cy}, 0, 0, 1]}}
distortion_model: plumb_bob
distortion_coefficients: {{rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}}
"""


def camera_info_yaml(width: int = 320, height: int = 240, focal: float = 300.0) -> str:
    """The same camera as `pinhole`."""
    return CAMERA_INFO.format(
        width=width, height=height, focal=focal, cx=(width - 1) / 2, cy=(height - 1) / 2
    )


def is_one_sentence(text: str) -> bool:
    """One line that ends like a sentence, and no traceback."""
    return text.count("\n") == 0 and text.rstrip()[-1] in ".?!" and "Traceback" not in text


def scene(
    rng: np.random.Generator, pose_1_0: np.ndarray, count: int = 200, noise: float = 0.0, planar: bool = False
):
    """Points before camera 0 and their normalized images in both cameras: points [N, 3], [N, 2], [N, 2]."""
    points = rng.uniform([-2, -1.5, 3], [2, 1.5, 9], (count, 3))
    if planar:
        points[:, 2] = 5.0 + 0.4 * points[:, 0] - 0.2 * points[:, 1]
    moved = points @ pose_1_0[:3, :3].T + pose_1_0[:3, 3]
    seen0, seen1 = points[:, :2] / points[:, 2:], moved[:, :2] / moved[:, 2:]
    return points, seen0, seen1 + noise * rng.standard_normal((count, 2))


def lively(size: str, seed: int, gain: float = 0.4):
    """A LoFTR with random weights whose matches occur."""
    from loftr_ros.evaluation.random_network import random_network  # torch is loaded only where it is used

    return random_network(size, texture(96, 96, 100 + seed), seed, gain)


def angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    """Between two vectors."""
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))
