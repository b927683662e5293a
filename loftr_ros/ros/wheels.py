# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The way that the wheels have travelled, at any time."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from loftr_ros.errors import InputError
from loftr_ros.types import Array

_KEPT = 1000
# Older messages than the last one are late ones up to this; beyond it, time itself has jumped back.
_LATE_NS = 1_000_000_000
_MOST_SPEED = 200.0  # metres a second; what is faster is no vehicle with wheels


class WheelWay:
    """Length of the way over time, from positions or from speeds; interpolated at the stamps of the images.

    One thread adds, another one takes.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._forget()

    def _forget(self) -> None:
        self._stamps: deque[int] = deque(maxlen=_KEPT)
        self._ways: deque[float] = deque(maxlen=_KEPT)
        self._position: Array | None = None
        self._speed: float | None = None
        self._taken: float | None = None

    def add_position(self, stamp_ns: int, position: Array) -> None:
        """A position [3] in metres. Raises InputError where that cannot be; a jump of it counts as no way."""
        if not np.isfinite(position).all():
            raise InputError("its position is not finite.")
        with self._changed:
            if not self._in_order(stamp_ns):
                return
            step = 0.0 if self._position is None else float(np.linalg.norm(position - self._position))
            self._position = position
            if self._stamps and step > _MOST_SPEED * max((stamp_ns - self._stamps[-1]) * 1e-9, 1.0):
                self._append(stamp_ns, 0.0)
                raise InputError(f"its position has jumped by {step:.3g} m; that counts as no way.")
            self._append(stamp_ns, step)

    def add_speed(self, stamp_ns: int, speed: float) -> None:
        """A speed in metres a second; between two of them it changes steadily. Raises InputError where it cannot be."""
        if not abs(speed) <= _MOST_SPEED:
            raise InputError(f"a speed of {speed:.3g} m/s cannot be.")
        with self._changed:
            if not self._in_order(stamp_ns):
                return
            seconds = (stamp_ns - self._stamps[-1]) * 1e-9 if self._stamps else 0.0
            step = 0.0 if self._speed is None else seconds * (self._speed + speed) / 2
            self._speed = speed
            self._append(stamp_ns, step)

    def _in_order(self, stamp_ns: int) -> bool:
        if self._stamps and stamp_ns < self._stamps[-1] - _LATE_NS:
            self._forget()
        return not self._stamps or stamp_ns > self._stamps[-1]

    def _append(self, stamp_ns: int, step: float) -> None:
        self._ways.append((self._ways[-1] if self._ways else 0.0) + step)
        self._stamps.append(stamp_ns)
        self._changed.notify_all()

    def take(self, stamp_ns: int, timeout_s: float) -> float | None:
        """Metres between the stamp of the last call and this one; None while the wheels have not told.

        Waits up to a time for a message of that stamp or later; what comes later than that counts for the next call.
        """
        with self._changed:
            self._changed.wait_for(lambda: bool(self._stamps) and self._stamps[-1] >= stamp_ns, timeout_s)
            if not self._stamps or stamp_ns < self._stamps[0]:
                return None
            # Relative times: a double does not hold nanoseconds since 1970.
            way = float(np.interp(stamp_ns - self._stamps[0], [s - self._stamps[0] for s in self._stamps], self._ways))
            before, self._taken = self._taken, way
        return None if before is None else max(way - before, 0.0)
