# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Camera models: pixels to viewing rays and back.

The models and the order of their coefficients are those of sensor_msgs/CameraInfo and of OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from loftr_ros.errors import InputError, brief
from loftr_ros.files import read_yaml
from loftr_ros.geometry.correction import corrected, uncorrected
from loftr_ros.types import Array

# Number of coefficients that each model takes. An empty name is what drivers of ideal cameras send.
MODELS: dict[str, tuple[int, ...]] = {
    "plumb_bob": (0, 4, 5),
    "rational_polynomial": (0, 5, 8, 12, 14),
    "equidistant": (0, 4),
    "": (0,),
}


@dataclass(frozen=True, eq=False)
class Camera:
    """A calibrated camera.

    Attributes:
        width, height: of the images, in pixels.
        matrix: [3, 3] intrinsics, pixel centres at integers.
        model: "plumb_bob", "rational_polynomial" or "equidistant".
        distortion: [K] its coefficients; empty: none.
        correction: [6] of what these leave (loftr_ros.geometry.correction); empty: none.
    """

    width: int
    height: int
    matrix: Array
    model: str = "plumb_bob"
    distortion: tuple[float, ...] = ()
    correction: tuple[float, ...] = ()

    def same_as(self, other: Camera) -> bool:
        """Whether all numbers are equal."""
        return (
            (self.width, self.height, self.model, self.distortion, self.correction)
            == (other.width, other.height, other.model, other.distortion, other.correction)
        ) and np.array_equal(self.matrix, other.matrix)

    def with_correction(self, correction: Array) -> Camera:
        """The same with what its calibration leaves."""
        return replace(self, correction=tuple(float(c) for c in correction))

    @property
    def focal(self) -> float:
        """Mean focal length in pixels."""
        return float((self.matrix[0, 0] + self.matrix[1, 1]) / 2)

    @property
    def is_ideal(self) -> bool:
        """Straight lines stay straight, as calibrated. Never for equidistant, whose radius is f * angle anyway."""
        return self.model != "equidistant" and not any(self.distortion)

    @property
    def _coefficients(self) -> Array:
        return np.array(self.distortion) if any(self.distortion) else np.zeros(4)

    def normalize(self, pixels: Array) -> Array:
        """[N, 2] pixels to undistorted (x / z, y / z)."""
        points = self._undistorted(pixels)
        return corrected(points, np.array(self.correction)) if self.correction else points

    def _undistorted(self, pixels: Array) -> Array:
        points = np.asarray(pixels, dtype=np.float64).reshape(-1, 2)
        if self.is_ideal:
            return (points - self.matrix[:2, 2]) / np.array([self.matrix[0, 0], self.matrix[1, 1]])
        if len(points) == 0:
            return points
        coefficients = self._coefficients
        if self.model == "equidistant":
            return cv2.fisheye.undistortPoints(points[:, None], self.matrix, coefficients)[:, 0]
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-10)
        return cv2.undistortPointsIter(points[:, None], self.matrix, coefficients, None, None, criteria)[:, 0]

    def project(self, points: Array) -> Array:
        """[N, 3] points in the camera frame, z > 0, to [N, 2] pixels."""
        points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
        if self.correction:
            measured = uncorrected(points[:, :2] / points[:, 2:], np.array(self.correction))
            points = np.hstack([measured, np.ones((len(points), 1))])
        if self.is_ideal:
            return points[:, :2] / points[:, 2:] * np.array([self.matrix[0, 0], self.matrix[1, 1]]) + self.matrix[:2, 2]
        if len(points) == 0:
            return np.zeros((0, 2))
        zero, coefficients = np.zeros(3), self._coefficients
        if self.model == "equidistant":
            return cv2.fisheye.projectPoints(points[:, None], zero, zero, self.matrix, coefficients)[0][:, 0]
        return cv2.projectPoints(points, zero, zero, self.matrix, coefficients)[0][:, 0]

    def resized(self, width: int, height: int) -> Camera:
        """The same camera for images shrunk or enlarged to another size. Raises InputError if their shape differs."""
        if (width, height) == (self.width, self.height):
            return self
        if width <= 0 or height <= 0:
            raise InputError(f"The images have {width}x{height} pixels.")
        scale = np.array([width / self.width, height / self.height])
        if abs(scale[0] / scale[1] - 1) > 0.02:
            raise InputError(
                f"The images are {width}x{height}, but the camera is calibrated for {self.width}x{self.height}."
            )
        matrix = self.matrix.copy()
        matrix[0, 0], matrix[1, 1] = self.matrix[0, 0] * scale[0], self.matrix[1, 1] * scale[1]
        matrix[:2, 2] = (self.matrix[:2, 2] + 0.5) * scale - 0.5
        return replace(self, width=width, height=height, matrix=matrix)


@dataclass(frozen=True)
class Region:
    """Region of interest of a camera_info in full-resolution pixels, and the binning of the sensor."""

    x_offset: int = 0
    y_offset: int = 0
    width: int = 0
    height: int = 0
    binning_x: int = 1
    binning_y: int = 1


def camera_from_calibration(
    width: int,
    height: int,
    matrix: Array,
    model: str = "plumb_bob",
    distortion: tuple[float, ...] = (),
    region: Region | None = None,
) -> Camera:
    """A checked Camera from the fields of a camera_info.

    Raises InputError, one sentence, for an uncalibrated camera or impossible values.
    """
    matrix = np.asarray(matrix, dtype=np.float64).reshape(-1)
    if matrix.size != 9:
        raise InputError(f"The camera matrix must have 9 numbers, not {matrix.size}.")
    matrix = matrix.reshape(3, 3)
    if matrix[0, 0] == 0:
        raise InputError("The camera is not calibrated: K[0] of its camera_info is 0.")
    if not np.isfinite(matrix).all() or not np.isfinite(np.array(distortion, dtype=np.float64)).all():
        raise InputError("The camera calibration has numbers that are not finite.")
    if matrix[0, 0] < 0 or matrix[1, 1] <= 0:
        raise InputError(f"The focal lengths must be positive, not {matrix[0, 0]:g} and {matrix[1, 1]:g}.")
    if not _plausible(matrix, distortion):
        raise InputError("The camera calibration has numbers that no camera has.")
    if not (0 < width <= 65535 and 0 < height <= 65535):
        raise InputError(f"The camera calibration is for images of {width}x{height} pixels, which cannot be.")
    if abs(matrix[0, 1]) > 1e-9 * matrix[0, 0] or np.abs(matrix[[1, 2, 2], [0, 0, 1]]).any() or matrix[2, 2] != 1:
        raise InputError("The camera matrix must be [fx 0 cx; 0 fy cy; 0 0 1].")
    if model not in MODELS:
        known = ", ".join(name for name in MODELS if name)
        raise InputError(f"The distortion model '{model[:40]}' is not supported; {known} are.")
    if len(distortion) not in MODELS[model] and any(distortion):
        raise InputError(f"The distortion model '{model}' does not take {len(distortion)} coefficients.")
    camera = Camera(width, height, matrix, model, tuple(float(d) for d in distortion))
    return camera if region is None else _cropped(camera, region)


def _plausible(matrix: Array, distortion: tuple[float, ...]) -> bool:
    """Far beyond this, rays and pixels are no numbers any more."""
    focal, centre = matrix[[0, 1], [0, 1]], matrix[:2, 2]
    largest = max((abs(d) for d in distortion), default=0.0)
    return bool(focal.min() >= 1 and focal.max() <= 1e6 and np.abs(centre).max() <= 1e6 and largest <= 1e6)


def _cropped(camera: Camera, region: Region) -> Camera:
    """Apply region of interest, then binning, as image_geometry does. Raises InputError."""
    if region.x_offset + region.width > camera.width or region.y_offset + region.height > camera.height:
        raise InputError(
            f"The region of interest, {region.width}x{region.height} pixels at ({region.x_offset}, {region.y_offset}), "
            f"lies outside the image of {camera.width}x{camera.height}."
        )
    matrix = camera.matrix.copy()
    matrix[0, 2] -= region.x_offset
    matrix[1, 2] -= region.y_offset
    bins = np.array([max(region.binning_x, 1), max(region.binning_y, 1)], dtype=np.float64)
    matrix[0] /= bins[0]
    matrix[1] /= bins[1]
    width, height = region.width or camera.width, region.height or camera.height
    columns, rows = int(width / bins[0]), int(height / bins[1])
    if columns <= 0 or rows <= 0:
        raise InputError(f"The region of interest and the binning leave an image of {columns}x{rows} pixels.")
    return Camera(columns, rows, matrix, camera.model, camera.distortion)


def camera_from_info(info: Any) -> Camera:
    """A Camera from anything with the fields of sensor_msgs/CameraInfo, of ROS 1 or 2. Raises InputError."""
    matrix = info.k if hasattr(info, "k") else info.K
    distortion = info.d if hasattr(info, "d") else info.D
    roi = info.roi
    region = Region(roi.x_offset, roi.y_offset, roi.width, roi.height, info.binning_x, info.binning_y)
    return camera_from_calibration(
        int(info.width),
        int(info.height),
        np.array(matrix, dtype=np.float64),
        info.distortion_model,
        tuple(float(d) for d in distortion),
        region,
    )


def load_camera(path: str | Path) -> Camera:
    """Read a camera_info YAML file, as the ROS calibrator writes it. Raises InputError."""
    values = read_yaml(path, "calibration file", InputError)
    try:
        return _camera_from_yaml(values)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"The calibration file {path} lacks or garbles a field: {brief(error)}.") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _camera_from_yaml(values: dict[str, Any]) -> Camera:
    return camera_from_calibration(
        int(values["image_width"]),
        int(values["image_height"]),
        np.array(values["camera_matrix"]["data"], dtype=np.float64),
        str(values.get("distortion_model", "plumb_bob")),
        tuple(float(d) for d in values.get("distortion_coefficients", {}).get("data", [])),
    )


def calibration_lines(camera: Camera, name: str) -> list[str]:
    """What `load_camera` and ROS read, of a camera without a correction."""

    def matrix(title: str, values: Array) -> list[str]:
        rows, columns = values.shape
        numbers = ", ".join(f"{v:.9g}" for v in values.ravel())
        return [f"{title}:", f"  rows: {rows}", f"  cols: {columns}", f"  data: [{numbers}]"]

    return [
        f"image_width: {camera.width}",
        f"image_height: {camera.height}",
        f"camera_name: {name}",
        *matrix("camera_matrix", camera.matrix),
        f"distortion_model: {camera.model}",
        *matrix("distortion_coefficients", np.array([camera.distortion or (0.0,) * 5])),
        *matrix("rectification_matrix", np.eye(3)),
        *matrix("projection_matrix", np.hstack([camera.matrix, np.zeros((3, 1))])),
    ]
