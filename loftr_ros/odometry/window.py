# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The last keyframes, frames between them, and what they saw of each other, adjusted together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from loftr_ros.errors import GeometryError
from loftr_ros.geometry.bundle import Adjusted, Bundle, Views, adjust_bundle
from loftr_ros.geometry.se3 import compose_covariance, normalized
from loftr_ros.geometry.two_view import homogeneous
from loftr_ros.odometry.depth import in_one_call
from loftr_ros.odometry.keyframe import DEPENDENT, Keyframe, Node, NormalizedMatches
from loftr_ros.types import Array, Matches

# So many points of each keyframe but the newest take part: more change the poses little and cost time.
_MOST_POINTS = 250
# A point that is seen this many deviations away from where it should be was matched wrongly.
_OUTLIER = 4.0


@dataclass(frozen=True, eq=False)
class Link:
    """Where another frame sees keypoints: their indices [M], normalized places [M, 2] and deviations [M]."""

    target: Node
    index: NDArray[np.int64]
    seen: Array
    sigma: Array


class Window:
    """The last keyframes, oldest first; each new one is adjusted together with them.

    The two oldest of a full window stay where they are, so that they carry the unit and the past; while it fills, the
    oldest stays, and its distance to the next.
    """

    def __init__(self, size: int) -> None:
        self.keyframes: list[Keyframe] = []
        self._size = size
        # Not in the keyframes: two that see each other would be a cycle, whose features wait for the collector.
        self._links: WeakKeyDictionary[Keyframe, list[Link]] = WeakKeyDictionary()

    def links(self, keyframe: Keyframe) -> list[Link]:
        """The other frames that see a keyframe's keypoints."""
        return self._links.get(keyframe, [])

    def link(
        self,
        keyframe: Keyframe,
        target: Node,
        matches: Matches,
        normalized: NormalizedMatches,
        good: NDArray[np.bool_],
    ) -> None:
        """Remember where another frame (1 of the matches) sees a keyframe's keypoints (0)."""
        seen, sigma = normalized.points1[good], normalized.sigma1[good]
        self._links.setdefault(keyframe, []).append(Link(target, matches.index0[good], seen, sigma))

    def thin(self, keyframe: Keyframe, most: int) -> None:
        """Keep at most so many links with frames that are no keyframes: the last one, and others evenly before it."""
        links = self.links(keyframe)
        passing = [link for link in links if not isinstance(link.target, Keyframe)]
        if len(passing) > most:
            kept = {id(passing[i]) for i in np.linspace(0, len(passing) - 1, most + 1).astype(int)[1:]}
            self._links[keyframe] = [
                link for link in links if isinstance(link.target, Keyframe) or id(link) in kept
            ]

    def clear(self, first: Keyframe) -> None:
        """Start anew with the first keyframe of a map."""
        gone, self.keyframes = self.keyframes, [first]
        self._unlink(gone)

    def cut_after(self, keyframe: Keyframe) -> None:
        """Go on from an old keyframe: those after it saw other places. One that is not here starts a new window."""
        if keyframe not in self.keyframes:
            self.clear(keyframe)
            return
        behind = self.keyframes.index(keyframe) + 1
        self.keyframes, gone = self.keyframes[:behind], self.keyframes[behind:]
        self._unlink(gone)

    def add(self, keyframe: Keyframe) -> None:
        """Take the newest keyframe."""
        self.keyframes.append(keyframe)
        surplus = max(len(self.keyframes) - self._size, 0)
        gone, self.keyframes = self.keyframes[:surplus], self.keyframes[surplus:]
        self._unlink(gone)

    def _unlink(self, gone: Sequence[Keyframe]) -> None:
        for keyframe in gone:
            self._links.pop(keyframe, None)
        for keyframe in self.keyframes:
            if keyframe in self._links:
                self._links[keyframe] = [link for link in self.links(keyframe) if link.target not in gone]

    def move_points(self, moved: Callable[[Array], Array]) -> None:
        """Put all that frames saw to other normalized points [N, 2], in one call."""
        owned = list(self._links.items())  # of a keyframe that the camera came back to as well; none goes meanwhile
        points = iter(in_one_call(moved, [link.seen for _, links in owned for link in links]))
        for keyframe, links in owned:
            self._links[keyframe] = [replace(link, seen=next(points)) for link in links]

    @property
    def nodes(self) -> list[Node]:
        """The keyframes, and the other frames that see them."""
        others = (link.target for keyframe in self.keyframes for link in self.links(keyframe))
        return [*self.keyframes, *(node for node in others if not isinstance(node, Keyframe))]

    def adjust(self) -> bool:
        """Adjust all poses and depths; False where there is nothing to adjust or it failed."""
        nodes = self.nodes
        if len(nodes) < 3:
            return False
        fixed = 2 if len(self.keyframes) == self._size else 1
        try:
            _adjust(self.keyframes, [self.links(keyframe) for keyframe in self.keyframes], nodes, fixed)
        except GeometryError:
            return False
        return True


def _adjust(
    keyframes: Sequence[Keyframe], links: Sequence[Sequence[Link]], nodes: Sequence[Node], fixed: int
) -> None:
    """Raises GeometryError."""
    chosen = [_chosen(keyframe, seen, keyframe is keyframes[-1]) for keyframe, seen in zip(keyframes, links)]
    first = np.cumsum([0, *map(len, chosen)])
    bundle = _bundle(keyframes, links, nodes, chosen, first, fixed)
    adjusted = adjust_bundle(bundle)
    sigma = np.where(_contradicted(bundle, adjusted), np.inf, adjusted.sigma)
    for i, keyframe in enumerate(keyframes):
        own = slice(first[i], first[i + 1])
        keyframe.depths.store(chosen[i], keyframe.depths.points(chosen[i]), adjusted.inverse_depth[own], sigma[own])
    _take_poses(nodes, adjusted, fixed)


def _chosen(keyframe: Keyframe, links: Sequence[Link], everything: bool) -> NDArray[np.int64]:
    """Indices of the keypoints that take part: linked, with a depth to start from, and evenly drawn."""
    linked = np.unique(np.concatenate([np.zeros(0, np.int64), *(link.index for link in links)]))
    _, sigma = keyframe.depths.lookup(linked)
    linked = linked[np.isfinite(sigma)]
    if everything or len(linked) <= _MOST_POINTS:
        return linked
    return linked[np.linspace(0, len(linked) - 1, _MOST_POINTS).astype(np.int64)]


def _bundle(
    keyframes: Sequence[Keyframe],
    links: Sequence[Sequence[Link]],
    nodes: Sequence[Node],
    chosen: Sequence[NDArray[np.int64]],
    first: NDArray[np.int64],
    fixed: int,
) -> Bundle:
    number = {id(node): i for i, node in enumerate(nodes)}
    views = []
    for i, seen in enumerate(links):
        for link in seen:
            taken = np.isin(link.index, chosen[i])
            point = first[i] + np.searchsorted(chosen[i], link.index[taken])
            views.append(Views(i, number[id(link.target)], point, link.seen[taken], link.sigma[taken]))
    lookups = [keyframe.depths.lookup(index) for keyframe, index in zip(keyframes, chosen)]
    measured = [keyframe.measured.lookup(index) for keyframe, index in zip(keyframes, chosen)]
    return Bundle(
        poses=np.stack([node.pose_world_camera for node in nodes]),
        free=np.arange(len(nodes)) >= fixed,
        unit=(0, 1) if fixed == 1 else None,
        rays=homogeneous(np.concatenate([k.depths.points(index) for k, index in zip(keyframes, chosen)])),
        inverse_depth=np.concatenate([mean for mean, _ in lookups]),
        prior=np.concatenate([mean for mean, _ in measured]),
        prior_sigma=np.concatenate([sigma for _, sigma in measured]),
        views=views,
    )


def _take_poses(nodes: Sequence[Node], adjusted: Adjusted, fixed: int) -> None:
    base = nodes[fixed - 1]
    for i, node in enumerate(nodes):
        if i < fixed:
            continue
        node.pose_world_camera = normalized(adjusted.poses[i])
        own = slice(6 * i, 6 * i + 6)
        offset = node.pose_world_camera[:3, 3] - base.pose_world_camera[:3, 3]
        covariance: Array = DEPENDENT * adjusted.covariance[own, own]
        node.covariance = compose_covariance(np.eye(4), base.covariance, offset, covariance)


def _contradicted(bundle: Bundle, adjusted: Adjusted) -> NDArray[np.bool_]:
    """[P] points that some frame sees elsewhere than they should be: wrong matches."""
    wrong = np.zeros(len(bundle.rays), bool)
    for views, errors in zip(bundle.views, adjusted.errors):
        wrong[views.point[errors > _OUTLIER]] = True
    return wrong
