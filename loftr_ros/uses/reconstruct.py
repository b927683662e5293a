# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""`reconstruct`: keyframe poses and coloured points from a sequence, as PLY and as a COLMAP text model."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros import cli
from loftr_ros.config import SCALE_SOURCES, OdometryConfig, config_from_dict
from loftr_ros.errors import InputError, LoftrRosError
from loftr_ros.evaluation.sequences import (
    FolderRecording,
    Options,
    Recording,
    VideoRecording,
    check_size,
    open_recording,
    read_colour,
)
from loftr_ros.evaluation.trajectory import Trajectory, write_tum
from loftr_ros.files import make_folder, write_image
from loftr_ros.geometry.camera import Camera
from loftr_ros.odometry import VisualOdometry
from loftr_ros.uses.formats import image_name, write_colmap, write_ply
from loftr_ros.uses.inputs import add_matcher_arguments, matcher_of
from loftr_ros.uses.keyframes import Gatherer, View
from loftr_ros.uses.point_picture import point_picture
from loftr_ros.uses.reconstruction import Filter, triangulate_views


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="reconstruct", description=__doc__)
    parser.add_argument("input", metavar="INPUT", help="sequence folder, folder of images, video, or bag")
    parser.add_argument("--output", type=Path, default=Path("reconstruction"), metavar="DIR", help="(reconstruction)")
    parser.add_argument("--camera-info", type=Path, metavar="FILE", help="calibration, where the input has none")
    parser.add_argument("--image-topic", default="", metavar="TOPIC", help="of a bag with several cameras")
    parser.add_argument("--rate", type=float, default=10.0, metavar="HZ", help="of an image folder without times.txt")
    parser.add_argument("--scale", choices=SCALE_SOURCES[:2], default="none", help="depth: metres from depth images")
    parser.add_argument("--views", type=int, default=3, metavar="N", help="keyframes that must see a point (3)")
    parser.add_argument(
        "--error", type=float, metavar="PX", help="largest reprojection error (1.5; in proportion above 640 pixels)"
    )
    parser.add_argument("--parallax", type=float, default=1.0, metavar="DEG", help="least angle between rays (1)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_matcher_arguments(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    finite = all(math.isfinite(value or 0.0) for value in (options.rate, options.error, options.parallax))
    positive = options.rate > 0 and (options.error is None or options.error > 0)
    if options.views < 2 or not positive or not options.parallax >= 0 or not finite:
        raise InputError("--views must be at least 2, --error and --rate greater than 0, and --parallax at least 0.")
    scale = config_from_dict({"scale": options.scale}).scale
    recording = open_recording(
        options.input,
        Options(options.camera_info, options.rate, options.image_topic, options.scale == "depth"),
    )
    make_folder(options.output)
    # The given calibration is what COLMAP gets: poses have to fit it.
    settings = OdometryConfig(refine_calibration=False)
    odometry = VisualOdometry(matcher_of(options), recording.camera, settings, scale)
    # 1. Keyframes and their tracks
    views, failure = gather(recording, odometry, options.quiet)
    # 2. Points
    error_px = options.error or default_error_px(recording.camera)
    keep = Filter(error_px=error_px, views=options.views, parallax_deg=options.parallax)
    cloud = triangulate_views(views, recording.camera, keep)
    if len(cloud.points) == 0:
        raise failure or InputError(f"No point of {options.input} could be triangulated: does the camera move enough?")
    # 3. Results
    write_ply(options.output / "points.ply", cloud.points, cloud.colours)
    write_colmap(options.output / "sparse", recording.camera, views, cloud)
    for view in views:
        write_image(options.output / "images" / image_name(view), view.image)
    poses = [view.known.pose_world_camera for view in views]
    write_tum(options.output / "keyframes_tum.txt", Trajectory([view.stamp_ns for view in views], poses))
    write_image(options.output / "points.png", point_picture(cloud.points, cloud.colours, poses))
    error = float(np.sqrt(np.mean(cloud.error_px**2)))
    print(
        f"{len(cloud.points)} points from {len(views)} keyframes, {len(cloud.point) / len(cloud.points):.1f} views each"
    )
    print(f"reprojection error {error:.2f} px; lengths are {'metres' if options.scale == 'depth' else 'arbitrary'}")
    print(f"points.ply, points.png, sparse/ (COLMAP) and images/ in {options.output}")
    if failure is not None:
        raise failure
    return 0


def default_error_px(camera: Camera) -> float:
    """LoFTR sees larger images shrunk to a longer side of 640 pixels, unless told otherwise."""
    return Filter.error_px * max(1.0, max(camera.width, camera.height) / 640)


def gather(
    recording: Recording, odometry: VisualOdometry, quiet: bool
) -> tuple[list[View], LoftrRosError | None]:
    """Run the odometry over a recording and gather its keyframes; and what ended the recording early, or None."""
    gatherer = Gatherer(odometry, colour_reader(recording))
    failure: LoftrRosError | None = None
    try:
        for frame in cli.progress(recording.frames(), len(recording) or None, "reconstruct", quiet):
            check_size(frame, recording.camera)
            gatherer.add(frame, odometry.process(frame))
    except LoftrRosError as error:
        failure = error
    return gatherer.finish(), failure


def colour_reader(recording: Recording) -> Callable[[int], NDArray[np.uint8] | None]:
    """The colour image of a stamp, for folders and videos; bags give their grey images only."""
    if isinstance(recording, FolderRecording):
        paths = dict(zip(recording.stamps_ns, recording.images))
        return lambda stamp: read_colour(paths[stamp])
    if isinstance(recording, VideoRecording):
        return _VideoColours(recording.path)
    return lambda stamp: None


class _VideoColours:
    """Colour frames of a video, asked for in the order of their stamps."""

    def __init__(self, path: Path) -> None:
        self._video = cv2.VideoCapture(str(path))
        self._rate = self._video.get(cv2.CAP_PROP_FPS)
        self._next = 0

    def __call__(self, stamp_ns: int) -> NDArray[np.uint8] | None:
        wanted = round(stamp_ns * self._rate / 1e9)
        while self._next < wanted:
            self._video.grab()
            self._next += 1
        self._next += 1
        found, image = self._video.read()
        return image if found else None


def entry_point() -> int:
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(entry_point())
