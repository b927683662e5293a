"""Points in 3-D from the keyframes of a sequence: triangulated in several views, filtered and coloured.

Every keyframe's keypoints lie on its matcher's grid, so matching its neighbours against it gives one observation of the
same keypoint in each of them: a track. Poses come from the odometry; a point is the weighted mean of the inverse
depths that the views give it, and stays where enough views agree with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.se3 import inverse, transform
from loftr_ros.geometry.triangulation import triangulate
from loftr_ros.geometry.two_view import homogeneous
from loftr_ros.odometry import VisualOdometry
from loftr_ros.odometry.keyframe import Keyframe
from loftr_ros.types import Array, Estimate, Frame

# Keyframes this many places before and after one are matched with it.
_REACH = 2
# An older keyframe's pose and depths do not change any more, and its features are let go.
_PENDING = 12
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
    relative_sigma: float = 0.05


@dataclass(frozen=True)
class KeyframePoints:
    """What a keyframe knows of its keypoints' depths.

    Attributes:
        pose_world_camera: [4, 4].
        index: [N] keypoints, as in Matches.index0.
        points: [N, 3] in the keyframe's camera frame, in the unit of the map.
        relative_sigma: [N] deviation of the inverse depth as a share of it.
    """

    pose_world_camera: Array
    index: NDArray[np.int64]
    points: Array
    relative_sigma: Array

    @property
    def world(self) -> Array:
        """[N, 3] points in the world."""
        return transform(self.pose_world_camera, self.points)


def keyframe_points(keyframe: Keyframe, most_relative_sigma: float = np.inf) -> KeyframePoints:
    """The points of a keyframe whose inverse depth is known to a share of itself."""
    index = keyframe.depths.precise
    sigma = keyframe.depths.relative_sigma(index)
    index, sigma = index[sigma <= most_relative_sigma], sigma[sigma <= most_relative_sigma]
    return KeyframePoints(keyframe.pose_world_keyframe, index, keyframe.depths.points3d(index), sigma)


@dataclass(frozen=True)
class Track:
    """Where other keyframes see keypoints of one: their number, indices [M], pixels [M, 2], and deviations [M]."""

    target: int
    index: NDArray[np.int64]
    pixels: Array
    sigma: Array


@dataclass
class View:
    """A keyframe of the reconstruction.

    Attributes:
        stamp_ns: time of exposure.
        image: [H, W, 3] bgr or [H, W] grey.
        known: pose, and the depths that the odometry found.
        keypoints: [K, 2] pixels of all matched keypoints, by index; NaN for those that were never matched.
        tracks: other keyframes that see them.
    """

    stamp_ns: int
    image: NDArray[np.uint8]
    known: KeyframePoints
    keypoints: Array
    tracks: list[Track]


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


class Gatherer:
    """Follows an odometry and gathers its keyframes with their tracks. Call `add` after every frame, `finish` at last.

    Args:
        odometry: whose keyframes are gathered.
        image_at: the picture to take the colours from, by stamp; None: the grey image.
    """

    def __init__(
        self, odometry: VisualOdometry, image_at: Callable[[int], NDArray[np.uint8] | None] = lambda stamp: None
    ) -> None:
        self._odometry = odometry
        self._image_at = image_at
        self._pending: list[tuple[int, Keyframe]] = []
        self.views: list[View] = []

    def add(self, frame: Frame, estimate: Estimate) -> None:
        """Take the odometry's keyframe if it is a new one."""
        keyframe = self._odometry.keyframe
        if not estimate.is_keyframe or keyframe is None or any(k is keyframe for _, k in self._pending):
            return
        number = len(self.views)
        image = self._image_at(frame.stamp_ns)
        self.views.append(
            View(
                frame.stamp_ns, frame.image if image is None else image, keyframe_points(keyframe), _no_keypoints(), []
            )
        )
        for other, neighbour in self._pending[-_REACH:]:
            self._connect(number, keyframe, other, neighbour)
            self._connect(other, neighbour, number, keyframe)
        self._pending.append((number, keyframe))
        while len(self._pending) > _PENDING:
            self._settle(*self._pending.pop(0))

    def finish(self) -> list[View]:
        """All keyframes with their final poses."""
        for number, keyframe in self._pending:
            self._settle(number, keyframe)
        self._pending = []
        return self.views

    def _settle(self, number: int, keyframe: Keyframe) -> None:
        self.views[number].known = keyframe_points(keyframe)

    def _connect(self, number: int, keyframe: Keyframe, target: int, other: Keyframe) -> None:
        matches = self._odometry.matcher.match_features(keyframe.features, other.features)
        view = self.views[number]
        view.keypoints = _with_keypoints(view.keypoints, matches.index0, matches.points0)
        view.tracks.append(Track(target, matches.index0, matches.points1, matches.sigma))


def _no_keypoints() -> Array:
    return np.zeros((0, 2))


def _with_keypoints(table: Array, index: NDArray[np.int64], points: Array) -> Array:
    missing = int(index.max(initial=-1)) + 1 - len(table)
    if missing > 0:
        table = np.concatenate([table, np.full((missing, 2), np.nan)])
    table[index] = points
    return table


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


def _of_one(views: list[View], number: int, camera: Camera, keep: Filter) -> Cloud:
    """The points whose keypoints lie in one keyframe."""
    view = views[number]
    index = np.flatnonzero(np.isfinite(view.keypoints[:, 0]))
    rays = homogeneous(camera.normalize(view.keypoints[index]))
    # 1. Every view's own opinion on the inverse depth
    seen = list(_observations(view, index))
    poses = [inverse(views[target].known.pose_world_camera) @ view.known.pose_world_camera for target, _, _ in seen]
    means, sigmas = _opinions(rays, seen, poses, camera)
    # 2. Their mean, without those that contradict it
    mean, sigma = _agreed(*_with_odometry(means, sigmas, view.known, index))
    # 3. Where the views see the point
    errors = np.full((len(seen), len(index)), np.inf)
    parallax = np.zeros((len(seen), len(index)))
    for k, ((_, pixels, _), pose) in enumerate(zip(seen, poses)):
        errors[k], parallax[k] = _errors(rays, mean, pose, pixels, camera)
    good = errors < keep.error_px
    # 4. Enough views, parallax and precision
    enough = good.sum(axis=0) + 1 >= keep.views
    apart = np.where(good, parallax, 0.0).max(axis=0, initial=0.0) > np.radians(keep.parallax_deg)
    stays = enough & apart & (mean > 0) & (sigma < keep.relative_sigma * mean)
    return _cloud(view, number, index, rays, mean, errors, good, seen, stays)


def _observations(view: View, index: NDArray[np.int64]) -> Iterator[tuple[int, Array, Array]]:
    """For each keyframe that sees the keypoints: its number, [N, 2] pixels, [N] deviations; NaN and inf where not."""
    place = np.full(len(view.keypoints), -1)
    place[index] = np.arange(len(index))
    for track in view.tracks:
        pixels, sigma = np.full((len(index), 2), np.nan), np.full(len(index), np.inf)
        pixels[place[track.index]], sigma[place[track.index]] = track.pixels, track.sigma
        yield track.target, pixels, sigma


def _opinions(
    rays: Array, seen: list[tuple[int, Array, Array]], poses: list[Array], camera: Camera
) -> tuple[Array, Array]:
    """[V, N] inverse depths and their deviations (infinite where a view does not see the point)."""
    means, sigmas = np.zeros((len(seen), len(rays))), np.full((len(seen), len(rays)), np.inf)
    for k, ((_, pixels, sigma), pose) in enumerate(zip(seen, poses)):
        there = np.isfinite(sigma)
        means[k, there], sigmas[k, there] = triangulate(
            rays[there, :2], camera.normalize(pixels[there]), pose, sigma[there] / camera.focal
        )
    return means, sigmas


def _with_odometry(means: Array, sigmas: Array, known: KeyframePoints, index: NDArray[np.int64]) -> tuple[Array, Array]:
    """The same with a row for what the odometry knows from all frames."""
    mean, sigma = np.zeros(len(index)), np.full(len(index), np.inf)
    _, here, there = np.intersect1d(index, known.index, return_indices=True)
    mean[here] = 1.0 / known.points[there, 2]
    sigma[here] = known.relative_sigma[there] * mean[here]
    return np.vstack([means, mean]), np.vstack([sigmas, sigma])


def _agreed(means: Array, sigmas: Array) -> tuple[Array, Array]:
    """[N] weighted means of [V, N] opinions that agree with the surest of them, and their deviations."""
    surest = sigmas.argmin(axis=0)[None]
    mean, sigma = np.take_along_axis(means, surest, 0), np.take_along_axis(sigmas, surest, 0)
    with np.errstate(invalid="ignore"):
        agree = np.isfinite(sigmas) & (np.abs(means - mean) < _AGREE * np.hypot(sigmas, sigma))
    weight = np.where(agree, 1.0 / np.maximum(sigmas, 1e-12) ** 2, 0.0)
    total = weight.sum(axis=0)
    safe = np.where(total > 0, total, 1.0)
    return np.where(total > 0, (weight * means).sum(axis=0) / safe, 0.0), np.where(total > 0, safe**-0.5, np.inf)


def _errors(rays: Array, mean: Array, pose: Array, pixels: Array, camera: Camera) -> tuple[Array, Array]:
    """[N] distances in pixels (infinite where not seen) and [N] angles between the two rays, in radians."""
    turned = rays @ pose[:3, :3].T
    points = turned + mean[:, None] * pose[:3, 3]
    front = (points[:, 2] > 1e-9) & np.isfinite(pixels[:, 0])
    error, angle = np.full(len(rays), np.inf), np.zeros(len(rays))
    error[front] = np.linalg.norm(camera.project(points[front]) - pixels[front], axis=1)
    across = np.linalg.norm(np.cross(turned[front], points[front]), axis=1)
    angle[front] = np.arctan2(across, np.sum(turned[front] * points[front], axis=1))
    return error, angle


def _cloud(
    view: View,
    number: int,
    index: NDArray[np.int64],
    rays: Array,
    mean: Array,
    errors: Array,
    good: NDArray[np.bool_],
    seen: list[tuple[int, Array, Array]],
    stays: NDArray[np.bool_],
) -> Cloud:
    place = np.cumsum(stays) - 1
    own = view.keypoints[index[stays]]
    point, views, pixels = [np.arange(int(stays.sum()))], [np.full(int(stays.sum()), number)], [own]
    for k, (target, at, _) in enumerate(seen):
        used = good[k] & stays
        point.append(place[used])
        views.append(np.full(int(used.sum()), target))
        pixels.append(at[used])
    squared = np.where(good, errors, 0.0)[:, stays] ** 2
    return Cloud(
        points=transform(view.known.pose_world_camera, rays[stays] / mean[stays, None]),
        colours=_colours(view.image, own),
        error_px=np.sqrt(squared.sum(axis=0) / np.maximum(good[:, stays].sum(axis=0) + 1, 1)),
        point=np.concatenate(point),
        view=np.concatenate(views),
        pixels=np.concatenate(pixels),
    )


def _colours(image: NDArray[np.uint8], pixels: Array) -> NDArray[np.uint8]:
    """[N, 3] r, g, b at the nearest pixels."""
    column = np.clip(np.rint(pixels[:, 0]).astype(int), 0, image.shape[1] - 1)
    row = np.clip(np.rint(pixels[:, 1]).astype(int), 0, image.shape[0] - 1)
    values = image[row, column]
    return np.repeat(values[:, None], 3, axis=1) if values.ndim == 1 else values[:, ::-1]
