# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Corrections of a calibration: against the lens model that they stand for, there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loftr_ros.geometry.camera import Camera, calibration_lines, load_camera
from loftr_ros.geometry.correction import changes, corrected, slopes, uncorrected
from loftr_ros.geometry.refit import refitted

MATRIX = np.array([[420.0, 0, 321.3], [0, 415.0, 238.6], [0, 0, 1]])
GRID = np.stack(np.meshgrid(np.linspace(-0.9, 0.9, 13), np.linspace(-0.7, 0.7, 11)), axis=2).reshape(-1, 2)
SMALL = np.array([0.004, -0.0008, 0.0005, 0.003, -0.002, 0.0015])
PIXELS = np.stack(np.meshgrid(np.linspace(0, 639, 9), np.linspace(0, 479, 7)), axis=2).reshape(-1, 2)
SIZES = np.array([0.02, 0.002, 0.002, 0.01, 0.007, 0.007])
corrections = st.lists(st.floats(-3, 3), min_size=6, max_size=6).map(lambda c: np.array(c) * SIZES)


def lens(c: np.ndarray) -> Camera:
    """The camera that the correction is of, as OpenCV's model."""
    k1, p1, p2, focal, right, below = c
    matrix = MATRIX.copy()
    matrix[0, 2], matrix[1, 2] = MATRIX[0, 2] + right * MATRIX[0, 0], MATRIX[1, 2] + below * MATRIX[1, 1]
    matrix[[0, 1], [0, 1]] *= 1 + focal
    return Camera(640, 480, matrix, "plumb_bob", (k1, 0.0, p1, p2, 0.0))


@pytest.mark.parametrize("term", range(6))
def test_each_number_is_that_of_the_lens_model(term):
    c = np.where(np.arange(6) == term, SMALL, 0.0)
    moved = Camera(640, 480, MATRIX).normalize(PIXELS) - lens(c).normalize(PIXELS)
    found = Camera(640, 480, MATRIX).normalize(PIXELS) - Camera(640, 480, MATRIX).with_correction(c).normalize(PIXELS)
    assert np.abs(moved).max() > 3e-4
    assert np.abs(found - moved).max() < 0.02 * np.abs(moved).max()  # what is left is of second order


def test_all_of_them_together_too():
    found = Camera(640, 480, MATRIX).with_correction(SMALL).normalize(PIXELS)
    assert np.abs(found - lens(SMALL).normalize(PIXELS)).max() < 1e-4  # a 20th of a pixel; the change is 3.3 pixels
    assert np.abs(found - Camera(640, 480, MATRIX).normalize(PIXELS)).max() > 6e-3


@given(corrections)
def test_it_can_be_undone(c):
    np.testing.assert_allclose(corrected(uncorrected(GRID, c), c), GRID, atol=1e-9)


@pytest.mark.parametrize("k1", [-0.28, -0.35, 0.15])
def test_it_can_be_undone_for_much_distortion_too(k1):
    c = np.array([k1, 0.001, -0.001, 0.02, 0.0, 0.0])
    inside = GRID[np.linalg.det(slopes(GRID, c)) > 0.2]
    np.testing.assert_allclose(uncorrected(corrected(inside, c), c), inside, atol=1e-6)
    assert len(inside) > 100


@given(corrections)
def test_slopes_are_the_derivative(c):
    step = 1e-6
    for axis in range(2):
        moved = GRID + step * np.eye(2)[axis]
        numerical = (corrected(moved, c) - corrected(GRID, c)) / step
        np.testing.assert_allclose(slopes(GRID, c)[:, :, axis], numerical, atol=1e-5)


def test_changes_are_linear():
    np.testing.assert_allclose(GRID - corrected(GRID, SMALL), changes(GRID) @ SMALL, atol=1e-15)


@pytest.mark.parametrize(
    ("model", "distortion"),
    [("plumb_bob", ()), ("plumb_bob", (-0.28, 0.07, 1e-3, -5e-4, 0.0)), ("equidistant", (-0.01, 0.02, -0.005, 0.001))],
)
def test_a_corrected_camera_projects_to_where_it_looks_from(model, distortion):
    camera = Camera(640, 480, MATRIX, model, distortion).with_correction(SMALL)
    points = np.column_stack([GRID, np.ones(len(GRID))]) * 2.5
    np.testing.assert_allclose(camera.normalize(camera.project(points)), GRID, atol=1e-6)


def test_a_correction_is_part_of_the_camera():
    camera = Camera(640, 480, MATRIX)
    other = camera.with_correction(SMALL)
    assert not camera.same_as(other) and other.same_as(camera.with_correction(SMALL))
    half = other.resized(320, 240)
    np.testing.assert_allclose(half.normalize((PIXELS + 0.5) / 2 - 0.5), other.normalize(PIXELS), atol=1e-12)


@pytest.mark.parametrize(
    ("model", "distortion"),
    [
        ("plumb_bob", ()),
        ("", ()),
        ("plumb_bob", (-0.28, 0.07, 1e-3, -5e-4)),
        ("rational_polynomial", (0.3, 0.1, 1e-3, 1e-4, 0.01, 0.65, 0.2, 0.02)),
    ],
)
def test_a_corrected_camera_can_be_written_as_a_calibration(tmp_path, model, distortion):
    camera = Camera(640, 480, MATRIX, model, distortion).with_correction(3 * SMALL)
    (tmp_path / "camera_info.yaml").write_text("\n".join(calibration_lines(refitted(camera), "refined")))
    read = load_camera(tmp_path / "camera_info.yaml")
    off = np.linalg.norm(read.normalize(PIXELS) - camera.normalize(PIXELS), axis=1) * 420
    change = np.linalg.norm(camera.with_correction(()).normalize(PIXELS) - camera.normalize(PIXELS), axis=1) * 420
    assert change.max() > 5 and off.max() < (0.2 * change.max() if distortion else 0.1)
    assert np.median(off) < 0.5


def test_a_camera_without_correction_needs_no_fit():
    camera = Camera(640, 480, MATRIX)
    assert refitted(camera) is camera
