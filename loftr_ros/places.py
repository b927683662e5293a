# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Which of many known places does an image show? numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Descriptor = NDArray[np.float32]


class PlaceIndex:
    """Descriptors of places ([D] unit vectors, from a matcher's `describe`), and the nearest of them.

    All descriptors of an index come from one matcher. A search looks at all of them: 10,000 take some milliseconds.

    Example:
        >>> index = PlaceIndex()
        >>> index.add(matcher.describe(keyframe.features), keyframe)
        >>> for keyframe, alike in index.query(matcher.describe(features), 5): ...
    """

    def __init__(self) -> None:
        self._ids: list[Any] = []
        self._table: Descriptor = np.zeros((0, 0), np.float32)  # grows by doubling

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, descriptor: Descriptor, place: Any) -> None:
        """Add a place under anything that names it. Raises ValueError for a descriptor of another length."""
        if not self._ids:
            self._table = np.zeros((16, len(descriptor)), np.float32)
        if descriptor.shape != self._table.shape[1:]:
            raise ValueError(f"a descriptor of shape {descriptor.shape} among those of {self._table.shape[1:]}")
        if len(self._ids) == len(self._table):
            self._table = np.concatenate([self._table, np.zeros_like(self._table)])
        self._table[len(self._ids)] = descriptor
        self._ids.append(place)

    def query(self, descriptor: Descriptor, count: int) -> list[tuple[Any, float]]:
        """At most `count` places with their cosine similarity, the most alike first; equals in the order of adding."""
        if not self._ids:
            return []
        alike = self._table[: len(self._ids)] @ descriptor
        best = np.argsort(-alike, kind="stable")[:count]
        return [(self._ids[i], float(alike[i])) for i in best]
