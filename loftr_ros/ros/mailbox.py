# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Hands frames from the executor's thread to the worker's."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Keeps the newest items; when it is full the oldest is dropped and counted.

    Args:
        capacity: 1 keeps only the newest: a slow reader never lags behind.
    """

    def __init__(self, capacity: int) -> None:
        self._items: deque[T] = deque(maxlen=capacity)
        self._changed = threading.Condition()
        self._closed = False
        self.dropped = 0

    def put(self, item: T) -> None:
        with self._changed:
            if len(self._items) == self._items.maxlen:
                self.dropped += 1
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> T | None:
        """The oldest item kept; waits for one. None once the box is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items)
            return None if self._closed else self._items.popleft()

    def poll(self) -> T | None:
        """The oldest item kept, or None; does not wait."""
        with self._changed:
            return self._items.popleft() if self._items and not self._closed else None

    def wait_closed(self, timeout_s: float) -> bool:
        """True once the box is closed; waits for that up to a time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed, timeout_s)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def open(self) -> None:
        """Empty again, and no longer closed."""
        with self._changed:
            self._items.clear()
            self._closed = False


class StampedBuffer(Generic[T]):
    """The last few items with their stamps, to find the one that belongs to a frame."""

    def __init__(self, capacity: int) -> None:
        self._items: deque[tuple[int, T]] = deque(maxlen=capacity)
        self._changed = threading.Condition()

    def put(self, stamp_ns: int, item: T) -> None:
        with self._changed:
            self._items.append((stamp_ns, item))
            self._changed.notify_all()

    def take(self, stamp_ns: int, tolerance_ns: int, timeout_s: float) -> T | None:
        """The item nearest to a stamp within the tolerance; waits for it up to a time."""

        def nearest() -> tuple[int, T] | None:
            close = [i for i in self._items if abs(i[0] - stamp_ns) <= tolerance_ns]
            return min(close, key=lambda i: abs(i[0] - stamp_ns)) if close else None

        with self._changed:
            self._changed.wait_for(lambda: nearest() is not None, timeout_s)
            found = nearest()
            return found[1] if found else None
