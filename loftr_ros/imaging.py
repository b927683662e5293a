# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Images as cameras and recordings store them, to grey uint8."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros.errors import InputError
from loftr_ros.types import Image

# Conversion code of each colour encoding of sensor_msgs/image_encodings.hpp; None: grey already.
_TO_GREY: dict[str, int | None] = {
    "mono8": None,
    "8UC1": None,
    "mono16": None,
    "16UC1": None,
    "rgb8": cv2.COLOR_RGB2GRAY,
    "bgr8": cv2.COLOR_BGR2GRAY,
    "8UC3": cv2.COLOR_BGR2GRAY,
    "rgba8": cv2.COLOR_RGBA2GRAY,
    "bgra8": cv2.COLOR_BGRA2GRAY,
    "8UC4": cv2.COLOR_BGRA2GRAY,
    "rgb16": cv2.COLOR_RGB2GRAY,
    "bgr16": cv2.COLOR_BGR2GRAY,
    "bayer_rggb8": cv2.COLOR_BayerBG2GRAY,
    "bayer_bggr8": cv2.COLOR_BayerRG2GRAY,
    "bayer_gbrg8": cv2.COLOR_BayerGR2GRAY,
    "bayer_grbg8": cv2.COLOR_BayerGB2GRAY,
    "yuv422": cv2.COLOR_YUV2GRAY_UYVY,
    "uyvy": cv2.COLOR_YUV2GRAY_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2GRAY_YUY2,
    "yuyv": cv2.COLOR_YUV2GRAY_YUY2,
}

# Bytes of one channel, and channels, of each encoding that `unpack` knows.
_LAYOUT: dict[str, tuple[str, int]] = {
    **{name: ("u1", 1) for name in _TO_GREY if name.startswith(("mono8", "8UC1", "bayer"))},
    **dict.fromkeys(("mono16", "16UC1"), ("u2", 1)),
    **dict.fromkeys(("rgb8", "bgr8", "8UC3"), ("u1", 3)),
    **dict.fromkeys(("rgba8", "bgra8", "8UC4"), ("u1", 4)),
    **dict.fromkeys(("rgb16", "bgr16"), ("u2", 3)),
    **dict.fromkeys(("yuv422", "uyvy", "yuv422_yuy2", "yuyv"), ("u1", 2)),
    "32FC1": ("f4", 1),
}


def unpack(encoding: str, height: int, width: int, step: int, data: Any, big_endian: bool = False) -> NDArray[Any]:
    """The pixels of a sensor_msgs/Image as an array [H, W] or [H, W, C]. Raises InputError where they disagree."""
    if encoding not in _LAYOUT:
        raise InputError(f"The image encoding '{encoding}' is not supported.")
    kind, channels = _LAYOUT[encoding]
    if height <= 0 or width <= 0:
        raise InputError(f"The image has {width}x{height} pixels.")
    dtype = np.dtype((">" if big_endian else "<") + kind)
    row = width * channels * dtype.itemsize
    buffer = np.frombuffer(data, np.uint8)
    if step < row or len(buffer) < step * height:
        raise InputError(
            f"The image says {width}x{height} pixels of '{encoding}', {step} bytes a row, but has {len(buffer)} bytes."
        )
    rows = buffer[: step * height].reshape(height, step)[:, :row]
    pixels = np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels).astype(dtype.newbyteorder("="))
    return pixels[:, :, 0] if channels == 1 else pixels


def to_grey(pixels: NDArray[Any], encoding: str) -> Image:
    """[H, W] uint8 from pixels [H, W] or [H, W, C] of a sensor_msgs encoding. Raises InputError."""
    if encoding not in _TO_GREY:
        raise InputError(f"The image encoding '{encoding}' is not supported.")
    _, channels = _LAYOUT[encoding]
    if pixels.size == 0 or (1 if pixels.ndim == 2 else pixels.shape[2]) != channels:
        raise InputError(f"An image of shape {list(pixels.shape)} cannot be '{encoding}'.")
    code = _TO_GREY[encoding]
    grey = pixels.reshape(pixels.shape[:2]) if code is None else cv2.cvtColor(pixels, code)
    return stretched(grey) if grey.dtype == np.uint16 else np.ascontiguousarray(grey, dtype=np.uint8)


def stretched(image: NDArray[np.uint16]) -> Image:
    """A 16-bit image as 8 bits: 10-, 12- and 14-bit sensors fill only the lower part, so the range is taken from it."""
    bits = max(int(image.max()).bit_length(), 8)
    return (image >> (bits - 8)).astype(np.uint8)


def decode(data: Any) -> Image:
    """Grey image from JPEG or PNG bytes. Raises InputError."""
    buffer = np.frombuffer(data, np.uint8)
    try:
        image = cv2.imdecode(buffer, cv2.IMREAD_GRAYSCALE) if len(buffer) else None
    except cv2.error:  # a size beyond OpenCV's limits
        image = None
    if image is None:
        raise InputError(f"{len(buffer)} bytes of a compressed image cannot be decoded.")
    return image


def depth_in_metres(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Depth images after REP-118: uint16 millimetres or float32 metres, to float32 metres; 0 where unknown."""
    if pixels.dtype == np.uint16:
        return pixels.astype(np.float32) * np.float32(0.001)
    if pixels.dtype == np.float32:
        return np.where(np.isfinite(pixels), pixels, np.float32(0.0))
    raise InputError(f"A depth image must be 16UC1 or 32FC1, not {pixels.dtype}.")
