# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Recordings in, trajectories and their errors out; without ROS."""
