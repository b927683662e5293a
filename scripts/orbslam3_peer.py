#!/usr/bin/env python3
# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""ORB-SLAM3, monocular, on a sequence folder; its trajectory as a TUM file. A peer, for comparisons only.

    python scripts/orbslam3_peer.py SEQUENCE vocabulary.txt trajectory.txt

Runs in an environment of its own (`pip install orbslam3-python pyyaml`: GPL, with an OpenCV that ROS does not have).
Settings are those of ORB-SLAM for KITTI. Its threads get time between the frames, so that none of them is skipped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import orbslam3
import yaml

SETTINGS = """%YAML:1.0

Camera.type: "PinHole"
Camera.fx: {fx}
Camera.fy: {fy}
Camera.cx: {cx}
Camera.cy: {cy}
Camera.k1: {k1}
Camera.k2: {k2}
Camera.p1: {p1}
Camera.p2: {p2}
Camera.width: {width}
Camera.height: {height}
Camera.fps: {fps}
Camera.RGB: 1
ORBextractor.nFeatures: 2000
ORBextractor.scaleFactor: 1.2
ORBextractor.nLevels: 8
ORBextractor.iniThFAST: 20
ORBextractor.minThFAST: 7
Viewer.KeyFrameSize: 0.1
Viewer.KeyFrameLineWidth: 1.0
Viewer.GraphLineWidth: 1.0
Viewer.PointSize: 2.0
Viewer.CameraSize: 0.15
Viewer.CameraLineWidth: 2.0
Viewer.ViewpointX: 0.0
Viewer.ViewpointY: -10.0
Viewer.ViewpointZ: -0.1
Viewer.ViewpointF: 2000.0
"""
PAUSE_S = 0.15


def settings(sequence: Path, times: np.ndarray) -> str:
    info = yaml.safe_load((sequence / "camera_info.yaml").read_text())
    matrix, distortion = info["camera_matrix"]["data"], [*info["distortion_coefficients"]["data"], 0, 0, 0, 0]
    names = ("fx", "cx", "fy", "cy", "k1", "k2", "p1", "p2")
    values = (matrix[0], matrix[2], matrix[4], matrix[5], *distortion[:4])
    return SETTINGS.format(
        **{name: float(value) for name, value in zip(names, values)},
        width=info["image_width"],
        height=info["image_height"],
        fps=float(1 / np.median(np.diff(times))),
    )


def run(sequence: Path, vocabulary: Path) -> tuple[list[tuple[float, np.ndarray]], float]:
    """Stamps in seconds with pose_camera_world [4, 4], and the median milliseconds that a frame takes."""
    times = np.loadtxt(sequence / "times.txt")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "settings.yaml"
        file.write_text(settings(sequence, times))
        system = orbslam3.System(str(vocabulary), str(file), orbslam3.Sensor.MONOCULAR)
        system.set_use_viewer(False)
        if not system.initialize():
            sys.exit("ORB-SLAM3 did not start.")
        spent = []
        for stamp, path in zip(times, sorted((sequence / "images").iterdir())):
            image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            started = time.perf_counter()
            system.process_image_mono(image, float(stamp))
            spent.append(1e3 * (time.perf_counter() - started))
            time.sleep(PAUSE_S)
        found = [(float(stamp), np.asarray(pose, dtype=float)) for stamp, pose in system.get_trajectory_points()]
        system.shutdown()
    return found, float(np.median(spent))


def tum_line(stamp: float, pose_camera_world: np.ndarray) -> str:
    rotation = pose_camera_world[:3, :3].T
    position = -rotation @ pose_camera_world[:3, 3]
    vector = cv2.Rodrigues(rotation)[0].ravel()
    angle = float(np.linalg.norm(vector))
    axis = vector / angle if angle > 0 else vector
    quaternion = [*(np.sin(angle / 2) * axis), np.cos(angle / 2)]
    return " ".join(f"{value:.9f}" for value in (stamp, *position, *quaternion))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("sequence", "vocabulary", "output"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    found, milliseconds = run(options.sequence, options.vocabulary)
    lines = [f"# {milliseconds:.1f} ms a frame", *(tum_line(*each) for each in found)]
    options.output.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
