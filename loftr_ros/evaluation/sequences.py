# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Recordings of a camera: folders of images, videos and bags, all as frames in the order of their stamps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros.errors import InputError
from loftr_ros.evaluation.trajectory import read_table, read_times, seconds
from loftr_ros.geometry.camera import Camera, load_camera
from loftr_ros.imaging import decode, decode_as_stored, decode_colour, depth_in_metres
from loftr_ros.types import Frame

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
BAG_SUFFIXES = (".bag", ".mcap", ".db3")


class Recording(Protocol):
    """Frames with one camera. `camera` is for frames of the size that they have."""

    @property
    def camera(self) -> Camera: ...

    @property
    def groundtruth(self) -> Path | None: ...

    def __len__(self) -> int: ...

    def frames(self) -> Iterator[Frame]: ...


def check_size(frame: Frame, camera: Camera) -> None:
    """Raises InputError where a frame or its depth image has another size than the recording began with."""
    images = {"image": frame.image, "depth image": frame.depth}
    for name, image in images.items():
        if image is not None and image.shape != (camera.height, camera.width):
            raise InputError(
                f"The {name} at {seconds(frame.stamp_ns)} s is {image.shape[1]}x{image.shape[0]},"
                f" not {camera.width}x{camera.height} as the first image."
            )


@dataclass(frozen=True)
class Options:
    """What a recording may not say itself.

    Attributes:
        camera_info: calibration file.
        rate_hz: frames a second of an image folder without times.
        image_topic: of a bag with several cameras.
        need_depth: read the depth images too.
        odometry: TUM file of wheel odometry, or the topic of it in a bag.
    """

    camera_info: Path | None = None
    rate_hz: float = 10.0
    image_topic: str = ""
    need_depth: bool = False
    odometry: str = ""


def open_recording(path: str | Path, options: Options = Options()) -> Recording:
    """Open an image folder, a video or a bag. Raises InputError, one sentence, where that is impossible."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if path.suffix.lower() in BAG_SUFFIXES or (path / "metadata.yaml").is_file():
        from loftr_ros.evaluation.bags import BagRecording  # rosbags is loaded only for bags

        return BagRecording(path, options)
    if path.is_dir():
        return open_folder(path, options)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoRecording(path, options)
    raise InputError(f"{path} is neither a folder of images, a video ({' '.join(VIDEO_SUFFIXES)}) nor a bag.")


@dataclass(frozen=True)
class FolderRecording:
    """Images in a folder; see open_folder."""

    images: list[Path]
    stamps_ns: list[int]
    camera: Camera
    groundtruth: Path | None = None
    depths: list[Path] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def frames(self) -> Iterator[Frame]:
        for i, (stamp, path) in enumerate(zip(self.stamps_ns, self.images)):
            yield Frame(
                stamp,
                read_image(path),
                read_depth(self.depths[i]) if self.depths else None,
                self.distances[i] if self.distances else None,
            )


def open_folder(path: Path, options: Options) -> FolderRecording:
    """A sequence folder (images/, times.txt, camera_info.yaml, groundtruth_tum.txt, depth/), or a folder of images."""
    folder = path / "images" if (path / "images").is_dir() else path
    images = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise InputError(f"There are no images in {folder}.")
    times = path / "times.txt"
    if not 0 < options.rate_hz <= 10000:
        raise InputError(f"The rate must be greater than 0, and at most 10000 a second, not {options.rate_hz:g}.")
    period = 1e9 / options.rate_hz
    stamps = read_times(times) if times.is_file() else [round(i * period) for i in range(len(images))]
    if len(stamps) != len(images):
        raise InputError(f"{times} has {len(stamps)} times for {len(images)} images.")
    if any(b <= a for a, b in zip(stamps, stamps[1:])):
        raise InputError(f"The times in {times} do not increase.")
    groundtruth = path / "groundtruth_tum.txt"
    height, width = read_image(images[0]).shape
    return FolderRecording(
        images=images,
        stamps_ns=stamps,
        camera=_camera(path, options).resized(width, height),
        groundtruth=groundtruth if groundtruth.is_file() else None,
        depths=_depth_images(path / "depth", len(images)) if options.need_depth else [],
        distances=_distances(Path(options.odometry), stamps) if options.odometry else [],
    )


def _camera(path: Path, options: Options) -> Camera:
    file = options.camera_info or path / "camera_info.yaml"
    if not file.is_file():
        raise InputError(f"There is no calibration {file}; name one with --camera-info.")
    return load_camera(file)


def _depth_images(folder: Path, count: int) -> list[Path]:
    depths = sorted(folder.glob("*.png")) if folder.is_dir() else []
    if len(depths) != count:
        raise InputError(f"There are {len(depths)} depth images in {folder} for {count} images.")
    return depths


def _distances(path: Path, stamps_ns: list[int]) -> list[float]:
    """Way travelled between consecutive stamps along a TUM trajectory of wheel odometry."""
    table = read_table(path, "odometry file", 4)
    if np.any(np.diff(table[:, 0]) <= 0):
        raise InputError(f"The times in the odometry file {path} do not increase.")
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(table[:, 1:], axis=0), axis=1))])
    at = np.interp(np.array(stamps_ns) * 1e-9, table[:, 0], way)
    return [0.0, *np.diff(at).tolist()]


def read_image(path: Path) -> NDArray[np.uint8]:
    """[H, W] grey. Raises InputError."""
    return _read(path, "image", decode)


def read_depth(path: Path) -> NDArray[np.float32]:
    """[H, W] metres. Raises InputError."""
    image = _read(path, "depth image", decode_as_stored)
    if image.ndim != 2 or image.dtype != np.uint16:
        raise InputError(f"The depth image {path} must be a 16-bit grey PNG, in millimetres.")
    return depth_in_metres(image)


def read_colour(path: Path) -> NDArray[np.uint8]:
    """[H, W, 3] bgr. Raises InputError."""
    return _read(path, "image", decode_colour)


def _read(path: Path, what: str, decoder: Callable[[bytes], NDArray[Any]]) -> NDArray[Any]:
    try:
        return decoder(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"The {what} {path} does not exist.") from None
    except OSError as error:
        raise InputError(f"The {what} {path} cannot be read: {error.strerror or error}.") from None
    except InputError as error:
        raise InputError(f"The {what} {path} cannot be read: {error}") from None


class VideoRecording:
    """A video file; needs a calibration."""

    groundtruth = None

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        video = self._open()
        self._count = max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        self._fps = video.get(cv2.CAP_PROP_FPS)
        if not 0 < self._fps < 10000:
            raise InputError(f"The video {path} does not tell its frame rate.")
        size = int(video.get(cv2.CAP_PROP_FRAME_WIDTH)), int(video.get(cv2.CAP_PROP_FRAME_HEIGHT))
        video.release()
        self.camera = _camera(path.parent, options).resized(*size)

    def _open(self) -> cv2.VideoCapture:
        video = cv2.VideoCapture(str(self.path))
        if not video.isOpened():
            raise InputError(f"The video {self.path} cannot be read.")
        return video

    def __len__(self) -> int:
        return self._count

    def frames(self) -> Iterator[Frame]:
        video = self._open()
        count = 0
        while True:
            more, image = video.read()
            if not more:
                break
            yield Frame(round(count * 1e9 / self._fps), cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
            count += 1
        video.release()
        if count == 0:
            raise InputError(f"The video {self.path} has no readable frame.")
