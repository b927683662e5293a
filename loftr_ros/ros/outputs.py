"""Publishers of the node."""

from __future__ import annotations

import time
from collections import deque

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry, Path
from rclpy.node import Node
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from loftr_ros.config import Config
from loftr_ros.pictures import match_picture
from loftr_ros.ros import conversions
from loftr_ros.types import Array, Estimate, Image

_DEPTH = 10


class Outputs:
    """Turns Estimates into messages and sends them."""

    def __init__(self, node: Node, config: Config) -> None:
        self.config = config
        self._node = node
        self._odometry = node.create_publisher(Odometry, "odom", _DEPTH)
        self._tf = node.create_publisher(TFMessage, "/tf", 100) if config.frames.publish_tf else None
        self._path = node.create_publisher(Path, "path", 1)
        self._picture = node.create_publisher(ImageMessage, "~/matches", 1)
        self._status = node.create_publisher(DiagnosticStatus, "~/status", _DEPTH)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self._poses: deque[PoseStamped] = deque(maxlen=config.output.path_length)
        self._next_path = self._next_picture = 0.0

    def forget_path(self) -> None:
        self._poses.clear()

    def publish_pose(self, estimate: Estimate, header: Header, pose_base_camera: Array) -> None:
        """Odometry, TF and path, all stamped with the image's stamp. The Estimate must have a pose."""
        frames = self.config.frames
        header = Header(stamp=header.stamp, frame_id=frames.odom)
        state = conversions.base_state(estimate, pose_base_camera)
        self._odometry.publish(conversions.odometry_message(state, header, frames.base))
        if self._tf is not None:
            self._tf.publish(TFMessage(transforms=[conversions.transform_message(state, header, frames.base)]))
        self._poses.append(conversions.stamped_pose(state, header))
        now = time.monotonic()
        if now >= self._next_path and self._path.get_subscription_count():
            self._next_path = now + 1.0 / self.config.output.path_rate_hz
            self._path.publish(Path(header=header, poses=list(self._poses)))

    def publish_picture(self, keyframe: Image, frame: Image, estimate: Estimate, header: Header) -> None:
        """The match picture, drawn only for subscribers and not more often than the parameter says."""
        now = time.monotonic()
        if now < self._next_picture or not self._picture.get_subscription_count():
            return
        self._next_picture = now + 1.0 / self.config.output.picture_rate_hz
        picture = match_picture(keyframe, frame, estimate, self.config.output.picture_width)
        self._picture.publish(conversions.picture_message(picture, header))

    def publish_status(self, status: DiagnosticStatus) -> None:
        self._status.publish(status)

    def publish_diagnostics(self, status: DiagnosticStatus) -> None:
        stamp = self._node.get_clock().now().to_msg()
        self._diagnostics.publish(DiagnosticArray(header=Header(stamp=stamp), status=[status]))
