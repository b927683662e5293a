# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Random pairs of views of random scenes, and where each coarse cell of one lies in the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from loftr_ros.loftr.fine_matching import COARSE_STRIDE
from loftr_ros.synthetic.scene import Quad, edges_of, inverse_depths_of, render, transfer_pixels, transfer_points
from loftr_ros.synthetic.textures import Textures
from loftr_ros.training.photometric import Effects, degrade, random_effects, stacked
from loftr_ros.training.scenes import Surface, random_scene
from loftr_ros.types import Array

_LEAST_OVERLAP = 0.2  # share of the first view that the second sees
_ATTEMPTS = 4
_OVERLAP_RAYS = (12, 9)  # columns and rows, to tell the overlap before anything is rendered


@dataclass(frozen=True)
class Plan:
    """A training pair that is not rendered yet; the first of each two belongs to the first view.

    Attributes:
        surfaces: what there is.
        intrinsics: [2, 3, 3]; poses: [2, 4, 4] pose_world_camera, metres.
        effects: what the camera does to the two pictures.
        noise_seed: of the cameras' noise where it is rendered alone, on the CPU.
    """

    surfaces: list[Surface]
    intrinsics: Array
    poses: Array
    effects: tuple[Effects, Effects]
    noise_seed: int


@dataclass(frozen=True)
class View:
    """image [H, W] in 0..255, depth [H, W] metres, intrinsics [3, 3], pose_world_camera [4, 4]."""

    image: NDArray[np.float32]
    depth: NDArray[np.float32]
    intrinsics: Array
    pose_world_camera: Array

    def cell_pixels(self) -> Array:
        """[L, 2] the pixels (x, y) that the coarse cells look at, row by row."""
        height, width = self.depth.shape
        rows, columns = np.mgrid[0:height:COARSE_STRIDE, 0:width:COARSE_STRIDE]
        return np.stack([columns.ravel(), rows.ravel()], axis=1).astype(float)


@dataclass(frozen=True)
class Targets:
    """Where the cells of one view lie in the other.

    Attributes:
        points: [L, 2] pixels (x, y) in the other view; 0 where unknown.
        visible: [L] True where the other view sees it.
        hidden: [L] True where the other view certainly does not.
    """

    points: NDArray[np.float32]
    visible: NDArray[np.bool_]
    hidden: NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """A training pair: images [2, H, W] uint8, and the targets of the cells of each image in the other."""

    images: NDArray[np.uint8]
    targets0: Targets
    targets1: Targets


def random_sample(rng: np.random.Generator, textures: Textures, size: tuple[int, int]) -> Sample:
    """A pair of pictures of `size` (width, height) with its correspondences."""
    return rendered(random_plan(rng, textures, size), textures, size)


def rendered(plan: Plan, textures: Textures, size: tuple[int, int]) -> Sample:
    """The pictures and correspondences of a plan, on the CPU."""
    quads = [Quad(s.origin, s.edge_u, s.edge_v, textures.pixels(s.swatch)) for s in plan.surfaces]
    cameras = zip(plan.intrinsics, plan.poses)
    views = [View(*render(quads, matrix, size, pose), matrix, pose) for matrix, pose in cameras]
    images = torch.from_numpy(np.stack([view.image for view in views]))
    images = degrade(images, stacked(plan.effects), torch.Generator().manual_seed(plan.noise_seed))
    return Sample(images.numpy(), cell_targets(*views), cell_targets(*views[::-1]))


def random_plan(rng: np.random.Generator, textures: Textures, size: tuple[int, int]) -> Plan:
    """Two overlapping views of a random scene, in random order."""
    for _ in range(_ATTEMPTS):
        scene = random_scene(rng, textures)
        first = _intrinsics(rng, size)
        zoom = 1.0 if rng.random() < 0.8 else np.exp(rng.uniform(-0.5, 0.5))
        second = np.diag([zoom, zoom, 1.0]) @ _centred(first, size, zoom)
        pose = scene.pose_world_camera @ random_motion(rng, scene.reach, scene.forward)
        intrinsics, poses = np.stack([first, second]), np.stack([scene.pose_world_camera, pose])
        if overlap(scene.surfaces, intrinsics, poses, size) >= _LEAST_OVERLAP:
            break
    order = slice(None) if rng.random() < 0.5 else slice(None, None, -1)
    dark = rng.random() < 0.08
    effects = (random_effects(rng, dark), random_effects(rng, dark))
    return Plan(scene.surfaces, intrinsics[order], poses[order], effects, int(rng.integers(2**31)))


def overlap(surfaces: list[Surface], intrinsics: Array, poses: Array, size: tuple[int, int]) -> float:
    """Share of a grid of rays of the first view whose ends the second view sees."""
    edges = edges_of(surfaces)
    x, y = (np.linspace(0, side - 1, count) for side, count in zip(size, _OVERLAP_RAYS))
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    first, second = (partial(inverse_depths_of, edges, *camera) for camera in zip(intrinsics, poses))
    ends, seen = transfer_points(points, first(points), intrinsics[0], poses[0], second, intrinsics[1], poses[1])
    inside = (ends >= 0).all(axis=1) & (ends <= np.array(size) - 1).all(axis=1)
    return float(np.mean(seen & inside))


def _intrinsics(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """[3, 3] of a camera with a field of view of 45 to 100 degrees along the width."""
    focal = size[0] / 2 / np.tan(np.radians(rng.uniform(45, 100)) / 2)
    center = (np.array(size) - 1) / 2 + rng.normal(0, 0.02, 2) * size
    return np.array([[focal, 0, center[0]], [0, focal, center[1]], [0, 0, 1]])


def _centred(intrinsics: Array, size: tuple[int, int], zoom: float) -> Array:
    """Intrinsics whose principal point, once multiplied by zoom, is again where it was."""
    moved = intrinsics.copy()
    moved[:2, 2] /= zoom
    return moved


def random_motion(rng: np.random.Generator, reach: float, forward: bool) -> Array:
    """[4, 4] pose of the second camera in the first: small motions, steps of odometry, and wide ones.

    Args:
        reach: metres, typical distance of the scene.
        forward: mostly along the optical axis.
    """
    kind = rng.choice(3, p=[0.3, 0.45, 0.25])
    length = reach * rng.uniform(*((0.003, 0.04), (0.04, 0.2), (0.15, 0.55))[kind])
    degrees = rng.uniform(0, (3, 12, 32)[kind])
    direction = rng.standard_normal(3)
    if forward and rng.random() < 0.8:
        direction = np.array([0, 0, rng.choice([-1.0, 1.0])]) + 0.15 * direction
    axis = rng.standard_normal(3) * [1, 2, 0.5]
    turn = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis))
    if rng.random() < 0.2:
        turn = turn * Rotation.from_euler("z", rng.uniform(-35, 35), degrees=True)
    pose = np.eye(4)
    pose[:3, :3] = turn.as_matrix()
    pose[:3, 3] = length * direction / np.linalg.norm(direction)
    return pose


def cell_targets(view: View, other: View) -> Targets:
    """Where the cells of `view` lie in `other`."""
    points, visible = transfer_pixels(
        view.cell_pixels(), view.depth, view.intrinsics, view.pose_world_camera,
        other.depth, other.intrinsics, other.pose_world_camera,
    )  # fmt: skip
    # Points behind the camera are NaN: hidden too, since every pixel has a depth in scenes with surroundings.
    hidden = ~visible & _far_from_visible(points, other.depth.shape)
    return Targets(np.nan_to_num(points).astype(np.float32), visible, hidden)


def _far_from_visible(points: Array, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """[L] False just outside the other image, where the border cells still see the point's surroundings."""
    margin = COARSE_STRIDE
    near = (points >= -margin).all(axis=1)
    near &= (points[:, 0] < shape[1] + margin) & (points[:, 1] < shape[0] + margin)
    inside = (points >= 0).all(axis=1) & (points[:, 0] <= shape[1] - 1) & (points[:, 1] <= shape[0] - 1)
    return ~near | inside
