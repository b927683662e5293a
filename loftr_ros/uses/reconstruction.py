# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Points in 3-D from keyframes that see the same keypoints: triangulated in several views, filtered and coloured.

Poses come from the odometry; a point is the weighted mean of the inverse depths that the views give it, and stays where
enough views agree with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.se3 import inverse, transform
from loftr_ros.geometry.triangulation import triangulate
from loftr_ros.geometry.two_view import angles, homogeneous
from loftr_ros.odometry.keyframe import KeyframePoints
from loftr_ros.types import Array
from loftr_ros.uses.keyframes import Track, View

# Estimates of one inverse depth that differ by more deviations than this are not of the same point.
_AGREE = 3.0


@dataclass(frozen=True)
class Filter:
    """Which points stay.

    Attributes:
        error_px: largest distance between an observation and the point's image, in pixels.
        views: least number of keyframes that see the point, its own counted.
        parallax_deg: least angle between the rays of two of them.
        relative_sigma: largest deviation of the inverse depth, as a share of it.
    """

    error_px: float = 1.5
    views: int = 3
    parallax_deg: float = 1.0
    relative_sigma: float = 0.1


@dataclass(frozen=True)
class Cloud:
    """The result: P points, seen in O observations.

    Attributes:
        points: [P, 3] in the world, which is the first camera's frame.
        colours: [P, 3] r, g, b.
        error_px: [P] root mean square distance between observations and the point's images.
        point, view: [O] which point, and in which view.
        pixels: [O, 2] where.
    """

    points: Array
    colours: NDArray[np.uint8]
    error_px: Array
    point: NDArray[np.int64]
    view: NDArray[np.int64]
    pixels: Array


def triangulate_views(views: list[View], camera: Camera, keep: Filter = Filter()) -> Cloud:
    """All points of all keyframes that pass the filter."""
    parts, first = [], 0
    for number in range(len(views)):
        part = _of_one(views, number, camera, keep)
        parts.append((part, first))
        first += len(part.points)
    return Cloud(
        points=_joined([part.points for part, _ in parts], (0, 3)),
        colours=_joined([part.colours for part, _ in parts], (0, 3)).astype(np.uint8),
        error_px=_joined([part.error_px for part, _ in parts], (0,)),
        point=_joined([part.point + start for part, start in parts], (0,)).astype(np.int64),
        view=_joined([part.view for part, _ in parts], (0,)).astype(np.int64),
        pixels=_joined([part.pixels for part, _ in parts], (0, 2)),
    )


def _joined(arrays: list[NDArray], empty: tuple[int, ...]) -> NDArray:  # type: ignore[type-arg]
    return np.concatenate(arrays) if arrays else np.zeros(empty)


@dataclass(frozen=True)
class _Sight:
    """Where one keyframe sees the N keypoints of another: [N, 2] pixels (NaN: not at all) and [N] deviations (inf)."""

    target: int
    pose_target_view: Array
    pixels: Array
    sigma: Array


def _of_one(views: list[View], number: int, camera: Camera, keep: Filter) -> Cloud:
    """The points whose keypoints lie in one keyframe."""
    view = views[number]
    index = np.flatnonzero(np.isfinite(view.keypoints[:, 0]))
    rays = homogeneous(camera.normalize(view.keypoints[index]))
    sights = [_sight(views, view, track, index) for track in view.tracks]
    # 1. Every view's own opinion on the inverse depth, and the odometry's
    means, sigmas = zip(*(_opinion(rays, s, camera) for s in sights), _of_odometry(view.known, index))
    # 2. Their mean, without those that contradict it
    mean, sigma = _agreed(np.stack(means), np.stack(sigmas))
    # 3. Where the views see the point
    errors, parallax = np.full((len(sights), len(index)), np.inf), np.zeros((len(sights), len(index)))
    for k, sight in enumerate(sights):
        errors[k], parallax[k] = _errors(rays, mean, sight, camera)
    good = errors < keep.error_px
    # 4. Enough views, parallax and precision
    enough = good.sum(axis=0) + 1 >= keep.views
    apart = np.where(good, parallax, 0.0).max(axis=0, initial=0.0) > np.radians(keep.parallax_deg)
    stays = enough & apart & (mean > 0) & (sigma < keep.relative_sigma * mean)
    # 5. What stays
    points = transform(view.known.pose_world_camera, rays[stays] / mean[stays, None])
    squared = np.where(good, errors, 0.0)[:, stays] ** 2
    error_px = np.sqrt(squared.sum(axis=0) / (good[:, stays].sum(axis=0) + 1))
    own = view.keypoints[index[stays]]
    return Cloud(points, _colours(view.image, own), error_px, *_observations(number, own, sights, good, stays))


def _sight(views: list[View], view: View, track: Track, index: NDArray[np.int64]) -> _Sight:
    place = np.full(len(view.keypoints), -1)
    place[index] = np.arange(len(index))
    pixels, sigma = np.full((len(index), 2), np.nan), np.full(len(index), np.inf)
    pixels[place[track.index]], sigma[place[track.index]] = track.pixels, track.sigma
    pose_target_view = inverse(views[track.target].known.pose_world_camera) @ view.known.pose_world_camera
    return _Sight(track.target, pose_target_view, pixels, sigma)


def _opinion(rays: Array, sight: _Sight, camera: Camera) -> tuple[Array, Array]:
    """[N] inverse depths and their deviations (infinite where the view does not see the point)."""
    mean, sigma = np.zeros(len(rays)), np.full(len(rays), np.inf)
    there = np.isfinite(sight.sigma)
    mean[there], sigma[there] = triangulate(
        rays[there, :2],
        camera.normalize(sight.pixels[there]),
        sight.pose_target_view,
        sight.sigma[there] / camera.focal,
    )
    return mean, sigma


def _of_odometry(known: KeyframePoints, index: NDArray[np.int64]) -> tuple[Array, Array]:
    """The same from what the odometry knows from all frames."""
    mean, sigma = np.zeros(len(index)), np.full(len(index), np.inf)
    _, here, there = np.intersect1d(index, known.index, return_indices=True)
    mean[here] = 1.0 / known.points[there, 2]
    sigma[here] = known.relative_sigma[there] * mean[here]
    return mean, sigma


def _agreed(means: Array, sigmas: Array) -> tuple[Array, Array]:
    """[N] weighted means of [V, N] opinions that agree with the surest of them, and their deviations."""
    surest = sigmas.argmin(axis=0)[None]
    mean, sigma = np.take_along_axis(means, surest, 0), np.take_along_axis(sigmas, surest, 0)
    agree = np.isfinite(sigmas) & (np.abs(means - mean) < _AGREE * np.hypot(sigmas, sigma))
    weight = np.where(agree, 1.0 / np.maximum(sigmas, 1e-12) ** 2, 0.0)
    total = weight.sum(axis=0)
    safe = np.where(total > 0, total, 1.0)
    return np.where(total > 0, (weight * means).sum(axis=0) / safe, 0.0), np.where(total > 0, safe**-0.5, np.inf)


def _errors(rays: Array, mean: Array, sight: _Sight, camera: Camera) -> tuple[Array, Array]:
    """[N] distances in pixels (infinite where not seen) and [N] angles between the two rays, in radians."""
    turned = rays @ sight.pose_target_view[:3, :3].T
    points = turned + mean[:, None] * sight.pose_target_view[:3, 3]
    seen = (points[:, 2] > 1e-9) & np.isfinite(sight.pixels[:, 0])
    error, angle = np.full(len(rays), np.inf), np.zeros(len(rays))
    error[seen] = np.linalg.norm(camera.project(points[seen]) - sight.pixels[seen], axis=1)
    angle[seen] = angles(turned[seen], points[seen])
    return error, angle


def _observations(
    number: int, own: Array, sights: list[_Sight], good: NDArray[np.bool_], stays: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Point, view and pixels of every observation of the points that stay, those in their own keyframe first."""
    place = np.cumsum(stays) - 1
    point, view, pixels = [np.arange(len(own))], [np.full(len(own), number)], [own]
    for sight, fits in zip(sights, good):
        used = fits & stays
        point.append(place[used])
        view.append(np.full(int(used.sum()), sight.target))
        pixels.append(sight.pixels[used])
    return np.concatenate(point), np.concatenate(view), np.concatenate(pixels)


def _colours(image: NDArray[np.uint8], pixels: Array) -> NDArray[np.uint8]:
    """[N, 3] r, g, b at the nearest pixels."""
    column = np.clip(np.rint(pixels[:, 0]).astype(int), 0, image.shape[1] - 1)
    row = np.clip(np.rint(pixels[:, 1]).astype(int), 0, image.shape[0] - 1)
    values = image[row, column]
    return np.repeat(values[:, None], 3, axis=1) if values.ndim == 1 else values[:, ::-1]
