# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Bags: rosbag2 (sqlite3, MCAP) and ROS 1, raw and compressed images, read without ROS."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from loftr_ros.errors import InputError, brief
from loftr_ros.evaluation.sequences import Options
from loftr_ros.files import read_yaml
from loftr_ros.geometry.camera import Camera, camera_from_info, load_camera
from loftr_ros.imaging import decode, depth_in_metres, to_grey, unpack
from loftr_ros.odometry.scale import Odometer
from loftr_ros.types import Frame, Image

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
ODOMETRY = "nav_msgs/msg/Odometry"
_MOST_DEPTH_DIFFERENCE_NS = 20_000_000
_MOST_WAITING = 4  # images that wait for their depth image


class BagRecording:
    """The images of one topic of a bag. Raises InputError where there is none, or no calibration for it."""

    groundtruth = None

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path.parent if path.suffix.lower() in (".mcap", ".db3") and _is_bag_folder(path.parent) else path
        self._options = options
        if (self.path / "metadata.yaml").is_file():  # the reader's own parser takes long to find garbage out
            read_yaml(self.path / "metadata.yaml", "metadata of the bag", InputError)
        try:
            with self._reader() as reader:
                self._topic = self._image_topic(reader)
                self._count = int(reader.topics[self._topic].msgcount)
                self._depth_topic = _depth_topic(reader) if options.need_depth else ""
                if options.odometry and options.odometry not in reader.topics:
                    raise InputError(f"The bag {path} has no topic {options.odometry}.")
                self.camera = self._camera(reader)
        except InputError:
            raise
        except Exception as error:  # the readers raise many kinds for damaged bags
            raise InputError(f"The bag {path} cannot be read: {brief(error)}.") from None

    def _reader(self) -> AnyReader:
        return AnyReader([self.path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))

    def _image_topic(self, reader: AnyReader) -> str:
        topics = {name: info.msgtype for name, info in reader.topics.items()}
        images = [n for n, kind in topics.items() if kind in (IMAGE, COMPRESSED) and "depth" not in n.lower()]
        wanted = self._options.image_topic
        if wanted:
            if topics.get(wanted) not in (IMAGE, COMPRESSED):
                raise InputError(
                    f"The bag {self.path} has no image topic {wanted}; it has {', '.join(images) or 'none'}."
                )
            return wanted
        if not images:
            raise InputError(f"The bag {self.path} has no images.")
        # Raw before compressed, and the one with most messages.
        return max(images, key=lambda n: (topics[n] == IMAGE, reader.topics[n].msgcount or 0))

    def _camera(self, reader: AnyReader) -> Camera:
        if self._options.camera_info is not None:
            camera = load_camera(self._options.camera_info)
        else:
            message = _first_message(reader, self._camera_info_topic(reader))
            camera = camera_from_info(message)
        image = self._decoded(_first_message(reader, self._topic))
        return camera.resized(image.shape[1], image.shape[0])

    def _camera_info_topic(self, reader: AnyReader) -> str:
        infos = [name for name, info in reader.topics.items() if info.msgtype == CAMERA_INFO]
        # image and camera_info lie side by side; compressed images one level deeper.
        folders = [self._topic.rsplit("/", n)[0] for n in (1, 2)]
        for name in (f"{folder}/camera_info" for folder in folders):
            if name in infos:
                return name
        if len(infos) == 1:
            return infos[0]
        raise InputError(f"The bag {self.path} has no camera_info for {self._topic}; name a file with --camera-info.")

    @staticmethod
    def _decoded(message: Any) -> Image:
        if message.__msgtype__ == COMPRESSED:
            return decode(message.data)
        return to_grey(pixels_of(message), message.encoding)

    def __len__(self) -> int:
        return self._count

    def frames(self) -> Iterator[Frame]:
        wanted = {self._topic, self._depth_topic, self._options.odometry} - {""}
        depths: deque[tuple[int, Any]] = deque(maxlen=2 * _MOST_WAITING)
        waiting: deque[Frame] = deque()
        wheels = Odometer()
        last = None
        try:
            with self._reader() as reader:
                connections = [c for c in reader.connections if c.topic in wanted]
                for connection, _, raw in reader.messages(connections):
                    message = reader.deserialize(raw, connection.msgtype)
                    stamp = stamp_ns(message)
                    if connection.topic == self._depth_topic:
                        depths.append((stamp, depth_in_metres(pixels_of(message))))
                    elif connection.topic == self._options.odometry:
                        p = message.pose.pose.position
                        wheels.add(np.array([p.x, p.y, p.z]))
                    elif last is None or stamp > last:
                        last = stamp
                        waiting.append(Frame(stamp, self._decoded(message), None, wheels.take()))
                    # A depth image may lie in the bag before or after its image.
                    while waiting and (self._is_answered(waiting[0], depths) or len(waiting) > _MOST_WAITING):
                        yield _with_depth(waiting.popleft(), depths)
                while waiting:
                    yield _with_depth(waiting.popleft(), depths)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"The bag {self.path} breaks off: {brief(error)}.") from None

    def _is_answered(self, frame: Frame, depths: deque[tuple[int, Any]]) -> bool:
        return not self._depth_topic or any(stamp >= frame.stamp_ns for stamp, _ in depths)


def pixels_of(message: Any) -> Any:
    return unpack(
        message.encoding, message.height, message.width, message.step, message.data, bool(message.is_bigendian)
    )


def stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def _is_bag_folder(folder: Path) -> bool:
    return (folder / "metadata.yaml").is_file()


def _depth_topic(reader: AnyReader) -> str:
    names = [n for n, i in reader.topics.items() if i.msgtype == IMAGE and "depth" in n.lower()]
    if not names:
        raise InputError("The bag has no depth images.")
    return max(names, key=lambda n: reader.topics[n].msgcount or 0)


def _with_depth(frame: Frame, depths: deque[tuple[int, Any]]) -> Frame:
    """The frame with the depth image nearest in time, if that is near enough."""
    if not depths:
        return frame
    stamp, depth = min(depths, key=lambda item: abs(item[0] - frame.stamp_ns))
    return replace(frame, depth=depth) if abs(stamp - frame.stamp_ns) <= _MOST_DEPTH_DIFFERENCE_NS else frame


def _first_message(reader: AnyReader, topic: str) -> Any:
    connections = [c for c in reader.connections if c.topic == topic]
    for connection, _, raw in reader.messages(connections):
        return reader.deserialize(raw, connection.msgtype)
    raise InputError(f"The topic {topic} of the bag is empty.")
