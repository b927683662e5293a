# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Ray-cast views of textured quads: images with exact depth, and exact correspondences between two of them.

Conventions: the camera frame is optical (x right, y down, z forward), pixel centres have integer coordinates,
poses are `pose_world_camera` [4, 4] (camera to world), lengths are metres.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros.types import Array

NEAR = 0.01  # metres; what is nearer to the camera is not drawn
SAME_DEPTH = 0.01  # relative difference of inverse depth up to which two rays meet the same point
SMALLEST_LEVEL = 4  # texels; smaller pictures add nothing to a pyramid

Image: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Parallelogram:
    """Seen from both sides: origin + a * edge_u + b * edge_v, a and b in [0, 1].

    Attributes:
        origin: [3] world metres, the corner with the first texel.
        edge_u: [3] world metres, along the rows of the texture (left to right).
        edge_v: [3] world metres, along the columns of the texture (top to bottom).
    """

    origin: Array
    edge_u: Array
    edge_v: Array


@dataclass(frozen=True)
class Quad(Parallelogram):
    """A textured parallelogram.

    Attributes:
        texture: [h, w] grey, uint8 or float32 in 0..255. The centre of texel (column i, row j) lies at
            a = (i + 0.5) / w, b = (j + 0.5) / h.
    """

    texture: NDArray[np.uint8] | Image

    @cached_property
    def pyramid(self) -> list[Image]:
        """Of the texture."""
        return pyramid_of(self.texture)

    def corners(self) -> Array:
        """[4, 3] world metres, around the border."""
        sides = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=float)
        return np.asarray(self.origin) + sides @ np.stack([self.edge_u, self.edge_v])


def render(
    quads: Sequence[Quad],
    intrinsics: Array,
    size: tuple[int, int],
    pose_world_camera: Array,
    supersample: int = 1,
) -> tuple[Image, Image]:
    """The view of quads from a camera.

    Args:
        intrinsics: [3, 3] pinhole matrix.
        size: (width, height) in pixels.
        pose_world_camera: [4, 4].
        supersample: rays per pixel along each axis for the image; smooths edges and slanted textures.

    Returns:
        image: [H, W] in 0..255, 0 where there is nothing.
        depth: [H, W] metres along the optical axis at the pixel centres, 0 where there is nothing.
    """
    maps = pixels_to_quads(edges_of(quads), intrinsics, pose_world_camera)
    inverse_depth, index = _nearest(quads, maps, intrinsics, size, pose_world_camera)
    depth = np.divide(1.0, inverse_depth, out=np.zeros_like(inverse_depth), where=inverse_depth > 0)
    if supersample == 1:
        return _shade(quads, maps, index), depth
    half = (supersample - 1) / 2
    finer = np.array([[supersample, 0, half], [0, supersample, half], [0, 0, 1]]) @ intrinsics
    large = (size[0] * supersample, size[1] * supersample)
    image, _ = render(quads, finer, large, pose_world_camera)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), depth


def pyramid_of(texture: NDArray[np.uint8] | Image) -> list[Image]:
    """A texture [h, w] and its halvings; texel i of level k is centred on texel i * 2^k of level 0."""
    levels = [np.ascontiguousarray(texture, dtype=np.float32)]
    while min(levels[-1].shape) >= 2 * SMALLEST_LEVEL:
        levels.append(cv2.pyrDown(levels[-1]))
    return levels


def edges_of(quads: Sequence[Parallelogram]) -> Array:
    """[Q, 3, 3] edge_u, edge_v and origin as columns."""
    columns = [np.stack([quad.edge_u, quad.edge_v, quad.origin], axis=1) for quad in quads]
    return np.array(columns, dtype=float).reshape(-1, 3, 3)


def inverse_depths_of(edges: Array, intrinsics: Array, pose_world_camera: Array, points: Array) -> Array:
    """What few rays meet, without a z-buffer.

    Args:
        edges: [Q, 3, 3] edge_u, edge_v and origin of the quads, as columns.
        points: [N, 2] pixels.

    Returns:
        [N] inverse depth along the optical axis; 0 where there is nothing.
    """
    maps = pixels_to_quads(edges, intrinsics, pose_world_camera)
    a, b, nearness = np.moveaxis(maps @ np.column_stack([points, np.ones(len(points))]).T, 1, 0)
    seen = (a >= 0) & (a <= nearness) & (b >= 0) & (b <= nearness) & (nearness < 1 / NEAR)
    return np.where(seen, nearness, 0.0).max(axis=0, initial=0.0)


def pixels_to_quads(edges: Array, intrinsics: Array, pose_world_camera: Array) -> Array:
    """[Q, 3, 3] homographies from pixels (x, y, 1) to (a, b, 1) / depth; zeros for quads seen edge-on.

    A point of a quad is [edge_u edge_v origin] (a, b, 1) in the camera frame, and depth * inv(K) (x, y, 1).
    """
    frames = edges.copy()
    frames[:, :, 2] -= pose_world_camera[:3, 3]
    frames = pose_world_camera[:3, :3].T @ frames
    scale = np.linalg.norm(frames, axis=1).prod(axis=1)
    seen = np.abs(np.linalg.det(frames)) > 1e-9 * scale
    maps = np.zeros_like(frames)
    maps[seen] = np.linalg.inv(intrinsics @ frames[seen])
    return maps


def _nearest(
    quads: Sequence[Quad],
    maps: Array,
    intrinsics: Array,
    size: tuple[int, int],
    pose_world_camera: Array,
) -> tuple[Image, NDArray[np.int16]]:
    """The z-buffer: [H, W] inverse depth (0: nothing) and the index of the quad seen there (-1: none)."""
    inverse_depth = np.zeros((size[1], size[0]), np.float32)
    index = np.full((size[1], size[0]), -1, np.int16)
    for k, (quad, pixel_to_quad) in enumerate(zip(quads, maps)):
        box = _bounding_box(quad, intrinsics, size, pose_world_camera)
        if box is None:
            continue
        a, b, nearness = _apply(pixel_to_quad, box)
        closer = (nearness > inverse_depth[box]) & (nearness < 1 / NEAR)
        closer &= (a >= 0) & (a <= nearness) & (b >= 0) & (b <= nearness)
        np.copyto(inverse_depth[box], nearness, where=closer)
        index[box][closer] = k
    return inverse_depth, index


def _bounding_box(
    quad: Quad, intrinsics: Array, size: tuple[int, int], pose_world_camera: Array
) -> tuple[slice, slice] | None:
    """Rows and columns that can see the quad, or None."""
    corners = (quad.corners() - pose_world_camera[:3, 3]) @ pose_world_camera[:3, :3]
    clipped = _clip_near(corners)
    if len(clipped) == 0:
        return None
    pixels = clipped @ intrinsics.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    low = np.clip(np.ceil(pixels.min(axis=0)), 0, size).astype(int)
    high = np.clip(np.floor(pixels.max(axis=0)) + 1, 0, size).astype(int)
    if np.any(high <= low):
        return None
    return slice(low[1], high[1]), slice(low[0], high[0])


def _clip_near(corners: Array) -> Array:
    """The part of a convex polygon [N, 3] (camera frame) with z >= NEAR, as a polygon [M, 3]."""
    points = []
    for start, end in zip(corners, np.roll(corners, -1, axis=0)):
        if start[2] >= NEAR:
            points.append(start)
        if (start[2] >= NEAR) != (end[2] >= NEAR):
            points.append(start + (end - start) * (NEAR - start[2]) / (end[2] - start[2]))
    return np.array(points).reshape(-1, 3)


def _apply(homography: Array, box: tuple[slice, slice]) -> Image:
    """[3, rows, columns] the homography times (x, y, 1) at the pixels of a box."""
    rows, columns = np.arange(box[0].start, box[0].stop), np.arange(box[1].start, box[1].stop)
    by_row = (homography[:, 1, None] * rows + homography[:, 2, None]).astype(np.float32)
    by_column = (homography[:, 0, None] * columns).astype(np.float32)
    return by_row[:, :, None] + by_column[:, None, :]


def _shade(quads: Sequence[Quad], maps: Array, index: NDArray[np.int16]) -> Image:
    """[H, W] the grey value of the quad that each pixel sees."""
    image = np.zeros(index.shape, np.float32)
    for k in np.unique(index[index >= 0]):
        seen = index == k
        box = _extent(seen)
        values = _sample(quads[k], maps[k], box)
        np.copyto(image[box], values, where=seen[box])
    return image


def _extent(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The smallest box around the True pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _sample(quad: Quad, pixel_to_quad: Array, box: tuple[slice, slice]) -> Image:
    """The texture at the pixels of a box, trilinear in the pyramid."""
    height, width = quad.texture.shape
    a, b, nearness = _apply(pixel_to_quad, box)
    depth = 1 / np.maximum(nearness, np.float32(1e-9))
    x = np.clip(a * depth, 0, 1) * np.float32(width) - np.float32(0.5)
    y = np.clip(b * depth, 0, 1) * np.float32(height) - np.float32(0.5)
    # A homography H changes areas by det(H) / w^3, with w = 1 / depth here.
    area = abs(np.linalg.det(pixel_to_quad)) * width * height
    level = 0.5 * np.log2(area * np.maximum(depth, np.float32(1e-9)) ** 3)
    level = np.clip(level, 0, len(quad.pyramid) - 1)
    return _trilinear(quad.pyramid, x, y, level)


def _trilinear(pyramid: Sequence[Image], x: Image, y: Image, level: Image) -> Image:
    values = np.zeros_like(x)
    for k in range(int(level.min()), int(np.ceil(level.max())) + 1):
        scale = np.float32(0.5**k)
        texels = cv2.remap(
            pyramid[k], x * scale, y * scale, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        values += texels * np.maximum(0, 1 - np.abs(level - k))
    return values


def inverse_depth_at(points: Array, depth: Image) -> Array:
    """[N] inverse depth at sub-pixel points [N, 2], NaN outside the image or next to nothing.

    Inverse depth is linear in the pixel on every plane, so the bilinear value is exact away from edges.
    """
    height, width = depth.shape
    inside = (points >= 0).all(axis=1) & (points[:, 0] <= width - 1) & (points[:, 1] <= height - 1)
    safe = np.where(inside[:, None], points, 0.0)
    corner = np.minimum(np.floor(safe).astype(int), [max(width - 2, 0), max(height - 2, 0)])
    fraction = safe - corner
    total = np.zeros(len(points))
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        weight = np.abs(1 - dx - fraction[:, 0]) * np.abs(1 - dy - fraction[:, 1])
        metres = depth[corner[:, 1] + dy, corner[:, 0] + dx].astype(float)
        with np.errstate(divide="ignore", invalid="ignore"):
            total += np.where(weight > 0, weight / metres, 0.0)
    return np.where(inside & np.isfinite(total), total, np.nan)


def transfer_pixels(
    points0: Array,
    depth0: Image,
    intrinsics0: Array,
    pose_world_camera0: Array,
    depth1: Image,
    intrinsics1: Array,
    pose_world_camera1: Array,
    tolerance: float = SAME_DEPTH,
) -> tuple[Array, NDArray[np.bool_]]:
    """Where pixels of view 0 lie in view 1, and whether view 1 sees them.

    Args:
        points0: [N, 2] pixels (x, y).
        depth0, depth1: [H, W] metres from `render`.
        tolerance: relative difference of inverse depth beyond which a point is hidden in view 1.

    Returns:
        points1: [N, 2] pixels, NaN where view 0 has no depth or the point is behind camera 1.
        visible: [N] True where the point is inside view 1 and nothing hides it.
    """
    return transfer_points(
        points0, inverse_depth_at(points0, depth0), intrinsics0, pose_world_camera0,
        lambda points1: inverse_depth_at(points1, depth1), intrinsics1, pose_world_camera1, tolerance,
    )  # fmt: skip


def transfer_points(
    points0: Array,
    inverse_depth0: Array,
    intrinsics0: Array,
    pose_world_camera0: Array,
    inverse_depth1_at: Callable[[Array], Array],
    intrinsics1: Array,
    pose_world_camera1: Array,
    tolerance: float = SAME_DEPTH,
) -> tuple[Array, NDArray[np.bool_]]:
    """As `transfer_pixels`, from the inverse depths [N] of the points in view 0 and those of any pixels in view 1.

    Both are NaN, or the first 0, where they are not known.
    """
    rays = np.column_stack([points0, np.ones(len(points0))]) @ np.linalg.inv(intrinsics0).T
    pose_camera1_camera0 = np.linalg.inv(pose_world_camera1) @ pose_world_camera0
    known = np.where(inverse_depth0 > 0, inverse_depth0, np.nan)
    scene = rays / known[:, None] @ pose_camera1_camera0[:3, :3].T + pose_camera1_camera0[:3, 3]
    scene[~(scene[:, 2] > NEAR)] = np.nan
    projected = scene @ intrinsics1.T
    points1 = projected[:, :2] / projected[:, 2:]
    visible = np.abs(inverse_depth1_at(points1) * scene[:, 2] - 1) < tolerance  # NaN compares False
    return points1, visible
