# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The live view, recorded to a file and read back by rerun's own command."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import is_one_sentence

from loftr_ros.config import ScaleConfig
from loftr_ros.errors import ConfigError
from loftr_ros.geometry.se3 import make_pose
from loftr_ros.matching import load_matcher
from loftr_ros.odometry import VisualOdometry
from loftr_ros.synthetic.room import make_room, room_camera, round_trip
from loftr_ros.types import Estimate, MotionState
from loftr_ros.viewer import Viewer, matched_keyframe

CAMERA = room_camera(320, 240)


@pytest.fixture
def rerun() -> str:
    """The command of rerun."""
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    return rerun_command()


def rerun_command() -> str:
    command = Path(sys.executable).parent / "rerun"
    found = str(command) if command.is_file() else shutil.which("rerun")
    if found is None:
        pytest.skip("the command rerun is not installed")
    return found


def printed(rerun: str, file: Path, entity: str) -> list[str]:
    """The rows of one entity as rerun prints them."""
    command = [rerun, "rrd", "print", "-vvv", str(file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    rows, here = [], ""
    for line in text.splitlines():
        found = re.search(r"entity_path: (\S+)", line)
        here = found.group(1) if found else here
        if here == entity and "│ row_" in line and "[null]" not in line:  # old ones print empty indicators
            rows.append(line)
    return rows


def test_recording_holds_what_was_shown(rerun, tmp_path):
    frames = list(make_room(CAMERA).frames(round_trip(6, share=0.1), rate_hz=10.0, with_depth=True))
    odometry = VisualOdometry(load_matcher("sift"), CAMERA, scale=ScaleConfig(source="depth"))
    viewer = Viewer(str(tmp_path / "run.rrd"))
    inliers, positions = [], []
    for frame in frames:
        before = odometry.keyframe
        estimate = odometry.process(frame)
        viewer.show(estimate, frame.image, matched_keyframe(estimate, before, odometry.keyframe), odometry.keyframe)
        inliers.append(int(estimate.inliers.sum()))
        positions.append(estimate.pose_world_camera[:3, 3])
    viewer.destroy()
    rows = printed(rerun, tmp_path / "run.rrd", "/numbers/inliers")
    assert [float(re.search(r"\[([\d.]+)\]", row).group(1)) for row in rows] == inliers
    times = [re.search(r"1970-01-01T00:00:00(\.\d+)?", row).group(0) for row in rows]
    assert len(set(times)) == len(frames)
    cells = [row.split("\u2506")[-1] for row in printed(rerun, tmp_path / "run.rrd", "/world/camera")]
    found = [[float(n) for n in re.findall(r"-?\d[\d.e-]*", cell)] for cell in cells]
    np.testing.assert_allclose(found, positions, atol=1e-5)
    assert len(printed(rerun, tmp_path / "run.rrd", "/matches")) == len(frames)
    assert len(printed(rerun, tmp_path / "run.rrd", "/world/points")) >= 1
    assert len(printed(rerun, tmp_path / "run.rrd", "/world/trajectory")) >= 2


def test_state_is_shown_when_it_changes(rerun, tmp_path):
    viewer = Viewer(str(tmp_path / "states.rrd"))
    states = [MotionState.OK, MotionState.OK, MotionState.LOST, MotionState.OK]
    for i, state in enumerate(states):
        pose = None if state is MotionState.LOST else make_pose(np.eye(3), np.zeros(3))
        estimate = Estimate(i * 10**9, state, pose, reason="Dark." if pose is None else "")
        viewer.show(estimate, np.zeros((4, 4), np.uint8), None, None)
    viewer.destroy()
    rows = printed(rerun, tmp_path / "states.rrd", "/state")
    assert [re.search(r"(OK|LOST)( Dark\.)?", row).group(0) for row in rows] == ["OK", "LOST Dark.", "OK"]


@pytest.mark.parametrize("target", ["window", "/nowhere/at/all/x.rrd", "http://robot:9876"])
def test_impossible_targets_are_refused_with_one_sentence(target):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    with pytest.raises(ConfigError) as raised:
        Viewer(target)
    assert is_one_sentence(str(raised.value))
    assert target in str(raised.value)


def test_without_rerun_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ConfigError, match="pip install"):
        Viewer("spawn")
