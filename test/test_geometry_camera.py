# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Camera models: there and back, against the formulas, and every refusal."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import camera_info_yaml, is_one_sentence, pinhole

from loftr_ros.errors import InputError
from loftr_ros.geometry.camera import Camera, Region, camera_from_calibration, camera_from_info, load_camera

MATRIX = np.array([[420.0, 0, 321.3], [0, 415.0, 238.6], [0, 0, 1]])
CAMERAS = {
    "ideal": Camera(640, 480, MATRIX),
    "plumb_bob": Camera(640, 480, MATRIX, "plumb_bob", (-0.28, 0.07, 1e-3, -5e-4, 0.0)),
    "plumb_bob 4": Camera(640, 480, MATRIX, "plumb_bob", (0.1, -0.05, 0.0, 0.0)),
    "rational": Camera(
        640, 480, MATRIX, "rational_polynomial", (0.3, 0.1, 1e-3, 1e-4, 0.01, 0.65, 0.2, 0.02)
    ),
    "equidistant": Camera(640, 480, MATRIX, "equidistant", (-0.01, 0.02, -0.005, 0.001)),
}


def rays(most_deg: float) -> np.ndarray:
    """[N, 3] viewing rays around the axis, up to an angle."""
    angle = np.radians(np.linspace(0.0, most_deg, 25))[:, None]
    around = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    parts = np.broadcast_arrays(np.sin(angle) * np.cos(around), np.sin(angle) * np.sin(around), np.cos(angle))
    return np.stack(parts, axis=-1).reshape(-1, 3)


@pytest.mark.parametrize("name", CAMERAS)
def test_project_and_normalize_undo_each_other(name):
    camera, directions = CAMERAS[name], rays(35.0)
    back = camera.normalize(camera.project(directions * 3.7))
    np.testing.assert_allclose(back, directions[:, :2] / directions[:, 2:], atol=1e-6)


@pytest.mark.parametrize("distortion", [(), (0.0, 0.0, 0.0, 0.0), (-0.01, 0.02, -0.005, 0.001)])
def test_equidistant_at_wide_angles(distortion):
    camera, directions = Camera(640, 480, MATRIX, "equidistant", distortion), rays(80.0)
    back = camera.normalize(camera.project(directions))
    wanted = directions[:, :2] / directions[:, 2:]
    np.testing.assert_allclose(back, wanted, atol=1e-6 * (1 + np.abs(wanted).max()))


def test_equidistant_radius_is_focal_length_times_angle():
    camera = camera_from_calibration(640, 480, MATRIX, "equidistant", (0.0, 0.0, 0.0, 0.0))
    pixel = camera.project(np.array([[np.tan(1.0), 0.0, 1.0]]))
    np.testing.assert_allclose(pixel, [[321.3 + 420.0, 238.6]], atol=1e-9)


def test_plumb_bob_is_the_formula():
    k1, k2, p1, p2, k3 = CAMERAS["plumb_bob"].distortion
    x, y = 0.3, -0.2
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    u = 420.0 * (x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)) + 321.3
    v = 415.0 * (y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y) + 238.6
    np.testing.assert_allclose(
        CAMERAS["plumb_bob"].project(np.array([[0.6, -0.4, 2.0]])), [[u, v]], atol=1e-9
    )


@pytest.mark.parametrize("name", CAMERAS)
def test_no_points_are_no_problem(name):
    assert CAMERAS[name].project(np.zeros((0, 3))).shape == (0, 2)
    assert CAMERAS[name].normalize(np.zeros((0, 2))).shape == (0, 2)


@given(st.floats(-300, 900), st.floats(-300, 900))
def test_ideal_round_trip_of_any_pixel(x, y):
    camera = CAMERAS["ideal"]
    point = np.append(camera.normalize(np.array([[x, y]]))[0], 1.0)
    np.testing.assert_allclose(camera.project(point[None]), [[x, y]], atol=1e-9)


@pytest.mark.parametrize("name", CAMERAS)
def test_resized_camera_sees_the_same_rays(name):
    camera = CAMERAS[name]
    half = camera.resized(320, 240)
    directions = rays(30.0)
    # The edges of the images coincide, so pixel centres move by half a pixel: u' = (u + 0.5) / 2 - 0.5.
    np.testing.assert_allclose(
        half.project(directions), (camera.project(directions) + 0.5) / 2 - 0.5, atol=1e-9
    )
    assert (half.width, half.height) == (320, 240)
    assert camera.resized(640, 480) is camera


def test_resizing_to_another_shape_is_refused():
    with pytest.raises(InputError, match="images are 640x360, but the camera is calibrated for 640x480"):
        CAMERAS["ideal"].resized(640, 360)


def test_region_of_interest_and_binning():
    region = Region(100, 50, 400, 200, 2, 4)
    camera = camera_from_calibration(640, 480, MATRIX, "plumb_bob", (), region)
    assert (camera.width, camera.height) == (200, 50)
    np.testing.assert_allclose(camera.matrix, [[210, 0, 221.3 / 2], [0, 415 / 4, 188.6 / 4], [0, 0, 1]])


def test_zero_region_and_binning_mean_none():
    camera = camera_from_calibration(640, 480, MATRIX, region=Region(0, 0, 0, 0, 0, 0))
    assert (camera.width, camera.height) == (640, 480)
    np.testing.assert_array_equal(camera.matrix, MATRIX)


def test_binning_that_leaves_no_pixel_is_refused():
    with pytest.raises(InputError, match="leave an image of 0x480 pixels"):
        camera_from_calibration(640, 480, MATRIX, region=Region(binning_x=1000))


def broken(**changes) -> str:
    values = {
        "width": 640,
        "height": 480,
        "matrix": MATRIX,
        "model": "plumb_bob",
        "distortion": (),
        **changes,
    }
    with pytest.raises(InputError) as caught:
        camera_from_calibration(**values)
    assert is_one_sentence(str(caught.value))
    return str(caught.value)


def matrix_with(row: int, column: int, value: float) -> np.ndarray:
    matrix = MATRIX.copy()
    matrix[row, column] = value
    return matrix


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"matrix": np.zeros((3, 3))}, "not calibrated: K[0]"),
        ({"matrix": np.ones(8)}, "9 numbers, not 8"),
        ({"matrix": matrix_with(0, 0, np.nan)}, "not finite"),
        ({"matrix": matrix_with(1, 2, np.inf)}, "not finite"),
        ({"distortion": (0.1, np.nan, 0, 0, 0)}, "not finite"),
        ({"matrix": matrix_with(0, 0, -420.0)}, "must be positive, not -420 and 415"),
        ({"matrix": matrix_with(1, 1, 0.0)}, "must be positive, not 420 and 0"),
        ({"width": 0}, "0x480 pixels, which cannot be"),
        ({"height": 10**6}, "which cannot be"),
        ({"matrix": matrix_with(0, 1, 3.0)}, "[fx 0 cx; 0 fy cy; 0 0 1]"),
        ({"matrix": matrix_with(2, 2, 2.0)}, "[fx 0 cx; 0 fy cy; 0 0 1]"),
        ({"matrix": matrix_with(1, 0, 2.0)}, "[fx 0 cx; 0 fy cy; 0 0 1]"),
        ({"model": "omnidirectional"}, "'omnidirectional' is not supported"),
        ({"distortion": (0.1, 0.2)}, "does not take 2 coefficients"),
        ({"model": "equidistant", "distortion": (0.1,) * 5}, "does not take 5 coefficients"),
        ({"model": "", "distortion": (0.1,) * 5}, "does not take 5 coefficients"),
    ],
)
def test_impossible_calibrations_are_refused(changes, words):
    assert words in broken(**changes)


@pytest.mark.parametrize("upper", [True, False], ids=["ROS 1", "ROS 2"])
def test_camera_info_messages_of_both_generations(upper):
    names = ("K", "D") if upper else ("k", "d")
    roi = SimpleNamespace(x_offset=10, y_offset=0, width=600, height=480)
    info = SimpleNamespace(
        width=640, height=480, distortion_model="plumb_bob", binning_x=0, binning_y=0, roi=roi
    )
    setattr(info, names[0], MATRIX.ravel())
    setattr(info, names[1], [-0.1, 0.01, 0.0, 0.0, 0.0])
    camera = camera_from_info(info)
    assert (camera.width, camera.height, camera.distortion[0]) == (600, 480, -0.1)
    assert camera.matrix[0, 2] == pytest.approx(311.3)


def test_calibration_file(tmp_path):
    (tmp_path / "c.yaml").write_text(camera_info_yaml())
    camera = load_camera(tmp_path / "c.yaml")
    np.testing.assert_array_equal(camera.matrix, pinhole().matrix)
    assert (camera.width, camera.height, camera.model) == (320, 240, "plumb_bob")


GOOD = camera_info_yaml()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "just text",
        "image_width: [",
        GOOD.replace("image_width: 320", ""),
        GOOD.replace("image_width: 320", "image_width: wide"),
        GOOD.replace("image_width: 320", "image_width: .inf"),
        GOOD.replace("image_width: 320", "image_width: .nan"),
        GOOD.replace("image_width: 320", "image_width: -320"),
        GOOD.replace(
            "camera_matrix: {rows: 3, cols: 3, data: [", "camera_matrix: {rows: 3, cols: 3, data: [7, "
        ),
        GOOD.replace("data: [300.0", "data: [.nan"),
        GOOD.replace("data: [300.0", "data: [-300.0"),
        GOOD.replace("data: [300.0", "data: [a"),
        GOOD.replace(
            "distortion_coefficients: {rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}", "distortion_coefficients: x"
        ),
        GOOD.replace("distortion_coefficients: {rows: 1, cols: 5, data:", "distortion_coefficients:").replace(
            "0, 0]}", "0, 0]"
        ),
        GOOD.replace("plumb_bob", "nonsense"),
        GOOD.replace("[0, 0, 0, 0, 0]", "[.inf, 0, 0, 0, 0]"),
        GOOD.replace("[0, 0, 0, 0, 0]", "3"),
    ],
)
def test_nonsense_calibration_files_give_one_sentence(tmp_path, text):
    assert text != GOOD
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        load_camera(tmp_path / "c.yaml")
    assert is_one_sentence(str(caught.value)) and "c.yaml" in str(caught.value)


def test_calibration_files_that_cannot_be_read(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\x81")
    for name in ("bytes.yaml", "nowhere.yaml", "."):
        with pytest.raises(InputError, match="cannot be read"):
            load_camera(tmp_path / name)
