# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Matchers side by side on the same pairs of images: what each finds, how right it is, and how long it takes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros.config import MATCHERS
from loftr_ros.errors import InputError, LoftrRosError
from loftr_ros.evaluation.pairs import pose_errors_deg, poses_at
from loftr_ros.evaluation.peers import PEERS, load_peer
from loftr_ros.evaluation.sequences import Options, open_folder, read_colour
from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.se3 import inverse
from loftr_ros.matching import Matcher, load_matcher
from loftr_ros.pictures import Picture, pair_picture
from loftr_ros.types import Array, Image, Matches
from loftr_ros.uses.inputs import camera_of, images_in
from loftr_ros.uses.relative_pose import relative_pose
from loftr_ros.uses.similarity import verify

# The classical ones first, ours, then peers.
DEFAULT = ("orb", "sift", "tiny", "outdoor", *PEERS)
_REPEATS = 3


@dataclass(frozen=True)
class Pair:
    """Two images to match.

    Attributes:
        name: for the heading.
        image0, image1: [H, W, 3] bgr.
        camera: of both, for images of this size; None where it is not known.
        pose_0_1: [4, 4] the true pose of camera 1 in camera 0; None where it is not known.
    """

    name: str
    image0: NDArray[np.uint8]
    image1: NDArray[np.uint8]
    camera: Camera | None = None
    pose_0_1: Array | None = None


@dataclass(frozen=True)
class Outcome:
    """What a matcher made of a pair.

    Attributes:
        inliers: number of matches that agree with one epipolar geometry.
        rotation_deg, direction_deg: errors of the pose; None where there is no truth, or no pose was found.
        found_pose: whether there was one; None where the camera is not known.
        milliseconds: the fastest of three runs of features of both images and matching.
    """

    matcher: str
    matches: int
    inliers: int
    rotation_deg: float | None
    direction_deg: float | None
    found_pose: bool | None
    milliseconds: float
    picture: Picture


def load_pairs(paths: list[Path], gap: int, count: int, camera_info: Path | None, max_side: int) -> list[Pair]:
    """The pairs of two images, of a sequence folder, or of a folder with two images in each of its subfolders.

    Args:
        gap: frames between the two of a pair of a sequence.
        count: most pairs, evenly spread.
        max_side: images are shrunk to this longer side (0: never), so that all matchers see the same.

    Raises:
        InputError: something cannot be read, or there are no pairs.
    """
    if len(paths) == 2:
        return [_shrunk(_pair(paths[0], paths[1], camera_info), max_side)]
    (folder,) = paths
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name two images, or a folder of pairs.")
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in ("images", "depth"))
    twos = [(path, images) for path in subfolders if len(images := _images(path)) == 2]
    if twos:
        chosen = [_pair(images[0], images[1], camera_info, path.name) for path, images in _spread(twos, count)]
    else:
        images = images_in(folder / "images" if (folder / "images").is_dir() else folder)
        starts = _spread(list(range(len(images) - gap)), count)
        if not starts:
            raise InputError(f"{folder} has only {len(images)} images: none are {gap} apart.")
        chosen = [_pair(images[i], images[i + gap], camera_info) for i in starts]
    return [_shrunk(pair, max_side) for pair in chosen]


def _images(folder: Path) -> list[Path]:
    try:
        return images_in(folder)
    except InputError:
        return []


def _spread(items: list, count: int) -> list:  # type: ignore[type-arg]
    """At most `count` of the items, evenly chosen."""
    if len(items) <= count:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, count).astype(int)]


def _pair(path0: Path, path1: Path, camera_info: Path | None, name: str = "") -> Pair:
    image0, image1 = read_colour(path0), read_colour(path1)
    camera = camera_of(path0, image0.shape[1], image0.shape[0], camera_info)
    if image0.shape != image1.shape:
        camera = None  # two cameras: without a calibration of the second
    return Pair(name or f"{path0.name} and {path1.name}", image0, image1, camera, true_pose(path0, path1))


def true_pose(path0: Path, path1: Path) -> Array | None:
    """Pose of camera 1 in camera 0 where both images are of one sequence with ground truth; else None."""
    folder = path0.parent.parent if path0.parent.name == "images" else path0.parent
    groundtruth = folder / "groundtruth_tum.txt"
    if path1.parent != path0.parent or not groundtruth.is_file():
        return None
    recording = open_folder(folder, Options())
    numbers = [recording.images.index(path) for path in (path0, path1)]
    pose0, pose1 = poses_at([recording.stamps_ns[i] for i in numbers], groundtruth)
    return inverse(pose0) @ pose1


def _shrunk(pair: Pair, max_side: int) -> Pair:
    images = []
    for image in (pair.image0, pair.image1):
        ratio = max_side / max(image.shape) if max_side else 1.0
        size = (round(image.shape[1] * ratio), round(image.shape[0] * ratio))
        images.append(image if ratio >= 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    camera = None if pair.camera is None else pair.camera.resized(images[0].shape[1], images[0].shape[0])
    return Pair(pair.name, images[0], images[1], camera, pair.pose_0_1)


def available(names: tuple[str, ...]) -> tuple[list[Matcher], dict[str, str]]:
    """Matchers by name, and for those that cannot be had the reason.

    Raises:
        InputError: there is no matcher of that name.
    """
    found, missing = [], {}
    for name in names:
        if name not in (*MATCHERS, *PEERS):
            raise InputError(f"There is no matcher '{name}'; there are {', '.join((*MATCHERS, *PEERS))}.")
        try:
            options = {} if name in ("sift", "orb") else {"max_side": 0}  # the images are shrunk already
            found.append(load_peer(name) if name in PEERS else load_matcher(name, **options))
        except LoftrRosError as error:
            missing[name] = str(error)
    return found, missing


def compare(matcher: Matcher, pair: Pair, picture_width: int = 1000) -> Outcome:
    """Match a pair, judge the matches, draw them."""
    grey0, grey1 = (cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in (pair.image0, pair.image1))
    matches, milliseconds = _timed(matcher, grey0, grey1)
    rotation_deg = direction_deg = found_pose = None
    if pair.camera is None:
        inliers = verify(matches, grey0.shape)
    else:
        pose = relative_pose(matches, pair.camera)
        inliers, found_pose = pose.inliers, pose.pose_0_1 is not None
        if pair.pose_0_1 is not None and pose.pose_0_1 is not None:
            rotation_deg, direction_deg = pose_errors_deg(inverse(pose.pose_0_1), inverse(pair.pose_0_1))
    return Outcome(
        matcher=matcher.name,
        matches=len(matches),
        inliers=int(inliers.sum()),
        rotation_deg=rotation_deg,
        direction_deg=direction_deg,
        found_pose=found_pose,
        milliseconds=milliseconds,
        picture=pair_picture(pair.image0, pair.image1, matches, inliers, picture_width),
    )


def _timed(matcher: Matcher, image0: Image, image1: Image) -> tuple[Matches, float]:
    """Matches and the fastest of some runs: the first one also sets up caches, and others may use the machine."""
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        matches = matcher.match(image0, image1)
        times.append(time.perf_counter() - started)
    return matches, 1e3 * min(times)
