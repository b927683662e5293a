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

_PNG = b"\x89PNG\r\n\x1a\n"
MOST_PIXELS = 1 << 26  # 8192 x 8192; more is taken for a lie, which would fill the memory
_MOST_PIXELS_PER_BYTE = 8 * 1032  # of a PNG with one bit a pixel: deflate makes at most 1032 bytes of one
_HEADER_BYTES = 1 << 17  # in which a JPEG says its size, behind a preview


def unpack(encoding: str, height: int, width: int, step: int, data: Any, big_endian: bool = False) -> NDArray[Any]:
    """The pixels of a sensor_msgs/Image as an array [H, W] or [H, W, C]. Raises InputError where they disagree."""
    if encoding not in _LAYOUT:
        raise InputError(f"The image encoding '{encoding[:40]}' is not supported.")
    kind, channels = _LAYOUT[encoding]
    _check_size(width, height)
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
        raise InputError(f"The image encoding '{encoding[:40]}' is not supported.")
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
    image = _decoded(data, cv2.IMREAD_GRAYSCALE)
    return np.asarray(image, dtype=np.uint8)


def decode_as_stored(data: Any) -> NDArray[Any]:
    """[H, W] or [H, W, C] from JPEG, PNG or the like, with the depth of its numbers. Raises InputError."""
    return _decoded(data, cv2.IMREAD_UNCHANGED)


def decode_colour(data: Any) -> Image:
    """[H, W, 3] bgr from JPEG, PNG or the like. Raises InputError."""
    return np.asarray(_decoded(data, cv2.IMREAD_COLOR), dtype=np.uint8)


def _decoded(data: Any, mode: int) -> NDArray[Any]:
    buffer = np.frombuffer(data, np.uint8)
    size = _stored_size(bytes(buffer[:_HEADER_BYTES]))
    if size is not None:  # before any memory and time is taken for them
        _check_size(*size)
        if size[0] * size[1] > _MOST_PIXELS_PER_BYTE * len(buffer):
            raise InputError(f"{len(buffer)} bytes of a compressed image cannot hold {size[0]}x{size[1]} pixels.")
    if _is_cut_off(buffer):
        raise InputError(f"{len(buffer)} bytes of a compressed image cannot be decoded: they are cut off, or damaged.")
    try:
        image = cv2.imdecode(buffer, mode) if len(buffer) else None
    except cv2.error:  # a size beyond OpenCV's limits
        image = None
    if image is None:
        raise InputError(f"{len(buffer)} bytes of a compressed image cannot be decoded.")
    _check_size(image.shape[1], image.shape[0])
    return image


def _check_size(width: int, height: int) -> None:
    """Raises InputError for an image without pixels, or with more than any camera has."""
    if height <= 0 or width <= 0 or width * height > MOST_PIXELS:
        raise InputError(f"The image has {width}x{height} pixels.")


def _is_cut_off(buffer: NDArray[np.uint8]) -> bool:
    """Whether a PNG does not consist of whole chunks up to its end.

    OpenCV takes memory for a chunk of any length, 2 GB too, before it looks whether there is as much.
    """
    if bytes(buffer[:8]) != _PNG:
        return False
    at = 8
    while at + 12 <= len(buffer):
        length, name = int.from_bytes(bytes(buffer[at : at + 4]), "big"), bytes(buffer[at + 4 : at + 8])
        at += 12 + length
        if name == b"IEND":
            return at > len(buffer)
    return True


def _stored_size(head: bytes) -> tuple[int, int] | None:
    """(width, height) that a PNG or JPEG announces; None where that is not to be found."""
    if head.startswith(_PNG) and len(head) >= 24:
        return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    at = 2 if head.startswith(b"\xff\xd8") else len(head)
    while at + 9 <= len(head):
        if head[at] != 0xFF:
            at += 1
        elif 0xC0 <= head[at + 1] <= 0xCF and head[at + 1] not in (0xC4, 0xC8, 0xCC):  # a start of frame
            return int.from_bytes(head[at + 7 : at + 9], "big"), int.from_bytes(head[at + 5 : at + 7], "big")
        elif head[at + 1] in (0x01, 0xFF, *range(0xD0, 0xDA)):  # without a length
            at += 1 if head[at + 1] == 0xFF else 2
        else:
            at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None


def depth_in_metres(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Depth images after REP-118: uint16 millimetres or float32 metres, to float32 metres; 0 where unknown.

    Raises InputError for other numbers, and for colours.
    """
    if pixels.ndim != 2:
        raise InputError(f"A depth image must be 16UC1 or 32FC1, not of {pixels.shape[2]} channels.")
    if pixels.dtype == np.uint16:
        return pixels.astype(np.float32) * np.float32(0.001)
    if pixels.dtype == np.float32:
        return np.where(np.isfinite(pixels), pixels, np.float32(0.0))
    raise InputError(f"A depth image must be 16UC1 or 32FC1, not {pixels.dtype}.")
