# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Errors of a trajectory against ground truth, by evo."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loftr_ros.errors import InputError
from loftr_ros.evaluation.trajectory import Trajectory
from loftr_ros.geometry.se3 import quat_xyzw
from loftr_ros.types import Array

_MOST_TIME_DIFFERENCE_S = 0.02
_UPRIGHT = 0.8  # cosine of the angle to an axis


@dataclass(frozen=True)
class Errors:
    """Absolute trajectory error (ATE) after alignment, relative pose error (RPE) per frame, and their basis.

    The RPE of a trajectory without metric scale is that of the Sim(3)-aligned one. Lengths are metres.
    """

    ate_sim3_rmse_m: float
    ate_se3_rmse_m: float
    scale: float
    rpe_rotation_rmse_deg: float
    rpe_translation_rmse_m: float
    path_length_m: float
    matched_poses: int


@dataclass(frozen=True)
class Aligned:
    """For plots: the positions, and which way is down.

    Attributes:
        truth, estimate: [N, 3] positions; the estimate after Sim(3) alignment.
        times: [N] in seconds.
        down: [3] mean of the camera's y axes in the frame of the ground truth: shorter than 1 where they differ.
    """

    truth: Array
    estimate: Array
    times: Array
    down: Array

    @property
    def ground_axes(self) -> tuple[int, int]:
        """The axes of the ground truth's frame for a view from above: not the one that most points down.

        Where the camera does not look ahead (a drone's), the two along which it went farthest.
        """
        vertical = int(np.argmax(np.abs(self.down)))
        if abs(self.down[vertical]) < _UPRIGHT:
            vertical = int(np.argmin(np.ptp(self.truth, axis=0)))
        first, second = (axis for axis in range(3) if axis != vertical)
        return first, second


def evaluate(trajectory: Trajectory, groundtruth: Path) -> tuple[Errors, Aligned]:
    """Compare with a TUM file. Raises InputError where it cannot be read or has too few common times."""
    from evo.core import metrics

    truth, estimate = _associated(trajectory, groundtruth)
    similar, rigid = copy.deepcopy(estimate), copy.deepcopy(estimate)
    try:
        _, _, factor = similar.align(truth, correct_scale=True)
        rigid.align(truth)
    except Exception as error:  # evo raises its own kinds for motionless or collinear data
        raise InputError(f"The trajectory cannot be aligned with {groundtruth}: {error}.") from None
    relation = metrics.PoseRelation
    errors = Errors(
        ate_sim3_rmse_m=_rmse(metrics.APE(relation.translation_part), truth, similar),
        ate_se3_rmse_m=_rmse(metrics.APE(relation.translation_part), truth, rigid),
        scale=1.0 / float(factor),
        rpe_rotation_rmse_deg=_rmse(metrics.RPE(relation.rotation_angle_deg, 1, metrics.Unit.frames), truth, similar),
        rpe_translation_rmse_m=_rmse(metrics.RPE(relation.translation_part, 1, metrics.Unit.frames), truth, similar),
        path_length_m=float(truth.path_length),
        matched_poses=int(truth.num_poses),
    )
    down = np.mean([pose[:3, 1] for pose in similar.poses_se3], axis=0)
    return errors, Aligned(truth.positions_xyz, similar.positions_xyz, truth.timestamps - truth.timestamps[0], down)


def _associated(trajectory: Trajectory, groundtruth: Path) -> tuple[Any, Any]:
    from evo.core import sync
    from evo.tools import file_interface

    try:
        truth = file_interface.read_tum_trajectory_file(str(groundtruth))
        estimate = _to_evo(trajectory)
        truth, estimate = sync.associate_trajectories(truth, estimate, max_diff=_MOST_TIME_DIFFERENCE_S)
    except Exception as error:
        raise InputError(f"The trajectory cannot be compared with {groundtruth}: {_sentence(error)}") from None
    if truth.num_poses < 3:
        raise InputError(f"Only {truth.num_poses} poses have a counterpart in {groundtruth}; 3 are needed.")
    return truth, estimate


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") + "."


def _to_evo(trajectory: Trajectory) -> Any:
    from evo.core.trajectory import PoseTrajectory3D

    if len(trajectory.poses) < 3:
        raise InputError(f"the trajectory has only {len(trajectory.poses)} poses")
    poses = np.array(trajectory.poses)
    quat_wxyz = np.array([np.roll(quat_xyzw(pose[:3, :3]), 1) for pose in poses])
    return PoseTrajectory3D(poses[:, :3, 3], quat_wxyz, np.array(trajectory.stamps_ns, dtype=np.float64) * 1e-9)


def _rmse(metric: Any, truth: Any, estimate: Any) -> float:
    metric.process_data((truth, estimate))
    return float(metric.get_all_statistics()["rmse"])
