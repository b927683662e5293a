#!/usr/bin/env python3
# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Errors of several odometries on the same sequences in one run, as the table of the README.

    .venv/bin/python scripts/odometry_table.py SEQUENCE... [--matchers tiny sift orb] [--json FILE]
        [--orbslam3 PYTHON --vocabulary FILE]

Each matcher runs in this package's odometry, and once more in the textbook's two-view chaining: each frame is matched
with the one before, the essential matrix gives rotation and direction, and the length of every step is taken from the
ground truth, because two views do not have one. With --orbslam3, a Python that has orbslam3-python, ORB-SLAM3 runs on
the same images (scripts/orbslam3_peer.py; scripts/orb_vocabulary.py makes its vocabulary).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from evo.tools import file_interface

from loftr_ros import cli
from loftr_ros.config import MATCHERS, MatcherConfig
from loftr_ros.errors import GeometryError, InputError
from loftr_ros.evaluation.metrics import evaluate
from loftr_ros.evaluation.replay import replay
from loftr_ros.evaluation.sequences import Options, Recording, open_recording
from loftr_ros.evaluation.trajectory import Trajectory
from loftr_ros.files import write_atomically
from loftr_ros.geometry.se3 import inverse
from loftr_ros.geometry.two_view import estimate_pose
from loftr_ros.matching import matcher_from_config
from loftr_ros.odometry import VisualOdometry

_THRESHOLD_PX = 0.7
_CHAINING = "two-view chaining"
COLUMNS = ("sequence", "odometry", "poses", "ATE", "scale drift", "rotation RPE", "translation RPE", "ms a frame")


def chain(recording: Recording, matcher_name: str, truth: Trajectory) -> tuple[Trajectory, float]:
    """Two-view chaining: the trajectory and the median milliseconds of a frame. A step that fails repeats the last."""
    matcher = matcher_from_config(MatcherConfig(name=matcher_name))
    camera, times = recording.camera, np.array(truth.stamps_ns)
    pose, step, before, stamps, poses, spent = np.eye(4), np.eye(4), None, [], [], []
    last = None
    for frame in recording.frames():
        started = time.perf_counter()
        features = matcher.extract(frame.image)
        place = truth.poses[int(np.abs(times - frame.stamp_ns).argmin())]
        if before is not None:
            matches = matcher.match_features(before, features)
            seen = camera.normalize(matches.points0), camera.normalize(matches.points1)
            with contextlib.suppress(GeometryError):
                step = inverse(estimate_pose(*seen, _THRESHOLD_PX / camera.focal).pose_1_0)
            step[:3, 3] *= np.linalg.norm(place[:3, 3] - last[:3, 3]) / max(np.linalg.norm(step[:3, 3]), 1e-12)
            pose = pose @ step
        before, last = features, place
        spent.append(1e3 * (time.perf_counter() - started))
        stamps.append(frame.stamp_ns)
        poses.append(pose)
    return Trajectory(stamps, poses), float(np.median(spent))


def track(recording: Recording, matcher_name: str) -> tuple[Trajectory, float]:
    """This package's odometry: the trajectory and the median milliseconds of a frame."""
    matcher = matcher_from_config(MatcherConfig(name=matcher_name))
    run = replay(recording, VisualOdometry(matcher, recording.camera))
    if run.failure is not None:
        raise run.failure
    return run.trajectory, float(np.median(run.milliseconds))


def orbslam3(sequence: str, python: str, vocabulary: str) -> tuple[Trajectory, float]:
    """ORB-SLAM3's final trajectory (after all its later corrections) and the median milliseconds of a frame.

    Raises InputError where it does not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trajectory.txt"
        script = Path(__file__).parent / "orbslam3_peer.py"
        done = subprocess.run([python, script, sequence, vocabulary, file], capture_output=True, text=True)
        if done.returncode or not file.exists():
            raise InputError(f"ORB-SLAM3 did not run: {(done.stderr.strip() or 'it ended early').splitlines()[-1]}")
        found = file_interface.read_tum_trajectory_file(str(file))
        milliseconds = float(file.read_text().split()[1])
    return Trajectory([round(1e9 * stamp) for stamp in found.timestamps], list(found.poses_se3)), milliseconds


def scale_drift(trajectory: Trajectory, truth: Trajectory) -> float:
    """Estimated over true length of the way in the last tenth of the steps, over the same in the first tenth."""
    times = np.array(truth.stamps_ns)
    places = np.array([truth.poses[int(np.abs(times - stamp).argmin())][:3, 3] for stamp in trajectory.stamps_ns])
    estimated = np.linalg.norm(np.diff([pose[:3, 3] for pose in trajectory.poses], axis=0), axis=1)
    true = np.linalg.norm(np.diff(places, axis=0), axis=1)
    count = max(len(true) // 10, 1)
    return float(
        (estimated[-count:].sum() / true[-count:].sum()) / (estimated[:count].sum() / max(true[:count].sum(), 1e-12))
    )


def rows(sequence: str, matchers: list[str], peer: tuple[str, str] | None) -> list[dict[str, object]]:
    """`peer`: Python and vocabulary of ORB-SLAM3, or None. Raises InputError for a sequence without ground truth."""
    recording = open_recording(sequence, Options())
    if recording.groundtruth is None:
        raise InputError(f"{sequence} has no ground truth (groundtruth_tum.txt).")
    truth = file_interface.read_tum_trajectory_file(str(recording.groundtruth))
    truth = Trajectory([round(1e9 * stamp) for stamp in truth.timestamps], truth.poses_se3)
    methods = [(f"{matcher}, this odometry", partial(track, recording, matcher)) for matcher in matchers]
    methods += [(f"{matcher}, {_CHAINING}", partial(chain, recording, matcher, truth)) for matcher in matchers]
    if peer is not None:
        methods.append(("ORB-SLAM3", partial(orbslam3, sequence, *peer)))
    found = []
    for label, method in methods:
        trajectory, ms = method()
        errors, _ = evaluate(trajectory, recording.groundtruth)
        values = (
            Path(sequence).name,
            label,
            len(trajectory.poses),
            f"{errors.ate_sim3_rmse_m:.3f} m",
            "(true lengths)" if _CHAINING in label else f"{scale_drift(trajectory, truth):.3f}",
            f"{errors.rpe_rotation_rmse_deg:.3f} deg",
            f"{errors.rpe_translation_rmse_m:.4f} m",
            round(ms),
        )
        found.append(dict(zip(COLUMNS, values)))
        print("| " + " | ".join(str(value) for value in values) + " |", flush=True)
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", nargs="+", metavar="SEQUENCE", help="sequence folder with ground truth")
    parser.add_argument("--matchers", nargs="+", choices=MATCHERS, default=["tiny", "sift", "orb"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there as well")
    parser.add_argument("--orbslam3", metavar="PYTHON", help="Python that has orbslam3-python")
    parser.add_argument("--vocabulary", metavar="FILE", help="vocabulary of ORB-SLAM3")
    options = parser.parse_args(arguments)
    if (options.orbslam3 is None) != (options.vocabulary is None):
        parser.error("--orbslam3 and --vocabulary go together")
    peer = None if options.orbslam3 is None else (options.orbslam3, options.vocabulary)
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    table = [row for sequence in options.sequences for row in rows(sequence, options.matchers, peer)]
    if options.json is not None:
        write_atomically(options.json, [json.dumps(table, indent=2)])
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
