# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What the service ~/save_trajectory writes, and where it may."""

from __future__ import annotations

from pathlib import Path

from loftr_ros.config import OutputConfig
from loftr_ros.errors import InputError
from loftr_ros.evaluation.trajectory import Trajectory, make_folder, write_kitti, write_tum


def save_trajectory(trajectory: Trajectory, config: OutputConfig) -> tuple[Path, int]:
    """Write it as the configuration says; return the file and the number of poses.

    Raises InputError where there is nothing to write, or where the file would lie outside the folder.
    """
    if not config.trajectory_folder:
        raise InputError("Nothing may be written: the parameter trajectory_folder is empty.")
    folder = Path(config.trajectory_folder).expanduser().resolve()
    path = (folder / config.trajectory_file).resolve()  # through links, too
    if folder not in path.parents:
        raise InputError(f"{path} lies outside trajectory_folder, {folder}.")
    if not trajectory.poses:
        raise InputError("There are no poses yet.")
    make_folder(path.parent)
    write = write_kitti if config.trajectory_format == "kitti" else write_tum
    write(path, trajectory)
    return path, len(trajectory.poses)
