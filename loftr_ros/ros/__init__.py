# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The ROS 2 node: the only folder that imports rclpy and messages."""

from loftr_ros.allocator import use_one_arena

use_one_arena()  # here, since it must come before numpy, rclpy and the like, which start threads
