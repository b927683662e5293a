# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Trajectory files: TUM (`timestamp tx ty tz qx qy qz qw`) and KITTI (3x4 matrices, row by row)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loftr_ros.errors import InputError
from loftr_ros.geometry.se3 import xyz_quat
from loftr_ros.types import Array


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


def make_folder(path: Path) -> None:
    """Make a folder for results, before the work that leads to them. Raises InputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {path} cannot be made: {error.strerror or error}.") from None


def write_atomically(path: Path, lines: Sequence[str]) -> None:
    """Write a text file whole or not at all; see write_bytes_atomically."""
    write_bytes_atomically(path, "".join(line + "\n" for line in lines).encode())


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a crash or a full disk leaves the old one. Raises InputError."""
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from None


def read_times(path: Path) -> list[int]:
    """One time in seconds per line, to nanoseconds. Raises InputError."""
    try:
        return [nanoseconds(line.split()[0]) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"The file of times {path} cannot be read: {error}.") from None


def nanoseconds(text: str) -> int:
    """Decimal seconds to nanoseconds, without the rounding of a double. Raises ValueError."""
    number = float(text)
    if not np.isfinite(number):
        raise ValueError(f"'{text}' is not a time")
    if "e" in text.lower() or text.strip().startswith("-"):
        return round(number * 1e9)
    whole, _, fraction = text.strip().partition(".")
    return int(whole or 0) * 1_000_000_000 + int((fraction + "0" * 9)[:9])
