# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Visual odometry for ROS 2 from LoFTR matches: camera frames in; poses, TF and match pictures out."""

__version__ = "0.1.0"
