"""The last keyframes and what they saw of each other, adjusted together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loftr_ros.errors import GeometryError
from loftr_ros.geometry.bundle import Adjusted, Bundle, Views, adjust_bundle
from loftr_ros.geometry.se3 import compose_covariance, normalized
from loftr_ros.geometry.two_view import homogeneous
from loftr_ros.odometry.keyframe import Keyframe

# So many points of each keyframe but the newest take part: more change the poses little and cost time.
_MOST_POINTS = 250
# A point that is seen this many deviations away from where it should be was matched wrongly.
_OUTLIER = 4.0


class Window:
    """The last keyframes, oldest first; each new one is adjusted together with them.

    The two oldest of a full window stay where they are, so that they carry the unit and the past; while it fills, the
    oldest stays, and its distance to the second.
    """

    def __init__(self, size: int) -> None:
        self.keyframes: list[Keyframe] = []
        self._size = size

    def clear(self, first: Keyframe | None = None) -> None:
        """Start a new map, with its first keyframe if there is one."""
        self._drop(len(self.keyframes))
        self.keyframes = [] if first is None else [first]

    def cut_after(self, keyframe: Keyframe) -> None:
        """Go on from an old keyframe: those after it saw other places. One that is not here starts a new window."""
        if keyframe not in self.keyframes:
            self.clear(keyframe)
            return
        behind = self.keyframes.index(keyframe) + 1
        self.keyframes, gone = self.keyframes[:behind], self.keyframes[behind:]
        _unlink(self.keyframes, gone)

    def add(self, keyframe: Keyframe) -> bool:
        """Take the newest keyframe and adjust all; False where there is nothing to adjust yet or it failed."""
        self.keyframes.append(keyframe)
        self._drop(len(self.keyframes) - self._size)
        if len(self.keyframes) < 3:
            return False
        fixed = 2 if len(self.keyframes) == self._size else 1
        try:
            _adjust(self.keyframes, fixed)
        except GeometryError:
            return False
        return True

    def _drop(self, count: int) -> None:
        gone, self.keyframes = self.keyframes[: max(count, 0)], self.keyframes[max(count, 0) :]
        _unlink(self.keyframes, gone)


def _unlink(kept: Sequence[Keyframe], gone: Sequence[Keyframe]) -> None:
    for keyframe in kept:
        keyframe.links = [link for link in keyframe.links if link.target not in gone]
    for keyframe in gone:
        keyframe.links = []


def _adjust(keyframes: Sequence[Keyframe], fixed: int) -> None:
    """Raises GeometryError."""
    chosen = [_chosen(keyframe, keyframe is keyframes[-1]) for keyframe in keyframes]
    first = np.cumsum([0, *map(len, chosen)])
    bundle = _bundle(keyframes, chosen, first, fixed)
    adjusted = adjust_bundle(bundle)
    sigma = np.where(_contradicted(bundle, adjusted), np.inf, adjusted.sigma)
    for i, keyframe in enumerate(keyframes):
        own = slice(first[i], first[i + 1])
        keyframe.depths.store(chosen[i], keyframe.depths.points(chosen[i]), adjusted.inverse_depth[own], sigma[own])
    _take_poses(keyframes, adjusted, fixed)


def _chosen(keyframe: Keyframe, everything: bool) -> NDArray[np.int64]:
    """Indices of the keypoints that take part: linked, with a depth to start from, and evenly drawn."""
    linked = np.unique(np.concatenate([np.zeros(0, np.int64), *(link.index for link in keyframe.links)]))
    _, sigma = keyframe.depths.lookup(linked)
    linked = linked[np.isfinite(sigma)]
    if everything or len(linked) <= _MOST_POINTS:
        return linked
    return linked[np.linspace(0, len(linked) - 1, _MOST_POINTS).astype(np.int64)]


def _bundle(
    keyframes: Sequence[Keyframe], chosen: Sequence[NDArray[np.int64]], first: NDArray[np.int64], fixed: int
) -> Bundle:
    number = {id(keyframe): i for i, keyframe in enumerate(keyframes)}
    views = []
    for i, keyframe in enumerate(keyframes):
        for link in keyframe.links:
            taken = np.isin(link.index, chosen[i])
            point = first[i] + np.searchsorted(chosen[i], link.index[taken])
            views.append(Views(i, number[id(link.target)], point, link.seen[taken], link.sigma[taken]))
    lookups = [keyframe.depths.lookup(index) for keyframe, index in zip(keyframes, chosen)]
    measured = [keyframe.measured.lookup(index) for keyframe, index in zip(keyframes, chosen)]
    free = np.arange(len(keyframes)) >= fixed
    return Bundle(
        poses=np.stack([keyframe.pose_world_keyframe for keyframe in keyframes]),
        free=free,
        unit=(0, 1) if fixed == 1 else None,
        rays=homogeneous(np.concatenate([k.depths.points(index) for k, index in zip(keyframes, chosen)])),
        inverse_depth=np.concatenate([mean for mean, _ in lookups]),
        prior=np.concatenate([mean for mean, _ in measured]),
        prior_sigma=np.concatenate([sigma for _, sigma in measured]),
        views=views,
    )


def _take_poses(keyframes: Sequence[Keyframe], adjusted: Adjusted, fixed: int) -> None:
    base = keyframes[fixed - 1]
    for i, keyframe in enumerate(keyframes):
        if i < fixed:
            continue
        keyframe.pose_world_keyframe = normalized(adjusted.poses[i])
        own = slice(6 * i, 6 * i + 6)
        offset = keyframe.pose_world_keyframe[:3, 3] - base.pose_world_keyframe[:3, 3]
        keyframe.covariance = compose_covariance(np.eye(4), base.covariance, offset, adjusted.covariance[own, own])


def _contradicted(bundle: Bundle, adjusted: Adjusted) -> NDArray[np.bool_]:
    """[P] points that some keyframe sees elsewhere than they should be: wrong matches."""
    wrong = np.zeros(len(bundle.rays), bool)
    for views, errors in zip(bundle.views, adjusted.errors):
        wrong[views.point[errors > _OUTLIER]] = True
    return wrong
