# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Publishers of the node."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry, Path
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, PointCloud2
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from loftr_ros.config import Config
from loftr_ros.errors import InputError
from loftr_ros.geometry.camera import Camera
from loftr_ros.odometry.keyframe import Keyframe
from loftr_ros.pictures import match_picture
from loftr_ros.ros import conversions
from loftr_ros.ros.conversions import BaseState
from loftr_ros.ros.pose_log import PoseFile, PoseLog
from loftr_ros.ros.saving import path_inside
from loftr_ros.types import Array, Estimate, Frame
from loftr_ros.viewer import Viewer

_DEPTH = 10
_WARN_EVERY_S = 5.0


@dataclass(frozen=True)
class Result:
    """What one frame gave.

    Attributes:
        header: of its image message.
        matched: the keyframe that the estimate's matches start from; None when it is gone.
        keyframe: the present keyframe.
        camera: of the frame and its keyframes.
        pose_base_camera: [4, 4] the extrinsics.
        odometry_ms: time that matcher and odometry took.
    """

    estimate: Estimate
    frame: Frame
    header: Header
    matched: Keyframe | None
    keyframe: Keyframe | None
    camera: Camera
    pose_base_camera: Array
    odometry_ms: float


class Rate:
    """Says yes at most so often."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self, rate_hz: float) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + 1.0 / rate_hz
        return True


class Outputs:
    """Turns Estimates into messages and sends them; what costs time, only while someone listens.

    Attributes:
        log: the poses published since the start or the last reset.

    Raises InputError where the file of the poses cannot be opened.
    """

    def __init__(self, node: Node, config: Config, viewer: Viewer | None = None) -> None:
        self.config = config
        self.log = PoseLog()
        output = config.output
        self._file = None
        if output.pose_log_file:
            self._file = PoseFile(path_inside(output.trajectory_folder, output.pose_log_file))
        self._viewer = viewer
        self._node = node
        self._publishers: list[Any] = []
        self._odometry = self._publisher(Odometry, "odom", _DEPTH)
        self._tf = self._publisher(TFMessage, "/tf", 100) if config.frames.publish_tf else None
        self._path = self._publisher(Path, "path", 1)
        self._picture = self._publisher(ImageMessage, "~/matches", 1)
        self._compressed = self._publisher(CompressedImage, "~/matches/compressed", 1)
        self._matches = self._publisher(PointCloud2, "~/match_array", _DEPTH)
        self._points = self._publisher(PointCloud2, "~/points", 1)
        self._status = self._publisher(DiagnosticStatus, "~/status", _DEPTH)
        self._poses: deque[PoseStamped] = deque(maxlen=config.output.path_length)
        self._path_rate, self._picture_rate, self._points_rate = Rate(), Rate(), Rate()

    def _publisher(self, kind: Any, topic: str, depth: int) -> Any:
        options = QoSOverridingOptions.with_default_policies()
        publisher = self._node.create_publisher(kind, topic, depth, qos_overriding_options=options)
        self._publishers.append(publisher)
        return publisher

    def destroy(self) -> None:
        if self._file is not None:
            self._file.close()
        while self._publishers:
            self._node.destroy_publisher(self._publishers.pop())

    @property
    def odom_frame(self) -> str:
        return self.config.frames.prefix + self.config.frames.odom

    @property
    def base_frame(self) -> str:
        return self.config.frames.prefix + self.config.frames.base

    def forget(self) -> None:
        """A new trajectory begins."""
        self.log.clear()
        self._poses.clear()
        with self._complaining():
            if self._file is not None:
                self._file.begin()

    @contextmanager
    def _complaining(self) -> Iterator[None]:
        """A full disk must not end the odometry."""
        try:
            yield
        except InputError as error:
            self._node.get_logger().error(f"A pose is not logged: {error}", throttle_duration_sec=_WARN_EVERY_S)

    def publish(self, result: Result) -> None:
        """All that the result has, stamped with the image's stamp."""
        if result.estimate.pose_world_camera is not None:
            state = conversions.base_state(result.estimate, result.pose_base_camera)
            self.log.add(result.frame.stamp_ns, state.pose_odom_base)
            header = Header(stamp=result.header.stamp, frame_id=self.odom_frame)
            self._publish_pose(state, header)
            with self._complaining():
                if self._file is not None:
                    self._file.add(result.frame.stamp_ns, state.pose_odom_base)
            self._publish_points(result, header)
        if self._matches.get_subscription_count():
            self._matches.publish(conversions.matches_message(result.estimate, result.header))
        self._publish_picture(result)
        if self._viewer is not None:
            self._viewer.show(
                result.estimate, result.frame.image, result.matched, result.keyframe, odometry_ms=result.odometry_ms
            )

    def _publish_pose(self, state: BaseState, header: Header) -> None:
        self._odometry.publish(conversions.odometry_message(state, header, self.base_frame))
        if self._tf is not None:
            transform = conversions.transform_message(state, header, self.base_frame, self.config.frames.invert_tf)
            self._tf.publish(TFMessage(transforms=[transform]))
        if not self._path.get_subscription_count():
            self._poses.clear()
            return
        if self._poses:
            self._poses.append(conversions.stamped_pose(header, *self.log.last(1)))
        else:  # someone has begun to listen
            stamps, rows = self.log.last(self.config.output.path_length)
            self._poses.extend(conversions.stamped_pose(header, [s], r[None]) for s, r in zip(stamps, rows))
        if self._path_rate.due(self.config.output.path_rate_hz):
            self._path.publish(Path(header=header, poses=list(self._poses)))

    def _publish_points(self, result: Result, header: Header) -> None:
        if result.keyframe is None or not self._points.get_subscription_count():
            return
        if self._points_rate.due(self.config.output.path_rate_hz):
            message = conversions.points_message(result.keyframe, result.camera, result.pose_base_camera, header)
            self._points.publish(message)

    def _publish_picture(self, result: Result) -> None:
        """The match picture, drawn only for subscribers and not more often than the parameter says."""
        raw, compressed = (p.get_subscription_count() for p in (self._picture, self._compressed))
        if result.matched is None or not (raw or compressed):
            return
        if not self._picture_rate.due(self.config.output.picture_rate_hz):
            return
        keyframe, frame = result.matched.frame.image, result.frame.image
        picture = match_picture(keyframe, frame, result.estimate, self.config.output.picture_width)
        if raw:
            self._picture.publish(conversions.picture_message(picture, result.header))
        if compressed:
            self._compressed.publish(conversions.compressed_message(picture, result.header))

    def publish_status(self, status: DiagnosticStatus) -> None:
        self._status.publish(status)
