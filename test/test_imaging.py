# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Pixels of every encoding, as cameras send them: padded, byte-swapped, mosaicked, lying."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import is_one_sentence, texture

from loftr_ros import imaging
from loftr_ros.errors import InputError
from loftr_ros.imaging import decode, depth_in_metres, stretched, to_grey, unpack

HEIGHT, WIDTH = 12, 16
GREY = texture(HEIGHT, WIDTH, 1)


def colour() -> np.ndarray:
    """[H, W, 3] bgr, smooth, so that a mosaic of it can be undone."""
    ramp = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    return np.stack([40 + 6 * ramp[1], 200 - 5 * ramp[0], 90 + 3 * ramp[0] + 2 * ramp[1]], axis=2).astype(
        np.uint8
    )


def through(encoding: str, pixels: np.ndarray, padding: int = 0, big_endian: bool = False) -> np.ndarray:
    """Pixels packed as a message packs them, unpacked, and made grey."""
    stored = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
    rows = np.frombuffer(stored.tobytes(), np.uint8).reshape(len(pixels), -1)
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    array = unpack(encoding, *pixels.shape[:2], data.shape[1], data.tobytes(), big_endian)
    np.testing.assert_array_equal(array, pixels)
    return to_grey(array, encoding)


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_comes_back_as_it_is(encoding, padding):
    np.testing.assert_array_equal(through(encoding, GREY, padding), GREY)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [
        ("bgr8", None),
        ("8UC3", None),
        ("rgb8", cv2.COLOR_BGR2RGB),
        ("bgra8", cv2.COLOR_BGR2BGRA),
        ("8UC4", cv2.COLOR_BGR2BGRA),
        ("rgba8", cv2.COLOR_BGR2RGBA),
    ],
)
def test_colours(encoding, order, padding):
    pixels = colour() if order is None else cv2.cvtColor(colour(), order)
    np.testing.assert_array_equal(
        through(encoding, pixels, padding), cv2.cvtColor(colour(), cv2.COLOR_BGR2GRAY)
    )


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_sixteen_bits(encoding, big_endian):
    pixels = GREY.astype(np.uint16) * 256
    pixels[0, 0] = 65535
    np.testing.assert_array_equal(through(encoding, pixels, 4, big_endian), (pixels // 256).astype(np.uint8))


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize(("encoding", "order"), [("bgr16", None), ("rgb16", cv2.COLOR_BGR2RGB)])
def test_sixteen_bit_colours(encoding, order, big_endian):
    pixels = (colour() if order is None else cv2.cvtColor(colour(), order)).astype(np.uint16) * 256
    pixels[0, 0] = 65535
    grey = through(encoding, pixels, 2, big_endian)
    wanted = cv2.cvtColor(colour(), cv2.COLOR_BGR2GRAY)
    assert np.abs(grey[1:].astype(int) - wanted[1:]).max() <= 1 and grey[0, 0] == 255


@pytest.mark.parametrize(("highest", "divisor"), [(1023, 4), (4095, 16), (16383, 64), (65535, 256), (200, 1)])
def test_sensors_of_fewer_bits_fill_the_range(highest, divisor):
    image = np.array([[0, highest // 2, highest]], np.uint16)
    np.testing.assert_array_equal(stretched(image), image // divisor)


# Which colour (index into bgr) stands at the pixels (0, 0), (0, 1), (1, 0), (1, 1).
@pytest.mark.parametrize(
    ("encoding", "mosaic"),
    [
        ("bayer_rggb8", (2, 1, 1, 0)),
        ("bayer_bggr8", (0, 1, 1, 2)),
        ("bayer_gbrg8", (1, 0, 2, 1)),
        ("bayer_grbg8", (1, 2, 0, 1)),
    ],
)
def test_bayer(encoding, mosaic):
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place, channel in enumerate(mosaic):
        row, column = divmod(place, 2)
        pixels[row::2, column::2] = colour()[row::2, column::2, channel]
    wanted = cv2.cvtColor(colour(), cv2.COLOR_BGR2GRAY).astype(int)
    inner = np.s_[2:-2, 2:-2]
    assert np.abs(through(encoding, pixels, 1)[inner].astype(int) - wanted[inner]).max() <= 2


@pytest.mark.parametrize(("encoding", "luma"), [("yuv422", 1), ("uyvy", 1), ("yuv422_yuy2", 0), ("yuyv", 0)])
def test_yuv422(encoding, luma):
    pixels = np.full((HEIGHT, WIDTH, 2), 128, np.uint8)
    pixels[:, :, luma] = GREY
    np.testing.assert_array_equal(through(encoding, pixels, 2), GREY)


def test_every_encoding_of_the_tables_is_tried_here():
    tried = "mono8 8UC1 bgr8 8UC3 rgb8 bgra8 8UC4 rgba8 mono16 16UC1 bgr16 rgb16 bayer_rggb8 bayer_bggr8 bayer_gbrg8"
    tried += " bayer_grbg8 yuv422 uyvy yuv422_yuy2 yuyv"
    assert set(tried.split()) == set(imaging._TO_GREY)


@pytest.mark.parametrize(
    ("encoding", "height", "width", "step", "size"),
    [
        ("mono8", 0, 16, 16, 0),
        ("mono8", 12, 0, 0, 0),
        ("mono8", 12, 16, 15, 12 * 16),  # a row does not hold its pixels
        ("mono8", 12, 16, 16, 12 * 16 - 1),  # one byte short
        ("bgr8", 12, 16, 16, 12 * 16),  # a lie about the colours
        ("mono16", 12, 16, 16, 12 * 16),
        ("mono8", 2**31, 2**31, 2**31, 64),
        ("mono8", -3, 16, 16, 64),
        ("jpeg", 12, 16, 16, 12 * 16),
        ("", 12, 16, 16, 12 * 16),
    ],
)
def test_fields_that_disagree_are_refused(encoding, height, width, step, size):
    with pytest.raises(InputError) as caught:
        unpack(encoding, height, width, step, bytes(size))
    assert is_one_sentence(str(caught.value))


@given(
    st.sampled_from(sorted(imaging._LAYOUT)),
    st.integers(-1, 9),
    st.integers(-1, 9),
    st.integers(0, 64),
    st.binary(max_size=600),
    st.booleans(),
)
def test_any_bytes_are_an_image_or_refused(encoding, height, width, step, data, big_endian):
    try:
        pixels = unpack(encoding, height, width, step, data, big_endian)
        grey = to_grey(pixels, encoding)
    except InputError as error:
        assert is_one_sentence(str(error))
    else:
        assert grey.shape == (height, width) and grey.dtype == np.uint8


def test_pixels_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"\[12, 16\] cannot be 'bgr8'"):
        to_grey(GREY, "bgr8")
    with pytest.raises(InputError, match="not supported"):
        to_grey(GREY, "32FC1")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_compressed_images(suffix):
    image = texture(120, 160, 2)
    data = cv2.imencode(suffix, image)[1].tobytes()
    difference = np.abs(decode(data).astype(int) - image)
    assert difference.max() == 0 if suffix == ".png" else difference.mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9])
def test_truncated_compressed_images_are_refused(suffix, share):
    data = cv2.imencode(suffix, texture(120, 160, 2))[1].tobytes()
    with pytest.raises(InputError, match="cannot be decoded"):
        decode(data[: int(share * len(data))])


def test_compressed_images_that_claim_a_monstrous_size_are_refused():
    data = bytearray(cv2.imencode(".bmp", np.zeros((8, 8), np.uint8))[1].tobytes())
    data[18:26] = (2**30).to_bytes(4, "little") * 2
    with pytest.raises(InputError, match="cannot be decoded"):
        decode(bytes(data))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_do_not_decode_into_an_error_of_another_kind(data):
    try:
        assert decode(data).ndim == 2
    except InputError as error:
        assert "cannot be decoded" in str(error)


def test_depth_in_metres():
    np.testing.assert_allclose(depth_in_metres(np.array([[0, 1500]], np.uint16)), [[0, 1.5]], rtol=1e-6)
    metres = depth_in_metres(np.array([[np.nan, np.inf, 2.5]], np.float32))
    np.testing.assert_array_equal(metres, np.array([[0, 0, 2.5]], np.float32))
    with pytest.raises(InputError, match="16UC1 or 32FC1"):
        depth_in_metres(np.zeros((2, 2), np.uint8))
