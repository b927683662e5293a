# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""`ros2 launch loftr_ros vo.launch.py`, and extrinsics from TF: where launch_ros and tf2_ros are installed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
import yaml

pytest.importorskip("launch_ros", reason="launch_ros is not installed: it comes with a ROS 2 installation")
pytest.importorskip("tf2_ros", reason="tf2_ros is not installed: it comes with a ROS 2 installation")

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory  # noqa: E402
from geometry_msgs.msg import TransformStamped  # noqa: E402
from node_support import CAMERA_FRAME, connected_client, pose_of, running_node  # noqa: E402
from tf2_ros import Buffer, StaticTransformBroadcaster, TransformListener  # noqa: E402

from loftr_ros.config import settings  # noqa: E402
from loftr_ros.evaluation.render_room import write_sequence  # noqa: E402
from loftr_ros.geometry.se3 import inverse, pose_from_xyz_quat  # noqa: E402
from loftr_ros.ros.conversions import stamp_to_ns  # noqa: E402
from loftr_ros.synthetic.room import make_room, room_camera, round_trip  # noqa: E402

CAMERA = room_camera(320, 240)
EXTRINSICS = [0.25, 0.05, 0.4, -0.5, 0.5, -0.5, 0.5]


@pytest.fixture(scope="module")
def installed() -> None:
    try:
        get_package_share_directory("loftr_ros")
    except PackageNotFoundError:
        pytest.skip("loftr_ros is not built with colcon and sourced")
    if shutil.which("ros2") is None:
        pytest.skip("the ros2 command is not installed")


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return ros2("launch", "loftr_ros", "vo.launch.py", *arguments)


def ros2(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ros2", *arguments], capture_output=True, text=True, timeout=150, check=False)


def test_arguments_are_declared_and_described(installed):
    shown = launch("--show-args").stdout
    for name in ("image", "camera_info", "config", "weights", "device", "publish_tf", "use_sim_time", "rviz", "bag"):
        assert f"'{name}':" in shown
    for file, name in (("rgbd", "depth"), ("robot_localization", "ekf_config"), ("nav2", "params_file")):
        shown_too = ros2("launch", "loftr_ros", f"{file}.launch.py", "--show-args").stdout
        assert f"'{name}':" in shown_too
        assert "'matcher':" in shown_too  # those of vo.launch.py as well
    assert shown.count("(default: ") == shown.count("':\n")


def test_a_recording_is_played_and_measured(installed, tmp_path):
    write_sequence(tmp_path / "room", make_room(CAMERA), round_trip(12, share=0.1), 10.0)
    done = launch(f"bag:={tmp_path / 'room'}", "matcher:=sift", f"output:={tmp_path / 'out'}", "namespace:=robot")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "base_link is at the camera" in done.stdout + done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["frames"] == 12
    assert metrics["poses"] >= 9
    assert metrics["ate_sim3_rmse_m"] < 0.05


def test_wheels_and_time_of_a_recording_are_played_too(installed, tmp_path):
    write_sequence(tmp_path / "room", make_room(CAMERA), round_trip(16, share=0.2), 10.0)
    truth = tmp_path / "room" / "groundtruth_tum.txt"
    done = launch(
        f"bag:={tmp_path / 'room'}", "matcher:=sift", "scale:=odometry", f"odometry:={truth}",
        f"groundtruth:={truth}", f"output:={tmp_path / 'out'}", "use_sim_time:=true",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["poses"] >= 8
    assert abs(metrics["scale"] - 1) < 0.1
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("extrinsics:=abc", "extrinsics must be 7 numbers, not 'abc'."),
        ("extrinsics:=[0, 0, 1]", "extrinsics must be 7 numbers, not '[0, 0, 1]'."),
        ("camera_height:=high", "camera_height must be 1 number, not 'high'."),
        ("publish_tf:=maybe", "publish_tf must be true or false, not 'maybe'."),
    ],
)
def test_bad_arguments_end_the_launch_with_one_sentence(installed, argument, sentence):
    done = launch(argument)
    assert done.returncode == 1
    assert sentence in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("package", ["robot_localization", "nav2_bringup"])
def test_examples_name_the_package_that_they_need(installed, package):
    try:
        get_package_share_directory(package)
    except PackageNotFoundError:
        done = ros2("launch", "loftr_ros", f"{package.removesuffix('_bringup')}.launch.py")
        assert done.returncode == 1
        assert f"{package} is not installed: apt install" in done.stdout + done.stderr
    else:
        pytest.skip(f"{package} is installed here")


def test_lifecycle_and_parameters_by_the_command_line(installed):
    with running_node("cli", matcher="orb", autostart=False), connected_client("cli", wait=False) as client:
        assert client.state() == "unconfigured"
        end = time.monotonic() + 30.0
        while not ros2("lifecycle", "get", "/cli/vo_node").stdout.startswith("unconfigured"):  # its daemon may be new
            assert time.monotonic() < end, "ros2 does not see the node"
        for transition, state in (("configure", "inactive"), ("activate", "active"), ("deactivate", "inactive")):
            assert ros2("lifecycle", "set", "/cli/vo_node", transition).stdout == "Transitioning successful\n"
            assert ros2("lifecycle", "get", "/cli/vo_node").stdout.split()[0] == state
        dumped = yaml.safe_load(ros2("param", "dump", "/cli/vo_node").stdout)["/cli/vo_node"]["ros__parameters"]
        assert settings().keys() - dumped.keys() == set()
        assert dumped["matcher"] == "orb"
        refused = ros2("param", "set", "/cli/vo_node", "trajectory_file", "../x")
        assert "must be a file inside trajectory_folder" in refused.stdout + refused.stderr


def test_a_node_that_cannot_start_ends_the_launch(installed):
    done = launch("matcher:=surf", "extrinsics:=[0,0,0,0,0,0,1]")
    assert done.returncode == 1
    assert "matcher must be one of" in done.stdout + done.stderr
    assert "the odometry node has failed with exit code 2." in done.stdout + done.stderr


def test_a_recording_that_cannot_be_played_ends_the_launch(installed, tmp_path):
    done = launch(f"bag:={tmp_path / 'none'}", "matcher:=sift")
    assert done.returncode == 1
    assert "none does not exist." in done.stdout + done.stderr
    assert "the player has failed with exit code 2." in done.stdout + done.stderr
    assert "the odometry node has failed" not in done.stdout + done.stderr  # it was only interrupted


def test_an_interrupted_launch_has_not_failed(installed):
    command = ["ros2", "launch", "loftr_ros", "vo.launch.py", "matcher:=sift", "extrinsics:=[0,0,0,0,0,0,1]"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    with subprocess.Popen(command, **pipes) as running:
        timer = threading.Timer(60, running.kill)
        timer.start()
        assert running.stdout is not None
        said = []
        for line in running.stdout:
            said.append(line)
            if "process started" in line:
                time.sleep(0.5)  # launch itself fails where a process has only just begun
                os.killpg(running.pid, signal.SIGINT)  # as a terminal does; the node cannot answer it yet
        timer.cancel()
    assert running.returncode == 0, "".join(said)
    assert "has failed" not in "".join(said)


def test_extrinsics_come_from_tf_and_tf_agrees_with_odom():
    frames = list(make_room(CAMERA).frames(round_trip(4, share=0.03), with_depth=True))
    # extrinsics=[] is the default: TF is asked
    with (
        running_node("tf", matcher="sift", scale="depth", reliable=True, extrinsics="[]"),
        connected_client("tf") as client,
    ):
        client.send_info(CAMERA)
        client.send(frames[0])
        missing = "the transform from 'camera_optical' to 'base_link' (TF, or parameter extrinsics) is missing."
        assert client.wait(lambda: any(missing in d.status[0].message for d in client.diagnostics))
        assert client.odometry == []
        broadcaster = StaticTransformBroadcaster(client.node)
        broadcaster.sendTransform(base_to_camera())
        buffer = Buffer()
        listener = TransformListener(buffer, client.node)
        client.play(frames, CAMERA)
        assert client.wait(lambda: len(client.odometry) == len(frames))
        last = client.odometry[-1]
        end = time.monotonic() + 10.0
        while not buffer.can_transform("odom", "base_link", last.header.stamp) and time.monotonic() < end:
            time.sleep(0.05)
        found = buffer.lookup_transform("odom", "base_link", last.header.stamp).transform
        listener.unregister()
    p = last.pose.pose.position
    np.testing.assert_allclose(
        [found.translation.x, found.translation.y, found.translation.z], [p.x, p.y, p.z], atol=1e-12
    )
    truth = round_trip(4, share=0.03)
    pose_base_camera = pose_from_xyz_quat(np.array(EXTRINSICS))
    expected = pose_base_camera @ inverse(truth[0]) @ truth[-1] @ inverse(pose_base_camera)
    assert stamp_to_ns(last.header.stamp) == frames[-1].stamp_ns
    np.testing.assert_allclose(pose_of(last)[:3, 3], expected[:3, 3], atol=0.01)


def base_to_camera() -> TransformStamped:
    message = TransformStamped(child_frame_id=CAMERA_FRAME)
    message.header.frame_id = "base_link"
    x, y, z, qx, qy, qz, qw = EXTRINSICS
    message.transform.translation.x, message.transform.translation.y, message.transform.translation.z = x, y, z
    rotation = message.transform.rotation
    rotation.x, rotation.y, rotation.z, rotation.w = qx, qy, qz, qw
    return message
