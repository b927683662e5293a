# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Point clouds as files: PLY, and the text model of COLMAP (https://colmap.github.io/format.html)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loftr_ros.errors import InputError
from loftr_ros.files import write_atomically, write_bytes_atomically
from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.se3 import inverse, quat_xyzw
from loftr_ros.types import Array
from loftr_ros.uses.keyframes import View
from loftr_ros.uses.reconstruction import Cloud

# COLMAP gives the centre of the first pixel the coordinate 0.5.
_PIXEL_CENTRE = 0.5


def write_ply(path: Path, points: Array, colours: NDArray[np.uint8]) -> None:
    """Points [N, 3] and colours [N, 3] (r, g, b) as binary PLY. Raises InputError."""
    axes = [(axis, "<f4") for axis in "xyz"]
    table = np.zeros(len(points), dtype=[*axes, *((colour, "u1") for colour in ("red", "green", "blue"))])
    for k, axis in enumerate("xyz"):
        table[axis] = points[:, k]
    for k, colour in enumerate(("red", "green", "blue")):
        table[colour] = colours[:, k]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {colour}" for colour in ("red", "green", "blue")]
    write_bytes_atomically(path, "\n".join([*header, "end_header\n"]).encode() + table.tobytes())


def image_name(view: View) -> str:
    """The file name of a keyframe's picture."""
    return f"{view.stamp_ns:019d}.png"


def write_colmap(folder: Path, camera: Camera, views: list[View], cloud: Cloud) -> None:
    """cameras.txt, images.txt and points3D.txt. Raises InputError."""
    write_atomically(folder / "cameras.txt", [_camera_line(camera)])
    order = np.argsort(cloud.view, kind="stable")
    bounds = np.searchsorted(cloud.view[order], np.arange(len(views) + 1))
    place = np.zeros(len(order), np.int64)  # number of an observation among those of its image
    lines = []
    for k, view in enumerate(views):
        own = order[bounds[k] : bounds[k + 1]]
        place[own] = np.arange(len(own))
        lines.append(_pose_line(k + 1, view))
        lines.append(" ".join(_observation(cloud.pixels[i], int(cloud.point[i]) + 1) for i in own))
    write_atomically(folder / "images.txt", lines)
    write_atomically(folder / "points3D.txt", _point_lines(cloud, place))


def _observation(pixel: Array, point: int) -> str:
    x, y = pixel + _PIXEL_CENTRE
    return f"{x:.3f} {y:.3f} {point}"


def _pose_line(number: int, view: View) -> str:
    pose_camera_world = inverse(view.known.pose_world_camera)
    x, y, z, w = quat_xyzw(pose_camera_world[:3, :3])
    values = " ".join(f"{v:.12g}" for v in (w, x, y, z, *pose_camera_world[:3, 3]))
    return f"{number} {values} 1 {image_name(view)}"


def _point_lines(cloud: Cloud, place: NDArray[np.int64]) -> list[str]:
    order = np.argsort(cloud.point, kind="stable")
    bounds = np.searchsorted(cloud.point[order], np.arange(len(cloud.points) + 1))
    lines = []
    for k, (point, colour, error) in enumerate(zip(cloud.points, cloud.colours, cloud.error_px)):
        track = " ".join(f"{cloud.view[i] + 1} {place[i]}" for i in order[bounds[k] : bounds[k + 1]])
        xyz, rgb = " ".join(f"{v:.9g}" for v in point), " ".join(str(int(v)) for v in colour)
        lines.append(f"{k + 1} {xyz} {rgb} {error:.4f} {track}")
    return lines


def _camera_line(camera: Camera) -> str:
    model, coefficients = _model(camera)
    k = camera.matrix
    values = (k[0, 0], k[1, 1], k[0, 2] + _PIXEL_CENTRE, k[1, 2] + _PIXEL_CENTRE, *coefficients)
    return f"1 {model} {camera.width} {camera.height} " + " ".join(f"{v:.12g}" for v in values)


def _model(camera: Camera) -> tuple[str, tuple[float, ...]]:
    """COLMAP's name of a camera model, and its coefficients. Raises InputError for one that COLMAP does not have."""
    given = camera.distortion
    if camera.model == "equidistant":
        return "OPENCV_FISHEYE", (*given, *(0.0,) * (4 - len(given)))
    if camera.is_ideal:
        return "PINHOLE", ()
    if any(given[8:]):
        raise InputError("COLMAP has no camera model with thin-prism or tilt coefficients; rectify the images first.")
    if not any(given[4:]):
        return "OPENCV", given[:4]
    return "FULL_OPENCV", (*given[:8], *(0.0,) * (8 - len(given[:8])))
