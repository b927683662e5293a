# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The poses of a run, in little memory."""

from __future__ import annotations

import array
import threading

import numpy as np

from loftr_ros.evaluation.trajectory import Trajectory
from loftr_ros.geometry.se3 import pose_from_xyz_quat, xyz_quat
from loftr_ros.types import Array

_MOST = 2_000_000  # 18 hours at 30 Hz, in 130 MB


class PoseLog:
    """pose_odom_base by stamp: 64 bytes each. One thread adds, others read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self._stamps, self._values = array.array("q"), array.array("d")

    def add(self, stamp_ns: int, pose: Array) -> None:
        with self._lock:
            if len(self._stamps) >= _MOST:  # the oldest tenth goes
                del self._stamps[: _MOST // 10], self._values[: 7 * (_MOST // 10)]
            self._stamps.append(stamp_ns)
            self._values.extend(xyz_quat(pose))

    def __len__(self) -> int:
        return len(self._stamps)

    def last(self, count: int) -> tuple[list[int], Array]:
        """Stamps and [N, 7] x y z qx qy qz qw of the last poses."""
        with self._lock:
            return self._stamps[-count:].tolist(), np.array(self._values[-7 * count :]).reshape(-1, 7)

    def trajectory(self) -> Trajectory:
        stamps, values = self.last(_MOST)
        return Trajectory(stamps, [pose_from_xyz_quat(row) for row in values])
