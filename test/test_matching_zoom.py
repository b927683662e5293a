# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Images magnified about their centre: where their pixels lie, and that matches are told in pixels of the image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from support import texture

from loftr_ros.matching import load_matcher
from loftr_ros.matching.zoom import canvas

SIZES = [(640, 480, (640, 480)), (1241, 376, (640, 194)), (101, 67, (64, 42))]


@pytest.mark.parametrize("zoom", [0.5, 0.6, 1.0, 1 / 0.6, 2.0])
@pytest.mark.parametrize(("width", "height", "size"), SIZES)
def test_each_pixel_of_the_canvas_shows_the_place_that_it_should(width, height, size, zoom):
    """The image is a slope along x, then along y: what a pixel shows is where it lies."""
    place = canvas(width, height, size, zoom)
    for axis, length in enumerate((width, height)):
        ramp = np.linspace(20, 220, length)
        image = np.round(np.broadcast_to(ramp if axis == 0 else ramp[:, None], (height, width))).astype(np.uint8)
        shown = place.paint(image)
        assert shown.shape == size[::-1]
        start, count = place.inner[axis], place.inner[axis + 2]
        middle = np.arange(start + 3, start + count - 3)
        at = (middle + 0.5) * place.scale[axis] - 0.5 + place.corner[axis]
        line = np.take(shown, shown.shape[axis] // 2, axis=axis)[middle].astype(float)
        np.testing.assert_allclose(line, 20 + 200 * at / (length - 1), atol=1.0)
    wanted = size[0] / width * zoom
    np.testing.assert_allclose(1 / place.scale, wanted, rtol=0.05)


def test_the_centre_stays():
    centre = np.array([319.5, 239.5])
    for zoom in (0.5, 2.0):
        place = canvas(640, 480, (640, 480), zoom)
        np.testing.assert_allclose((centre + 0.5) * place.scale - 0.5 + place.corner, centre)


def test_outside_of_a_shrunk_image_its_edge_goes_on_and_the_mask_is_black():
    image = np.full((80, 120), 90, np.uint8)
    image[:, :60] = 30
    place = canvas(120, 80, (120, 80), 0.5)
    shown, mask = place.paint(image), place.paint_mask(np.full_like(image, 255))
    assert place.inner == (30, 20, 60, 40) and not place.is_filled
    assert (shown[:, :58] == 30).all() and (shown[:, 62:] == 90).all()
    assert (mask[20:60, 30:90] == 255).all() and mask.sum() == 255 * 60 * 40


@pytest.mark.parametrize("zoom", [0.6, 1 / 0.6])
def test_matches_with_a_magnified_image_are_in_its_own_pixels(zoom):
    """The camera sees the scene at another scale, and zoom takes that back."""
    matcher = load_matcher("tiny", max_side=320)
    scene = cv2.GaussianBlur(texture(960, 1280, seed=4), (0, 0), 2)
    near = cv2.resize(scene[240:720, 320:960], (320, 240), interpolation=cv2.INTER_AREA)  # the middle half
    far = cv2.resize(_middle(scene, 0.5 / zoom), (320, 240), interpolation=cv2.INTER_AREA)
    at_zoom = matcher.match_features(matcher.extract(near), matcher.extract(far, 1 / zoom))
    true = (at_zoom.points0 - [159.5, 119.5]) * zoom + [159.5, 119.5]
    error = np.linalg.norm(at_zoom.points1 - true, axis=1)
    assert len(error) > 150 and np.median(error) < 0.6
    plain = matcher.match_features(matcher.extract(near), matcher.extract(far))
    true = (plain.points0 - [159.5, 119.5]) * zoom + [159.5, 119.5]
    right = np.linalg.norm(plain.points1 - true, axis=1) < 2
    assert (error < 2).sum() > 2 * right.sum()


def test_a_mask_is_magnified_with_its_image():
    mask = np.full((240, 320), 255, np.uint8)
    mask[:, :160] = 0
    matcher = load_matcher("tiny", max_side=320)
    matcher.mask = mask
    image = texture(240, 320, seed=1)
    for zoom in (0.5, 1.0, 2.0):
        matches = matcher.match_features(matcher.extract(image, zoom), matcher.extract(image, zoom))
        assert len(matches) > 20 and matches.points0[:, 0].min() > 150


def _middle(image: np.ndarray, share: float) -> np.ndarray:
    height, width = image.shape
    rows, columns = round(height * share), round(width * share)
    top, left = (height - rows) // 2, (width - columns) // 2
    return image[top : top + rows, left : left + columns]
