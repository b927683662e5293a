# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Keyframe odometry: frames in, Estimates out. Imports neither torch nor ROS; the matcher is an argument."""

from loftr_ros.odometry.odometry import VisualOdometry

__all__ = ["VisualOdometry"]
