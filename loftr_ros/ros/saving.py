# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What the service ~/save_trajectory writes, and where it may."""

from __future__ import annotations

from pathlib import Path

from loftr_ros.config import OutputConfig
from loftr_ros.errors import InputError
from loftr_ros.evaluation.trajectory import Trajectory, write_kitti, write_tum


def save_trajectory(trajectory: Trajectory, config: OutputConfig) -> tuple[Path, int]:
    """Write it as the configuration says; return the file and the number of poses.

    Raises InputError where there is nothing to write, or where the file would lie outside the folder.
    """
    if not config.trajectory_folder:
        raise InputError("Nothing may be written: the parameter trajectory_folder is empty.")
    path = path_inside(config.trajectory_folder, config.trajectory_file)
    if not trajectory.poses:
        raise InputError("There are no poses yet.")
    write = write_kitti if config.trajectory_format == "kitti" else write_tum
    write(path, trajectory)
    return path, len(trajectory.poses)


def path_inside(folder: str, name: str) -> Path:
    """A file in a folder. Raises InputError where it would lie outside, also through links."""
    try:
        root = Path(folder).expanduser().resolve()
        path = (root / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a ring, an unknown home, a name too long
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name} in {folder} cannot be written: {reason}.") from None
    if root not in path.parents:
        raise InputError(f"{path} lies outside trajectory_folder, {root}.")
    return path
