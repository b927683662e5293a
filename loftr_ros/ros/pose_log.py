# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The poses of a run, in little memory."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import threading
from pathlib import Path

import numpy as np

from loftr_ros.errors import InputError
from loftr_ros.evaluation.trajectory import Trajectory, tum_line
from loftr_ros.files import make_folder
from loftr_ros.geometry.se3 import pose_from_xyz_quat, xyz_quat
from loftr_ros.types import Array

_LONGEST_LINE = 4096  # bytes
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


class PoseFile:
    """Poses added to a TUM file one by one: whatever ends the process, the file is whole up to the last of them.

    What is there already stays, but for a line that was cut off; a comment line says where another trajectory begins.

    Args:
        path: of the file; its folder is made.

    Raises InputError when it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path.parent)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._end = self._whole_lines()
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror or error}.") from None
        self.begin()

    def _whole_lines(self) -> int:
        """Bytes up to the last end of a line."""
        size = os.fstat(self._file).st_size
        tail = os.pread(self._file, _LONGEST_LINE, max(size - _LONGEST_LINE, 0))
        return size - len(tail) + tail.rfind(b"\n") + 1

    def begin(self) -> None:
        """Say that another trajectory begins."""
        self._add("# timestamp tx ty tz qx qy qz qw")

    def add(self, stamp_ns: int, pose: Array) -> None:
        """Raises InputError where the pose cannot be written; the file stays whole, and the next one may succeed."""
        self._add(tum_line(stamp_ns, pose))

    def _add(self, line: str) -> None:
        data = line.encode() + b"\n"
        try:
            written = os.pwrite(self._file, data, self._end)
            if written < len(data):  # the disk is full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise InputError(f"{self.path} cannot be written: {error.strerror or error}.") from None
        self._end += len(data)

    def close(self) -> None:
        os.close(self._file)
