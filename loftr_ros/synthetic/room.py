# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""A textured room with boxes and a camera that goes round in it: known poses, depths and matches, without any data.

World frame: x and y on the floor, z up, the origin at the centre of the floor; metres.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.se3 import make_pose
from loftr_ros.synthetic.scene import Quad, render
from loftr_ros.synthetic.textures import clutter, fine_noise, octave_noise
from loftr_ros.types import Array, Frame

SIZE = (7.0, 6.0, 3.0)
_TEXELS_PER_METRE = 140
_NOISE_SIGMA = 1.5  # grey levels
_BOXES = 9

Painter: TypeAlias = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.uint8]]


def room_camera(width: int = 640, height: int = 480) -> Camera:
    """A pinhole camera with a horizontal field of view of 71 degrees."""
    focal = 0.7 * width
    matrix = np.array([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])
    return Camera(width, height, matrix)


@dataclass(frozen=True)
class Room:
    """The scene, and a camera to look at it with.

    The same seed makes the same room; the same frame number gives the same image.
    """

    quads: tuple[Quad, ...]
    camera: Camera
    seed: int = 0

    def view(self, pose_world_camera: Array, number: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Image [H, W] uint8 with sensor noise, and its exact depth [H, W] in metres."""
        size = (self.camera.width, self.camera.height)
        image, depth = render(self.quads, self.camera.matrix, size, pose_world_camera, supersample=1)
        noise = np.random.default_rng([self.seed, number]).standard_normal(image.shape, dtype=np.float32)
        return np.clip(np.rint(image + _NOISE_SIGMA * noise), 0, 255).astype(np.uint8), depth

    def frames(self, poses: list[Array], rate_hz: float = 10.0, with_depth: bool = False) -> Iterator[Frame]:
        """Frames along a trajectory of pose_world_camera, stamped from 0 on."""
        for i, pose in enumerate(poses):
            image, depth = self.view(pose, i)
            yield Frame(round(i * 1e9 / rate_hz), image, depth if with_depth else None)


def make_room(camera: Camera | None = None, seed: int = 0, detailed: bool = False) -> Room:
    """Four walls, floor, ceiling, and boxes along the walls.

    Args:
        detailed: fine structure everywhere, for matchers that need corners; otherwise softer shapes and letters.
    """
    rng, paint = np.random.default_rng(seed), fine_noise if detailed else _shapes
    quads = _box(rng, np.zeros(3), np.array(SIZE), 0.0, paint)
    for i in range(_BOXES):
        quads += _furniture(rng, 2 * np.pi * i / _BOXES, paint)
    return Room(tuple(quads), camera or room_camera(), seed)


def _furniture(rng: np.random.Generator, bearing: float, paint: Painter) -> list[Quad]:
    """A box on the floor or on the wall, in the direction `bearing` from the centre."""
    place = np.array([np.cos(bearing) * SIZE[0] * 0.38, np.sin(bearing) * SIZE[1] * 0.38, 0.0])
    place[2] = rng.choice([0.0, 0.0, rng.uniform(0.6, 1.6)])
    sides = rng.uniform([0.4, 0.4, 0.4], [1.1, 0.9, 1.6])
    return _box(rng, place, sides, float(rng.uniform(0, np.pi)), paint)


def _box(rng: np.random.Generator, foot: Array, sides: Array, yaw: float, paint: Painter) -> list[Quad]:
    """Six faces of a box that stands on `foot` (the centre of its bottom), turned about the vertical."""
    c, s = np.cos(yaw), np.sin(yaw)
    x, y, z = np.array([c, s, 0.0]) * sides[0], np.array([-s, c, 0.0]) * sides[1], np.array([0.0, 0.0, sides[2]])
    low = foot - x / 2 - y / 2
    top = low + z
    faces = [(low, x, y), (top, x, y), (top, x, -z), (top + y, x, -z), (top, y, -z), (top + x, y, -z)]
    return [Quad(origin, u, v, paint(rng, _texels(u, v))) for origin, u, v in faces]


def _texels(u: Array, v: Array) -> tuple[int, int]:
    """Height and width of a face's texture: as many texels as the face is large."""
    height, width = (max(32, int(np.linalg.norm(edge) * _TEXELS_PER_METRE)) for edge in (v, u))
    return height, width


def _shapes(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """[h, w] shapes and letters over stains."""
    tiles = clutter(rng, (min(size[0], 330), min(size[1], 330)))
    repeats = (-(-size[0] // tiles.shape[0]), -(-size[1] // tiles.shape[1]))
    # Mirrored and stained, so that no two places look alike.
    pattern = np.block(
        [[tiles[:: 1 - 2 * (i % 2), :: 1 - 2 * (j % 2)] for j in range(repeats[1])] for i in range(repeats[0])]
    )
    pattern = pattern[: size[0], : size[1]]
    stains = octave_noise(rng, (size[0], size[1]))
    image = np.clip(10 + 130 * pattern + 130 * stains, 0, 255).astype(np.uint8)
    return cv2.GaussianBlur(image, (0, 0), 0.6)  # no step edges: a camera sees none


def look(position: Array, yaw: float, pitch: float = 0.0, roll: float = 0.0) -> Array:
    """pose_world_camera [4, 4] of a camera at a place, looking along yaw (from x towards y) and pitch (up), radians."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    forward = np.array([cy * cp, sy * cp, sp])
    right = np.array([sy, -cy, 0.0])
    down = np.cross(forward, right)
    cr, sr = np.cos(roll), np.sin(roll)
    return make_pose(np.stack([cr * right + sr * down, -sr * right + cr * down, forward], axis=1), position)


def round_trip(count: int, share: float = 1.0) -> list[Array]:
    """`count` poses round the room, looking ahead and outward, with a light sway: a robot on its way.

    Args:
        share: of the full circle.
    """
    return [_on_round_trip(t) for t in np.linspace(0.0, share, count, endpoint=share < 1.0)]


def _on_round_trip(t: float) -> Array:
    angle = 2 * np.pi * t
    position = np.array([1.5 * np.cos(angle), 1.1 * np.sin(angle), 1.3 + 0.08 * np.sin(5 * angle)])
    yaw = angle + np.pi / 2 - np.radians(35) + 0.1 * np.sin(3 * angle)
    return look(position, yaw, 0.05 * np.sin(4 * angle), 0.03 * np.sin(6 * angle))


def on_the_spot(count: int, turn_deg: float) -> list[Array]:
    """`count` poses of a camera that turns about its own centre."""
    return [look(np.array([0.2, -0.3, 1.4]), np.radians(a)) for a in np.linspace(0.0, turn_deg, count)]
