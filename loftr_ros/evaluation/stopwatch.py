# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Where the time of each frame goes."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Times:
    """Of repetitions, in milliseconds: median, 95th percentile, and how many there were."""

    median: float
    p95: float
    count: int

    @staticmethod
    def of(seconds: Sequence[float]) -> Times:
        milliseconds = np.array(seconds) * 1e3
        return Times(
            round(float(np.median(milliseconds)), 2), round(float(np.quantile(milliseconds, 0.95)), 2), len(seconds)
        )


class Stopwatch:
    """Times stages that may lie within each other; each one's time is without that of the stages inside it.

    Args:
        wait: called before each reading of the clock: waits for a device that works on by itself; or None.

    Attributes:
        frames: seconds by stage, one dictionary per frame.
    """

    def __init__(self, wait: Callable[[], None] | None = None) -> None:
        self.frames: list[dict[str, float]] = []
        self._wait = wait or (lambda: None)
        self._inner: list[float] = []  # seconds spent in stages inside each one that is open

    def next_frame(self) -> None:
        self.frames.append({})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if not self.frames:
            self.next_frame()
        started = self._now()
        self._inner.append(0.0)
        try:
            yield
        finally:
            elapsed = self._now() - started
            seconds = self.frames[-1]
            seconds[name] = seconds.get(name, 0.0) + elapsed - self._inner.pop()
            if self._inner:
                self._inner[-1] += elapsed

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed as a stage."""

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            with self.stage(name):
                return function(*arguments, **named)

        return call

    def _now(self) -> float:
        self._wait()
        return time.perf_counter()
