# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""`ros2 run loftr_ros benchmark`: the benchmark of loftr_ros.evaluation, with the node's messages."""

from __future__ import annotations

import array
import sys
from collections.abc import Sequence

import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from loftr_ros import cli
from loftr_ros.config import config_from_dict
from loftr_ros.evaluation import benchmark
from loftr_ros.odometry import VisualOdometry
from loftr_ros.ros import conversions
from loftr_ros.ros.outputs import Outputs, Result
from loftr_ros.types import Estimate, Frame, Image


class NodeMessages:
    """Images as a camera sends them, and estimates as vo_node publishes them."""

    def __init__(self, node: Node) -> None:
        self._config = config_from_dict({"publish_tf": False})  # /tf belongs to the robot
        self._outputs = Outputs(node, self._config)

    def message(self, image: Image) -> ImageMessage:
        height, width = image.shape
        return ImageMessage(
            height=height, width=width, encoding="mono8", step=width, data=array.array("B", image.tobytes())
        )

    def convert(self, message: ImageMessage) -> Image:
        return conversions.grey_image(message)

    def publish(self, frame: Frame, estimate: Estimate, odometry: VisualOdometry) -> None:
        result = Result(
            estimate=estimate,
            frame=frame,
            header=Header(stamp=conversions.ns_to_stamp(frame.stamp_ns)),
            matched=odometry.keyframe,
            keyframe=odometry.keyframe,
            camera=odometry.refined_camera,
            pose_base_camera=np.eye(4),
            odometry_ms=0.0,
        )
        self._outputs.publish(result)
        self._outputs.publish_status(conversions.status_message(estimate, self._config, "benchmark", {}))


def main(arguments: Sequence[str]) -> int:
    rclpy.init(args=[])
    try:
        node = Node("benchmark", namespace="loftr_ros_benchmark")
        return benchmark.main(arguments, NodeMessages(node))
    finally:
        rclpy.try_shutdown()


def entry_point() -> int:
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(entry_point())
