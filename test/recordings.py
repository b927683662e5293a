# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Writes little recordings: sequence folders, videos, and bags of all kinds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from support import camera_info_yaml, pinhole, texture

START_NS = 1_700_000_000_123_456_789
PERIOD_NS = 100_000_001
BAG_KINDS = ("sqlite3", "mcap", "ros1")
STORES = {"ros1": get_typestore(Stores.ROS1_NOETIC)}
STORE2 = get_typestore(Stores.ROS2_HUMBLE)


def stamps(count: int) -> list[int]:
    return [START_NS + i * PERIOD_NS for i in range(count)]


def sliding_images(count: int, height: int = 240, width: int = 320, step: int = 12) -> list[np.ndarray]:
    """A camera that moves sideways before a wall with a nearer lower half: parallax, so that a map can start."""
    far = texture(height // 2, width + step * count, 1)
    near = texture(height - height // 2, width + 2 * step * count, 2)
    return [
        np.concatenate([far[:, i * step : i * step + width], near[:, 2 * i * step : 2 * i * step + width]])
        for i in range(count)
    ]


def write_sequence(folder: Path, images: list[np.ndarray], times: bool = True) -> Path:
    (folder / "images").mkdir(parents=True)
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / "images" / f"{i:06d}.png"), image)
    if times:
        text = "".join(f"{s // 10**9}.{s % 10**9:09d}\n" for s in stamps(len(images)))
        (folder / "times.txt").write_text(text)
    height, width = images[0].shape
    (folder / "camera_info.yaml").write_text(camera_info_yaml(width, height))
    return folder


class Bag:
    """A bag that is being written.

    Example:
        >>> with Bag(path, "mcap") as bag:
        ...     bag.image("/camera/image_raw", stamp, pixels)
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.kind, self.path = kind, path
        self.store = STORES.get(kind, STORE2)
        if kind == "ros1":
            self.path = path.with_suffix(".bag")
            self.writer = Writer1(self.path)
        else:
            plugin = StoragePlugin.MCAP if kind == "mcap" else StoragePlugin.SQLITE3
            self.writer = Writer(path, version=9, storage_plugin=plugin)
        self.connections = {}

    def __enter__(self):
        self.writer.open()
        return self

    def __exit__(self, *error) -> None:
        self.writer.close()

    def type(self, name: str):
        return self.store.types[name]

    def header(self, stamp: int):
        time = self.type("builtin_interfaces/msg/Time")(stamp // 10**9, stamp % 10**9)
        sequence = {"seq": 0} if self.kind == "ros1" else {}
        return self.type("std_msgs/msg/Header")(stamp=time, frame_id="camera", **sequence)

    def write(self, topic: str, name: str, stamp: int, message) -> None:
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, name, typestore=self.store)
        serialize = self.store.serialize_ros1 if self.kind == "ros1" else self.store.serialize_cdr
        self.writer.write(self.connections[topic], stamp, serialize(message, name))

    def image(self, topic: str, stamp: int, pixels: np.ndarray, encoding: str = "mono8", **lies) -> None:
        name = "sensor_msgs/msg/Image"
        fields = {
            "header": self.header(stamp),
            "height": pixels.shape[0],
            "width": pixels.shape[1],
            "encoding": encoding,
            "is_bigendian": 0,
            "step": pixels[0].nbytes,
            "data": np.frombuffer(pixels.tobytes(), np.uint8),
            **lies,
        }
        self.write(topic, name, stamp, self.type(name)(**fields))

    def compressed(self, topic: str, stamp: int, pixels: np.ndarray, suffix: str = ".png") -> None:
        name = "sensor_msgs/msg/CompressedImage"
        data = cv2.imencode(suffix, pixels)[1].ravel()
        self.write(topic, name, stamp, self.type(name)(self.header(stamp), suffix[1:], data))

    def camera_info(
        self, topic: str, stamp: int, width: int = 320, height: int = 240, focal: float = 300.0
    ) -> None:
        name, upper = "sensor_msgs/msg/CameraInfo", self.kind == "ros1"
        roi = self.type("sensor_msgs/msg/RegionOfInterest")(0, 0, 0, 0, False)
        matrix = pinhole(width, height, focal).matrix
        values = {"d": np.zeros(5), "k": matrix.ravel(), "r": np.eye(3).ravel(), "p": np.zeros(12)}
        values = {key.upper() if upper else key: value for key, value in values.items()}
        message = self.type(name)(
            header=self.header(stamp),
            height=height,
            width=width,
            distortion_model="plumb_bob",
            binning_x=0,
            binning_y=0,
            roi=roi,
            **values,
        )
        self.write(topic, name, stamp, message)

    def odometry(self, topic: str, stamp: int, x: float) -> None:
        name = "nav_msgs/msg/Odometry"
        geometry = {
            k: self.type(f"geometry_msgs/msg/{k}")
            for k in (
                "Point",
                "Quaternion",
                "Pose",
                "PoseWithCovariance",
                "Vector3",
                "Twist",
                "TwistWithCovariance",
            )
        }
        pose = geometry["Pose"](geometry["Point"](x, 0.0, 0.0), geometry["Quaternion"](0.0, 0.0, 0.0, 1.0))
        zero = geometry["Vector3"](0.0, 0.0, 0.0)
        message = self.type(name)(
            self.header(stamp),
            "base_link",
            geometry["PoseWithCovariance"](pose, np.zeros(36)),
            geometry["TwistWithCovariance"](geometry["Twist"](zero, zero), np.zeros(36)),
        )
        self.write(topic, name, stamp, message)


def write_bag(path: Path, kind: str, images: list[np.ndarray], compressed: bool = False) -> Path:
    """A bag with one camera; returns what a user would name."""
    with Bag(path, kind) as bag:
        for stamp, image in zip(stamps(len(images)), images):
            bag.camera_info("/camera/camera_info", stamp, image.shape[1], image.shape[0])
            if compressed:
                bag.compressed("/camera/image_raw/compressed", stamp, image)
            else:
                bag.image("/camera/image_raw", stamp, image)
    return bag.path
