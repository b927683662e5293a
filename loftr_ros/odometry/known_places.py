# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The keyframes that a lost camera may come back to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from loftr_ros.odometry.keyframe import Keyframe
from loftr_ros.places import PlaceIndex


class KnownPlaces:
    """Past keyframes, the newest last, and which of them a frame may show."""

    def __init__(self, describe: Callable[[Any], Any] | None, most: int) -> None:
        self._describe = describe  # of the matcher, which need not be able to
        self._keyframes: deque[Keyframe] = deque(maxlen=most)
        self._descriptors: WeakKeyDictionary[Keyframe, Any] = WeakKeyDictionary()  # made once the camera is lost

    def __iter__(self) -> Iterator[Keyframe]:
        return iter(self._keyframes)

    def add(self, keyframe: Keyframe) -> None:
        self._keyframes.append(keyframe)

    def exchange(self, found: Keyframe, left: Keyframe) -> None:
        """The camera is back at one of them, and has left another one."""
        self._keyframes.remove(found)
        self._keyframes.append(left)

    def clear(self) -> None:
        self._keyframes.clear()

    def candidates(self, features: Any, attempt: int) -> list[Keyframe]:
        """The keyframe that looks most like a frame with these features, and another one in turn."""
        if not self._keyframes:
            return []
        in_turn = self._keyframes[-1 - attempt % len(self._keyframes)]
        if self._describe is None:
            return [in_turn]
        likely = self._most_alike(features)
        return [likely] if likely is in_turn else [likely, in_turn]

    def _most_alike(self, features: Any) -> Keyframe:
        assert self._describe is not None
        index = PlaceIndex()
        for keyframe in self._keyframes:
            if keyframe not in self._descriptors:
                self._descriptors[keyframe] = self._describe(keyframe.features)
            index.add(self._descriptors[keyframe], keyframe)
        ((found, _),) = index.query(self._describe(features), 1)
        assert isinstance(found, Keyframe)
        return found
