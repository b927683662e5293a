# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""A few pictures from all over a run."""

from __future__ import annotations

import cv2

from loftr_ros.pictures import Picture

_MOST = 12
_JPEG_QUALITY = 80


class Album:
    """Keeps at most a dozen of the pictures that it is offered, evenly spread, as JPEG.

    Attributes:
        pages: [(stamp_ns, JPEG)] in the order of time.
    """

    def __init__(self) -> None:
        self.pages: list[tuple[int, bytes]] = []
        self._count = 0
        self._step = 1

    def wants_next(self) -> bool:
        """Whether the next frame's picture would be kept; to be asked once for each frame."""
        self._count += 1
        return (self._count - 1) % self._step == 0

    def add(self, stamp_ns: int, picture: Picture) -> None:
        """A bgr picture [H, W, 3] of a frame that was wanted."""
        if len(self.pages) == _MOST:  # every other one goes
            self.pages = self.pages[::2]
            self._step *= 2
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        self.pages.append((stamp_ns, data.tobytes()))
