# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Images magnified or shrunk about their centre, on a canvas of unchanged size.

A camera that has moved forward far sees what it knows at another scale, which LoFTR does not match. Shrunk, the frame
looks like the keyframe again.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros.types import Array, Image


@dataclass(frozen=True)
class Canvas:
    """How an image lies on a canvas.

    Attributes:
        crop: (x, y, width, height) of the part of the image that is seen, in its pixels.
        inner: (x, y, width, height) of that part on the canvas, in canvas pixels.
        size: (width, height) of the canvas.
    """

    crop: tuple[int, int, int, int]
    inner: tuple[int, int, int, int]
    size: tuple[int, int]

    @property
    def scale(self) -> Array:
        """[2] image pixels per canvas pixel, (x, y)."""
        return np.array(self.crop[2:]) / np.array(self.inner[2:])

    @property
    def corner(self) -> Array:
        """[2] where in the image the canvas's upper left corner lies, counted from the image's corner."""
        return np.array(self.crop[:2]) - np.array(self.inner[:2]) * self.scale

    @property
    def is_filled(self) -> bool:
        return self.inner[2:] == self.size

    def paint(self, image: Image) -> NDArray[np.uint8]:
        """The image on the canvas; outside of it its edge goes on, so that no false edge appears."""
        seen = _part(image, self.crop)
        smaller = self.inner[2] <= self.crop[2]
        part = _resized(seen, self.inner[2:], cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
        return self._framed(part, cv2.BORDER_REPLICATE)

    def paint_mask(self, mask: Image) -> NDArray[np.uint8]:
        """A mask of the image on the canvas, 0 outside of the image."""
        part = _resized(_part(mask, self.crop), self.inner[2:], cv2.INTER_NEAREST)
        return self._framed(part, cv2.BORDER_CONSTANT)

    def _framed(self, part: NDArray[np.uint8], border: int) -> NDArray[np.uint8]:
        if self.is_filled:
            return part
        (left, top, width, height), (full_width, full_height) = self.inner, self.size
        right, bottom = full_width - left - width, full_height - top - height
        framed: NDArray[np.uint8] = cv2.copyMakeBorder(part, top, bottom, left, right, border, value=0)
        return framed


def canvas(width: int, height: int, size: tuple[int, int], zoom: float) -> Canvas:
    """An image of width x height, magnified by zoom, on a canvas where it has the size (width, height) at zoom 1."""
    shown = min(1.0, 1.0 / zoom)
    filled = min(1.0, zoom)
    return Canvas(_middle(width, height, shown), _middle(*size, filled), size)


def _middle(width: int, height: int, share: float) -> tuple[int, int, int, int]:
    """(x, y, width, height) of the middle of an image, a share of each of its sides."""
    inner = max(1, round(width * share)), max(1, round(height * share))
    return (width - inner[0]) // 2, (height - inner[1]) // 2, *inner


def _part(image: Image, place: tuple[int, int, int, int]) -> Image:
    x, y, width, height = place
    return image[y : y + height, x : x + width]


def _resized(image: Image, size: tuple[int, int], interpolation: int) -> NDArray[np.uint8]:
    if (image.shape[1], image.shape[0]) == size:
        return np.ascontiguousarray(image)
    resized: NDArray[np.uint8] = cv2.resize(image, size, interpolation=interpolation)
    return resized
