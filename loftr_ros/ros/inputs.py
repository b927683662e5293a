# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Subscriptions of the node: everything that a frame needs, gathered from the topics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import TwistWithCovarianceStamped
from nav_msgs.msg import Odometry
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from loftr_ros.config import Config
from loftr_ros.errors import GeometryError, InputError
from loftr_ros.geometry.camera import camera_from_info, load_camera
from loftr_ros.ros import conversions
from loftr_ros.ros.lateness import Period
from loftr_ros.ros.mailbox import Mailbox, StampedBuffer
from loftr_ros.ros.wheels import WheelWay
from loftr_ros.types import Image

_RELIABLE_QUEUE = 300
_WHEEL_QUEUE = 50
_DEPTH_QUEUE = 10
_DEPTH_TOLERANCE_NS = 20_000_000
_WAIT_S = 0.1  # for what belongs to a frame and comes on another topic
_WAIT_RELIABLE_S = 1.0  # where no frame may be lost
_WARN_EVERY_S = 5.0


@dataclass(frozen=True)
class Arrival:
    """An image message and when it came, on the monotonic clock."""

    message: ImageMessage | CompressedImage
    seconds: float

    @property
    def stamp_ns(self) -> int:
        return conversions.stamp_to_ns(self.message.header.stamp)

    @property
    def frame_id(self) -> str:
        return self.message.header.frame_id


class Inputs:
    """Callbacks on the executor's thread put messages away; the worker's thread takes them.

    Attributes:
        frames: the newest image (all of them with `reliable`).
        calibration: the camera; None until it is known.
        mask: [H, W] uint8 from the topic `mask`, 0 where the image is ignored; None until one has come.
        paused: images are not taken.
        received: number of images that have come.
        period: of the images that have come.
        refusals: by kind, the last message that was refused: a sentence, and when, on the monotonic clock.

    Raises InputError when the calibration file cannot be used.
    """

    def __init__(self, node: Node, config: Config) -> None:
        self._node, self._config = node, config
        file = config.input.camera_info_file
        self.calibration = load_camera(file) if file else None
        self._calibration_is_fixed = bool(file)
        self.frames: Mailbox[Arrival] = Mailbox(_RELIABLE_QUEUE if config.input.reliable else 1)
        self.mask: Image | None = None
        self.paused = False
        self.received = 0
        self.period = Period()
        self.refusals: dict[str, tuple[str, float]] = {}
        self._depths: StampedBuffer[ImageMessage] = StampedBuffer(_DEPTH_QUEUE)
        self._wheels = WheelWay()
        self._subscriptions: list[Any] = []

    @property
    def image_topic(self) -> str:
        """The full name; compressed images come on a topic below the one of raw images (image_transport)."""
        name = self._node.resolve_topic_name("image")
        return f"{name}/compressed" if self._config.input.image_transport == "compressed" else name

    def subscribe(self) -> None:
        self.frames.open()
        images = image_quality(self._config.input.reliable)
        compressed = self._config.input.image_transport == "compressed"
        self._listen(CompressedImage if compressed else ImageMessage, self.image_topic, self._on_image, images)
        self._listen(ImageMessage, "mask", self._on_mask, image_quality(False))
        if not self._calibration_is_fixed:
            self._listen(CameraInfo, "camera_info", self._on_camera_info, images)
        if self._config.scale.source == "depth":
            # The newest may belong to an image that is still to come.
            queue = image_quality(self._config.input.reliable, _DEPTH_QUEUE)
            self._listen(ImageMessage, "depth", self._on_depth, queue)
        if self._config.scale.source == "odometry":
            wheels = image_quality(False, _WHEEL_QUEUE)
            self._listen(Odometry, "wheel_odom", self._on_wheel_odometry, wheels)
            self._listen(TwistWithCovarianceStamped, "wheel_twist", self._on_wheel_twist, wheels)

    def _listen(self, kind: Any, topic: str, callback: Any, quality: QoSProfile) -> None:
        subscription = self._node.create_subscription(
            kind, topic, callback, quality, qos_overriding_options=QoSOverridingOptions.with_default_policies()
        )
        self._subscriptions.append(subscription)

    def unsubscribe(self) -> None:
        self.frames.close()
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    # -- callbacks, on the executor's thread -----------------------------------------------------------------------

    def _on_image(self, message: ImageMessage | CompressedImage) -> None:
        self.received += 1
        arrival = Arrival(message, time.monotonic())
        self.period.add(arrival.stamp_ns)
        if not self.paused:
            self.frames.put(arrival)

    def _on_depth(self, message: ImageMessage) -> None:
        self._depths.put(conversions.stamp_to_ns(message.header.stamp), message)

    def _on_mask(self, message: ImageMessage) -> None:
        with self.refusing("A mask is refused"):
            self.mask = conversions.grey_image(message)

    def _on_wheel_odometry(self, message: Odometry) -> None:
        p = message.pose.pose.position
        with self.refusing("Wheel odometry is refused"):
            self._wheels.add_position(conversions.stamp_to_ns(message.header.stamp), np.array([p.x, p.y, p.z]))

    def _on_wheel_twist(self, message: TwistWithCovarianceStamped) -> None:
        v = message.twist.twist.linear
        with self.refusing("Wheel odometry is refused"):
            speed = float(np.linalg.norm([v.x, v.y, v.z]))
            self._wheels.add_speed(conversions.stamp_to_ns(message.header.stamp), speed)

    def _on_camera_info(self, message: CameraInfo) -> None:
        with self.refusing("camera_info is refused"):
            camera = camera_from_info(message)
            if self.calibration is not None and not camera.same_as(self.calibration):
                self._node.get_logger().warning(
                    "The calibration of the camera has changed: the map starts anew at the last pose."
                )
            self.calibration = camera

    @contextmanager
    def refusing(self, what: str) -> Iterator[None]:
        """Say what is refused and why, in the log and in `refusals`, and go on without it."""
        try:
            yield
        except (InputError, GeometryError) as error:
            text = f"{what}: {error}"
            self.refusals[what] = (text, time.monotonic())
            self._node.get_logger().error(text, throttle_duration_sec=_WARN_EVERY_S)

    def refused_within(self, seconds: float) -> str:
        """What was refused in the last seconds; "" for nothing."""
        now = time.monotonic()
        return " ".join(text for text, at in list(self.refusals.values()) if now - at < seconds)

    # -- the worker's thread ---------------------------------------------------------------------------------------

    def depth_of(self, arrival: Arrival, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        """The depth image of a frame [H, W], brought to its size; None without one that can be used.

        Waits for it, for a moment.
        """
        if self._config.scale.source != "depth":
            return None
        wait = _WAIT_RELIABLE_S if self._config.input.reliable else _WAIT_S
        message = self._depths.take(arrival.stamp_ns, _DEPTH_TOLERANCE_NS, wait)
        if message is None:
            self._node.get_logger().warning(
                f"A frame has no depth image on {self._node.resolve_topic_name('depth')}.",
                throttle_duration_sec=_WARN_EVERY_S,
            )
            return None
        if message.header.frame_id != arrival.frame_id:
            self._node.get_logger().warning(
                f"The depth images are of '{message.header.frame_id}', the images of '{arrival.frame_id}': "
                "depth must be aligned with the image.",
                throttle_duration_sec=_WARN_EVERY_S,
            )
        with self.refusing("A depth image is refused"):
            return fitted(conversions.depth_image(message), shape)
        return None

    def way_of(self, arrival: Arrival) -> float | None:
        """Metres that the wheels have travelled since the frame before; None when that is not known."""
        return self._wheels.take(arrival.stamp_ns, _WAIT_S) if self._config.scale.source == "odometry" else None


def image_quality(reliable: bool, depth: int = 1) -> QoSProfile:
    """Best effort and only the newest, as cameras publish; or reliable with a queue, for recordings."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=_RELIABLE_QUEUE if reliable else depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
    )


def fitted(depth: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A depth image in the size of its image. Raises InputError where their shapes differ."""
    if depth.shape == shape:
        return depth
    if abs(depth.shape[1] * shape[0] / (depth.shape[0] * shape[1]) - 1) > 0.02:
        raise InputError(
            f"The depth image is {depth.shape[1]}x{depth.shape[0]}, which does not fit the image of "
            f"{shape[1]}x{shape[0]}."
        )
    # The nearest: a mean of depths across an edge lies on no surface.
    return np.asarray(cv2.resize(depth, shape[::-1], interpolation=cv2.INTER_NEAREST), dtype=np.float32)
