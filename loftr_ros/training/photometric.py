# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What real cameras do to grey values: exposure, gamma, blur, shadows, vignetting, darkness, noise, JPEG."""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.float32]


def degrade(rng: np.random.Generator, image: Image, dark: bool) -> NDArray[np.uint8]:
    """A camera's picture of a rendered view [H, W] in 0..255.

    Args:
        dark: under-exposed (gain 0.15 to 0.35) with strong noise (deviation 2 to 5).
    """
    image = _focus(rng, image)
    if rng.random() < 0.15:
        image = motion_blur(image, rng.uniform(1.5, 5), rng.uniform(0, np.pi))
    if rng.random() < 0.25:
        image = image * _uneven_light(rng, image.shape)
    if rng.random() < 0.25:
        image = image * _vignette(rng, image.shape)
    image = _expose(rng, image)
    if dark:
        image = image * np.float32(rng.uniform(0.15, 0.35))
    sigma = rng.uniform(2, 5) if dark else min(rng.exponential(1.5), 6)
    image = image + np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32)
    picture = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return _jpeg(rng, picture) if rng.random() < 0.2 else picture


def _focus(rng: np.random.Generator, image: Image) -> Image:
    """Sharper or softer than rendered; mostly mild, since sub-pixel positions must stay meaningful."""
    amount = rng.uniform(-0.6, 1.0)
    if amount <= 0:
        return image - np.float32(amount) * (image - cv2.GaussianBlur(image, (0, 0), 1.0))
    return image if amount < 0.4 else cv2.GaussianBlur(image, (0, 0), amount)


def motion_blur(image: Image, length: float, angle: float) -> Image:
    """Average along a line of `length` pixels at `angle` (radians)."""
    side = int(np.ceil(length)) // 2 * 2 + 3
    middle, reach = side // 2, length / 2
    step = np.array([np.cos(angle), np.sin(angle)]) * reach * 16
    start, stop = (tuple(int(v) for v in np.rint(middle * 16 + sign * step)) for sign in (-1, 1))
    kernel = cv2.line(np.zeros((side, side), np.float32), start, stop, 1.0, 1, cv2.LINE_8, 4)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def _uneven_light(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """A factor [H, W]: a shadow with an edge, or a soft patch of light."""
    height, width = shape
    factor = np.ones(shape, np.float32)
    points = rng.uniform(-0.2, 1.2, (3, 2)) * (width, height)
    cv2.fillPoly(factor, [points.astype(np.int32)], float(rng.uniform(0.4, 1.6)))
    return cv2.GaussianBlur(factor, (0, 0), rng.uniform(0.5, 20))


def _vignette(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    rows, columns = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    return (1 - rng.uniform(0.1, 0.5) * (rows**2 + columns**2) / 2).astype(np.float32)


def _expose(rng: np.random.Generator, image: Image) -> Image:
    """Gamma, gain and offset."""
    image = 255 * (np.clip(image, 0, 255) / 255) ** np.float32(np.exp(rng.normal(0, 0.2)))
    return image * np.float32(np.exp(rng.normal(0, 0.2))) + np.float32(rng.normal(0, 8))


def _jpeg(rng: np.random.Generator, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    quality = int(rng.integers(50, 95))
    return cv2.imdecode(
        cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE
    )
