# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Pictures of trajectories."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from loftr_ros.evaluation.metrics import Aligned, Errors
from loftr_ros.evaluation.trajectory import Trajectory
from loftr_ros.files import write_bytes_atomically


def plot_trajectory(
    path: Path, trajectory: Trajectory, aligned: Aligned | None = None, errors: Errors | None = None
) -> None:
    """Write a PNG of the trajectory from above, with the truth and the error over time where they are known."""
    from matplotlib.figure import Figure  # no display and no global state needed

    figure = Figure(figsize=(11, 5) if aligned else (6, 5), dpi=110, layout="constrained")
    if aligned is None or errors is None:
        _plot_alone(figure.subplots(), trajectory)
    else:
        _plot_compared(figure.subplots(1, 2), aligned, errors)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_bytes_atomically(path, picture.getvalue())


def _plot_alone(axes, trajectory: Trajectory) -> None:  # type: ignore[no-untyped-def]
    positions = np.array([pose[:3, 3] for pose in trajectory.poses]).reshape(-1, 3)
    axes.plot(positions[:, 0], positions[:, 2], color="tab:blue", label="estimate")
    axes.set(
        xlabel="right of the first camera (x)", ylabel="ahead of the first camera (z)", title="Trajectory from above"
    )
    axes.axis("equal")
    axes.grid(alpha=0.3)


def _plot_compared(axes, aligned: Aligned, errors: Errors) -> None:  # type: ignore[no-untyped-def]
    first, second = aligned.ground_axes
    names = "xyz"
    axes[0].plot(aligned.truth[:, first], aligned.truth[:, second], "--", color="0.4", label="ground truth")
    axes[0].plot(aligned.estimate[:, first], aligned.estimate[:, second], color="tab:blue", label="estimate, aligned")
    axes[0].plot(*aligned.truth[0, [first, second]], "o", color="0.4", label="start")
    axes[0].set(
        xlabel=f"{names[first]} [m]", ylabel=f"{names[second]} [m]", title=f"{errors.path_length_m:.1f} m travelled"
    )
    axes[0].axis("equal")
    axes[0].legend()
    distance = np.linalg.norm(aligned.truth - aligned.estimate, axis=1)
    axes[1].plot(aligned.times, distance, color="tab:red")
    axes[1].set(
        xlabel="time [s]",
        ylabel="position error [m]",
        ylim=(0, None),
        title=f"ATE {errors.ate_sim3_rmse_m:.3f} m, RPE {errors.rpe_rotation_rmse_deg:.3f} deg per frame",
    )
    for axis in axes:
        axis.grid(alpha=0.3)
