"""Keyframe odometry: frames in, Estimates out. Imports neither torch nor ROS; the matcher is an argument."""

from loftr_ros.odometry.odometry import VisualOdometry

__all__ = ["VisualOdometry"]
