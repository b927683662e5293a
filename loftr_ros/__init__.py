# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Visual odometry for ROS 2 from LoFTR matches: camera frames in; poses, TF and match pictures out."""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    # How long torch's threads spin while they wait for each other, before they sleep: by default some milliseconds, in
    # which no other process gets their cores. To be said before torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

__version__ = "0.1.0"
