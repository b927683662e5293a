# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Random scenes of textured quads: planes, streets, rooms, clutter.

World axes: x right, y down, z forward; metres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from loftr_ros.synthetic.scene import Parallelogram
from loftr_ros.synthetic.textures import Swatch, Textures
from loftr_ros.types import Array


@dataclass(frozen=True)
class Surface(Parallelogram):
    """A quad (loftr_ros.synthetic.scene) whose texture, `swatch`, is not cut out yet."""

    swatch: Swatch


@dataclass(frozen=True)
class Scene:
    """Attributes:
    surfaces: what there is.
    pose_world_camera: [4, 4] of the first camera.
    reach: metres, how far the nearer half of the scene is from that camera: the measure of its motion.
    forward: the camera moves mostly along its axis.
    """

    surfaces: list[Surface]
    pose_world_camera: Array
    reach: float
    forward: bool = False


def random_scene(rng: np.random.Generator, textures: Textures) -> Scene:
    """A scene of a random kind."""
    kinds: tuple[Callable[[np.random.Generator, Textures], Scene], ...] = (plane, street, room, clutter)
    scene = kinds[int(rng.choice(4, p=[0.15, 0.35, 0.27, 0.23]))](rng, textures)
    if rng.random() < 0.3:
        scene.surfaces.extend(_thin_occluders(rng, textures, scene))
    return scene


def plane(rng: np.random.Generator, textures: Textures) -> Scene:
    """One slanted plane: the views differ by a homography."""
    size = rng.uniform(1.2, 3.5, 2)
    turn = Rotation.from_euler("xyz", rng.uniform([-45, -45, -180], [45, 45, 180]), degrees=True).as_matrix()
    quad = _centred_quad(np.array([0, 0, 2.0]), turn, size, textures.draw(rng))
    return Scene([quad, *_surroundings(rng, textures, 15.0)], np.eye(4), 2.0)


def street(rng: np.random.Generator, textures: Textures) -> Scene:
    """Ground, house fronts at varying distances, parked boxes, poles, sky."""
    height, far = rng.uniform(1.0, 2.2), rng.uniform(30, 70)
    quads = _surroundings(rng, textures, 2 * far)
    side = np.array([rng.uniform(3, 9), rng.uniform(3, 9)])
    ground = np.array([-side[0] - 3, height, -3.0])
    width = np.array([side.sum() + 6, 0, 0])
    pieces, same, plain = int(rng.integers(4, 10)), rng.random() < 0.5, rng.random() < 0.25
    quads += wall(rng, textures, ground, np.array([0, 0, far]), width, pieces, same, plain)
    for sign, distance in zip((-1, 1), side):
        quads += _house_fronts(rng, textures, sign * distance, height, far)
        for _ in range(rng.integers(0, 4)):
            size = rng.uniform([1.4, 1.2, 2.5], [2.2, 2.5, 5])
            place = [sign * distance * rng.uniform(0.4, 0.9), height - size[1] / 2, rng.uniform(4, 30)]
            quads += box(rng, textures, np.array(place), size, plain_share=0.3)
        for _ in range(rng.integers(0, 3)):
            base = np.array([sign * distance * rng.uniform(0.5, 1), height, rng.uniform(3, 25)])
            thin = np.array([rng.uniform(0.08, 0.35), 0, 0])
            quads.append(Surface(base, thin, np.array([0, -rng.uniform(2, 7), 0]), textures.draw(rng)))
    yaw = rng.normal(0, 12) if rng.random() < 0.8 else rng.uniform(-60, 60)
    return Scene(quads, _pose(rng, yaw, np.zeros(3)), rng.uniform(6, 9), forward=True)


def _house_fronts(
    rng: np.random.Generator, textures: Textures, x: float, ground: float, far: float
) -> list[Surface]:
    quads, z = [], -3.0
    while z < far:
        length, tall = rng.uniform(4, 14), rng.uniform(2, 10)
        if rng.random() < 0.85:
            corner = np.array([x * rng.uniform(0.9, 1.4), ground - tall, z])
            swatch = paint(rng, textures, 0.2)
            quads.append(Surface(corner, np.array([0, 0, length]), np.array([0, tall, 0]), swatch))
        z += length
    end = np.array([-20.0, ground - rng.uniform(3, 10), far])
    return [*quads, Surface(end, np.array([40.0, 0, 0]), np.array([0, ground - end[1], 0]), textures.draw(rng))]


def room(rng: np.random.Generator, textures: Textures) -> Scene:
    """Walls, some of them plain, with pictures on them, and boxes on the floor and in the air."""
    size = rng.uniform([3, 2.3, 3], [8, 4, 8])
    quads = []
    for axis in range(3):
        for sign in (-1, 1):
            origin, u, v = _box_face(np.zeros(3), size, axis, sign)
            pieces, plain = int(rng.integers(1, 4)), rng.random() < 0.55
            quads += wall(rng, textures, origin, u, v, pieces, rng.random() < 0.3, plain)
            quads += _pictures(rng, textures, origin * 0.99, u, v)
    for _ in range(rng.integers(2, 9)):
        extent = rng.uniform(0.2, 1.2, 3)
        place = rng.uniform(-0.5, 0.5, 3) * (size - extent)
        if rng.random() < 0.7:
            place[1] = (size[1] - extent[1]) / 2
        quads += box(rng, textures, place, extent, plain_share=0.4)
    position = rng.uniform(-0.3, 0.3, 3) * size * [1, 0.7, 1]
    return Scene(quads, _pose(rng, rng.uniform(-180, 180), position), float(size.mean()) / 2.5)


def clutter(rng: np.random.Generator, textures: Textures) -> Scene:
    """Quads of any direction at many depths, in front of far walls."""
    quads = _surroundings(rng, textures, 14.0)
    for _ in range(rng.integers(8, 25)):
        depth = np.exp(rng.uniform(np.log(1.2), np.log(10)))
        place = np.array([rng.uniform(-0.9, 0.9), rng.uniform(-0.7, 0.7), 1]) * depth
        turn = Rotation.from_euler(
            "xyz", rng.uniform([-50, -50, -180], [50, 50, 180]), degrees=True
        ).as_matrix()
        quads.append(_centred_quad(place, turn, depth * rng.uniform(0.25, 0.9, 2), textures.draw(rng)))
    return Scene(quads, np.eye(4), 3.0)


def wall(
    rng: np.random.Generator,
    textures: Textures,
    origin: Array,
    edge_u: Array,
    edge_v: Array,
    pieces: int,
    same: bool = False,
    plain: bool = False,
) -> list[Surface]:
    """A rectangle cut along edge_u into pieces, of one texture or several, with little contrast if plain."""
    step, first, quads = edge_u / pieces, paint(rng, textures, plain), []
    for k in range(pieces):
        swatch = first if same or k == 0 else paint(rng, textures, plain)
        quads.append(Surface(origin + k * step, step, edge_v, swatch))
    return quads


def paint(rng: np.random.Generator, textures: Textures, plain_share: float) -> Swatch:
    """A texture, with a probability of plain_share nearly without contrast, as much indoors is."""
    swatch = textures.draw(rng)
    if rng.random() >= plain_share:
        return swatch
    contrast = rng.uniform(0.05, 0.3)
    return textures.dulled(swatch, rng.uniform(40, 220), contrast)


def box(
    rng: np.random.Generator, textures: Textures, center: Array, size: Array, plain_share: float = 0.0
) -> list[Surface]:
    """A cuboid along the axes; opposite faces share a texture."""
    quads = []
    for axis in range(3):
        swatch = paint(rng, textures, plain_share)
        quads += [Surface(*_box_face(center, size, axis, sign), swatch) for sign in (-1, 1)]
    return quads


def _box_face(center: Array, size: Array, axis: int, sign: int) -> tuple[Array, Array, Array]:
    """Origin and edges of a face; walls along x and z stand upright (their texture's columns go down)."""
    normal, along, down = ((0, 2, 1), (1, 0, 2), (2, 0, 1))[axis]
    edges = np.diag(size)
    origin = center - size / 2
    origin[normal] += size[normal] * (sign > 0)
    return origin, edges[along], edges[down]


def _pictures(rng: np.random.Generator, textures: Textures, origin: Array, u: Array, v: Array) -> list[Surface]:
    """Things hanging on a wall."""
    quads = []
    for _ in range(rng.integers(0, 4)):
        extent = rng.uniform(0.1, 0.45, 2)
        place = rng.uniform(0, 1 - extent)
        corner = origin + place[0] * u + place[1] * v
        quads.append(Surface(corner, extent[0] * u, extent[1] * v, textures.draw(rng)))
    return quads


def _surroundings(rng: np.random.Generator, textures: Textures, distance: float) -> list[Surface]:
    """A large box around everything: sky or far walls."""
    return box(rng, textures, np.zeros(3), np.full(3, 2 * distance))


def _thin_occluders(rng: np.random.Generator, textures: Textures, scene: Scene) -> list[Surface]:
    """Poles and branches between the camera and the scene."""
    rotation, center = scene.pose_world_camera[:3, :3], scene.pose_world_camera[:3, 3]
    quads = []
    for _ in range(rng.integers(1, 6)):
        depth = scene.reach * rng.uniform(0.25, 0.7)
        place = center + rotation @ (np.array([rng.uniform(-0.7, 0.7), rng.uniform(-0.5, 0.5), 1]) * depth)
        turn = (
            rotation @ Rotation.from_euler("zx", rng.uniform([-90, -40], [90, 40]), degrees=True).as_matrix()
        )
        size = depth * np.array([rng.uniform(0.015, 0.08), rng.uniform(0.3, 3)])
        quads.append(_centred_quad(place, turn, size, textures.draw(rng)))
    return quads


def _centred_quad(center: Array, rotation: Array, size: Array, swatch: Swatch) -> Surface:
    u, v = rotation[:, 0] * size[0], rotation[:, 1] * size[1]
    return Surface(center - (u + v) / 2, u, v, swatch)


def _pose(rng: np.random.Generator, yaw: float, position: Array) -> Array:
    """A camera that looks along yaw (degrees), nearly level."""
    pose = np.eye(4)
    angles = [yaw, rng.normal(0, 6), rng.normal(0, 4)]
    pose[:3, :3] = Rotation.from_euler("YXZ", angles, degrees=True).as_matrix()
    pose[:3, 3] = position
    return pose
