# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""`replay`: a recording through the odometry as fast as it goes, without ROS, the same every time."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import loftr_ros
from loftr_ros import cli
from loftr_ros.config import (
    MATCHERS,
    SCALE_SOURCES,
    Config,
    config_from_dict,
    config_to_dict,
    load_settings,
)
from loftr_ros.errors import InputError
from loftr_ros.evaluation.album import Album
from loftr_ros.evaluation.metrics import Aligned, Errors, evaluate
from loftr_ros.evaluation.plots import plot_trajectory
from loftr_ros.evaluation.report import Story, write_report
from loftr_ros.evaluation.sequences import Options, Recording, check_size, open_recording
from loftr_ros.evaluation.trajectory import Trajectory, write_kitti, write_tum
from loftr_ros.files import make_folder, write_atomically
from loftr_ros.geometry.camera import calibration_lines
from loftr_ros.geometry.refit import refitted
from loftr_ros.matching import matcher_from_config
from loftr_ros.odometry import VisualOdometry
from loftr_ros.pictures import match_picture
from loftr_ros.types import Estimate
from loftr_ros.viewer import Viewer, matched_keyframe

REFINED_CALIBRATION = "camera_info_refined.yaml"
_WORTH_SAYING_PX = 1.0  # what a good calibration is off by
_PICTURE_WIDTH = 720


@dataclass
class Run:
    """What a replay gathers.

    Attributes:
        estimates: of all frames, in order (without their matches, which would fill the memory).
        milliseconds: of all frames.
        inliers: their number, of all frames; empty where it is not known.
        album: some pictures of matches.
        failure: what ended the run early, an interruption by the user too; or None.
    """

    estimates: list[Estimate] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    inliers: list[int] = field(default_factory=list)
    album: Album = field(default_factory=Album)
    failure: BaseException | None = None

    @property
    def trajectory(self) -> Trajectory:
        known = [(e.stamp_ns, e.pose_world_camera) for e in self.estimates if e.pose_world_camera is not None]
        return Trajectory([stamp for stamp, _ in known], [pose for _, pose in known])


def replay(recording: Recording, odometry: VisualOdometry, progress: bool = False, viewer: Viewer | None = None) -> Run:
    """Process all frames. What was computed before a failure is kept; see Run.failure."""
    run = Run()
    frames = cli.progress(recording.frames(), len(recording) or None, "replay", quiet=not progress)
    try:
        for frame in frames:
            check_size(frame, recording.camera)
            before, started = odometry.keyframe, time.perf_counter()
            estimate = odometry.process(frame)
            run.milliseconds.append((time.perf_counter() - started) * 1e3)
            matched = matched_keyframe(estimate, before, odometry.keyframe)
            if matched is not None and len(estimate.matches) and run.album.wants_next():
                picture = match_picture(matched.frame.image, frame.image, estimate, _PICTURE_WIDTH)
                run.album.add(frame.stamp_ns, picture)
            if viewer is not None:
                viewer.show(estimate, frame.image, matched, odometry.keyframe, milliseconds=run.milliseconds[-1])
            run.inliers.append(int(estimate.inliers.sum()))
            run.estimates.append(
                dataclasses.replace(estimate, matches=estimate.matches[:0], inliers=estimate.inliers[:0])
            )
            frames.set_postfix_str(estimate.state.value, refresh=False)
    except (Exception, KeyboardInterrupt) as error:  # whatever it is, what was computed before is kept
        run.failure = error
    return run


def summary(run: Run) -> dict[str, Any]:
    """The part of metrics.json that needs no ground truth."""
    return {
        "frames": len(run.estimates),
        "poses": len(run.trajectory.poses),
        "states": dict(sorted(Counter(e.state.value for e in run.estimates).items())),
        "keyframes": sum(e.is_keyframe for e in run.estimates),
        "metric": bool(run.estimates and run.estimates[-1].metric),
        "ms_per_frame_median": round(float(np.median(run.milliseconds)), 3) if run.milliseconds else None,
    }


def measure(run: Run, groundtruth: Path | None) -> dict[str, Any]:
    """The metrics alone. Raises InputError where the ground truth cannot be compared with."""
    errors = {} if groundtruth is None else dataclasses.asdict(evaluate(run.trajectory, groundtruth)[0])
    return {**summary(run), **errors}


def save(run: Run, output: Path, groundtruth: Path | None, about: dict[str, Any]) -> dict[str, Any]:
    """Write trajectories, metrics.json, trajectory.png and report.html; return the metrics. Raises InputError.

    Args:
        about: more for metrics.json; "command" and "config" have their own places in the report.
    """
    trajectory = run.trajectory
    write_tum(output / "trajectory_tum.txt", trajectory)
    write_kitti(output / "trajectory_kitti.txt", trajectory)
    metrics = {**summary(run), **about}
    errors: Errors | None = None
    aligned: Aligned | None = None
    failure: InputError | None = None
    if groundtruth is not None:
        try:
            errors, aligned = evaluate(trajectory, groundtruth)
            metrics.update(dataclasses.asdict(errors))
        except InputError as error:
            failure = error
    write_atomically(output / "metrics.json", [json.dumps(metrics, indent=2)])
    plot_trajectory(output / "trajectory.png", trajectory, aligned, errors)
    story = Story(
        metrics, run.estimates, run.milliseconds, trajectory, errors, aligned, run.inliers, run.album.pages,
        about.get("command", ""),
    )  # fmt: skip
    try:
        write_report(output / "report.html", story)
    except ImportError:
        print("report.html is left out: it needs plotly (pip install plotly).", file=sys.stderr)
    if failure is not None:
        raise failure
    return metrics


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="replay", description=__doc__)
    parser.add_argument("input", help="sequence folder, folder of images, video, or bag (rosbag2 or ROS 1)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings")
    parser.add_argument("--camera-info", type=Path, metavar="FILE", help="calibration, where the input has none")
    parser.add_argument("--groundtruth", type=Path, metavar="FILE", help="TUM trajectory to compare with")
    parser.add_argument("--matcher", choices=MATCHERS, help="how points are matched")
    parser.add_argument("--weights", metavar="FILE", help="weights of LoFTR")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where LoFTR runs")
    parser.add_argument("--scale", choices=SCALE_SOURCES, help="where metres come from")
    parser.add_argument(
        "--camera-height", type=float, metavar="METRES", help="above the ground, for --scale camera_height"
    )
    parser.add_argument("--odometry", default="", metavar="FILE|TOPIC", help="wheel odometry for --scale odometry")
    parser.add_argument("--image-topic", default="", metavar="TOPIC", help="of a bag with several cameras")
    parser.add_argument("--rate", type=float, default=10.0, metavar="HZ", help="of an image folder without times.txt")
    parser.add_argument("--viewer", metavar="TARGET", help="live view: spawn, serve, a rerun URL or a FILE.rrd")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _config(arguments: argparse.Namespace) -> Config:
    """The file's settings with those of the command line over them. Raises ConfigError."""
    settings = load_settings(arguments.config) if arguments.config else {}
    keys = ("matcher", "weights", "device", "scale", "camera_height", "viewer")
    given = {key: value for key in keys if (value := getattr(arguments, key)) is not None}
    return config_from_dict({**settings, **given})


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    config = _config(options)
    if not 0 < options.rate <= 10000:
        raise InputError(f"--rate must be greater than 0, and at most 10000, not {options.rate:g}.")
    if config.scale.source == "odometry" and not options.odometry:
        raise InputError("--scale odometry needs the wheels' way: name a TUM file or a topic with --odometry.")
    recording = open_recording(
        options.input,
        Options(
            options.camera_info, options.rate, options.image_topic, config.scale.source == "depth", options.odometry
        ),
    )
    groundtruth = options.groundtruth or recording.groundtruth
    if groundtruth is not None and not groundtruth.is_file():
        raise InputError(f"The ground truth {groundtruth} does not exist.")
    make_folder(options.output)
    odometry = VisualOdometry(matcher_from_config(config.matcher), recording.camera, config.odometry, config.scale)
    viewer = Viewer(config.output.viewer) if config.output.viewer else None
    run = replay(recording, odometry, progress=not options.quiet, viewer=viewer)
    if viewer is not None:
        viewer.destroy()
    about = {
        "input": str(options.input),
        "command": shlex.join(["replay", *arguments]),
        "version": loftr_ros.__version__,
        "config": config_to_dict(config),
        "learned_calibration": odometry.learned_calibration,
    }
    metrics = save(run, options.output, groundtruth, about)
    print_metrics(metrics, options.output)
    save_calibration(odometry, options.output)
    if run.failure is not None:
        raise run.failure
    if not run.estimates:
        raise InputError(f"{options.input} has no frames.")
    return 0


def save_calibration(odometry: VisualOdometry, output: Path) -> None:
    """Say and write what was learned of it, where that is much; the file of a run before goes where it is not."""
    path, learned = output / REFINED_CALIBRATION, odometry.learned_calibration
    off_px = learned["off_px"]
    if off_px <= _WORTH_SAYING_PX:
        path.unlink(missing_ok=True)
        return
    write_atomically(path, calibration_lines(refitted(odometry.refined_camera), "refined"))
    numbers = ", ".join(f"{name} {value:g}" for name, value in learned.items() if name != "off_px")
    print(f"calibration off by up to {off_px:.1f} px at the edge of the image ({numbers}), corrected in {path}")


def print_metrics(metrics: dict[str, Any], output: Path | None) -> None:
    states = ", ".join(f"{name} {count}" for name, count in metrics["states"].items())
    print(f"{metrics['frames']} frames, {metrics['poses']} poses ({states})")
    if metrics["ms_per_frame_median"] is not None:
        print(f"median {metrics['ms_per_frame_median']:.0f} ms a frame")
    if "ate_sim3_rmse_m" in metrics:
        print(
            f"ATE {metrics['ate_sim3_rmse_m']:.3f} m after Sim(3), {metrics['ate_se3_rmse_m']:.3f} m after SE(3),"
            f" scale {metrics['scale']:.3f}, over {metrics['path_length_m']:.1f} m"
        )
        print(f"RPE {metrics['rpe_rotation_rmse_deg']:.3f} deg and {metrics['rpe_translation_rmse_m']:.4f} m per frame")
    if output is not None:
        print(f"results in {output}")


def entry_point() -> int:
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(entry_point())
