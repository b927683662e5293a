# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Trajectory files: TUM (`timestamp tx ty tz qx qy qz qw`) and KITTI (3x4 matrices, row by row)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loftr_ros.errors import InputError, brief
from loftr_ros.files import write_atomically
from loftr_ros.geometry.se3 import xyz_quat
from loftr_ros.types import Array

_MOST_SECONDS = 2.0**32  # the stamps of ROS end in 2038, or in 2106


@dataclass(frozen=True)
class Trajectory:
    """stamps_ns: N times in nanoseconds; poses: N poses [4, 4] in one fixed frame."""

    stamps_ns: Sequence[int]
    poses: Sequence[Array]


def seconds(stamp_ns: int) -> str:
    """A stamp in seconds, exact to the nanosecond (a double is not)."""
    sign, stamp_ns = ("-" if stamp_ns < 0 else ""), abs(stamp_ns)
    return f"{sign}{stamp_ns // 1_000_000_000}.{stamp_ns % 1_000_000_000:09d}"


def tum_line(stamp_ns: int, pose: Array) -> str:
    return seconds(stamp_ns) + "".join(f" {value:.9f}" for value in xyz_quat(pose))


def write_tum(path: Path, trajectory: Trajectory) -> None:
    write_atomically(path, [tum_line(s, p) for s, p in zip(trajectory.stamps_ns, trajectory.poses)])


def write_kitti(path: Path, trajectory: Trajectory) -> None:
    write_atomically(path, [" ".join(f"{v:.9e}" for v in pose[:3].ravel()) for pose in trajectory.poses])


def read_table(path: Path, what: str, columns: int = 8) -> Array:
    """[N, columns] rows of a TUM file, N > 0: seconds, x y z, qx qy qz qw.

    Raises InputError, which calls the file `what`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # numpy warns of an empty file
            table = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"The {what} {path} cannot be read: {brief(error)}.") from None
    if table.shape[0] == 0 or table.shape[1] < columns:
        raise InputError(f"The {what} {path} must have lines of {columns} numbers: time, x y z, qx qy qz qw.")
    if not np.isfinite(table).all():
        raise InputError(f"The {what} {path} has numbers that are not finite.")
    return table[:, :columns]


def read_times(path: Path) -> list[int]:
    """One time in seconds per line, to nanoseconds. Raises InputError."""
    try:
        return [nanoseconds(line.split()[0]) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"The file of times {path} cannot be read: {brief(error)}.") from None


def nanoseconds(text: str) -> int:
    """Decimal seconds to nanoseconds, without the rounding of a double. Raises ValueError."""
    number = float(text)
    if not abs(number) < _MOST_SECONDS:
        raise ValueError(f"'{text[:40]}' is not a time")
    if "e" in text.lower() or text.strip().startswith("-"):
        return round(number * 1e9)
    whole, _, fraction = text.strip().partition(".")
    return int(whole or 0) * 1_000_000_000 + int((fraction + "0" * 9)[:9])
