# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The player against a real node, over DDS, without launch; and the configuration files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: the node needs ROS 2")

from nav_msgs.msg import Odometry  # noqa: E402
from node_support import ROOT, connected_client, running_node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import CameraInfo  # noqa: E402
from sensor_msgs.msg import Image as ImageMessage  # noqa: E402

from loftr_ros.config import Config, load_config, settings  # noqa: E402
from loftr_ros.evaluation.render_room import write_sequence  # noqa: E402
from loftr_ros.ros.conversions import stamp_to_ns, status_message  # noqa: E402
from loftr_ros.ros.player import Player, spinning  # noqa: E402
from loftr_ros.synthetic.room import make_room, room_camera, round_trip  # noqa: E402
from loftr_ros.types import Estimate, MotionState  # noqa: E402

CAMERA = room_camera(320, 240)
FRAMES = 16


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("player") / "room"
    write_sequence(folder, make_room(CAMERA), round_trip(FRAMES, share=0.2), 10.0)
    return folder


def play(namespace: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loftr_ros.ros.player", *arguments, "--ros-args", "-r", f"__ns:=/{namespace}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, env=os.environ)


def test_wheels_and_clock_are_sent_with_the_frames(room, tmp_path):
    truth = str(room / "groundtruth_tum.txt")
    with (
        running_node("played", matcher="sift", scale="odometry", reliable=True, use_sim_time=True),
        connected_client("played") as client,
    ):
        clock = client.gather(Clock, "/clock", 100)
        in_time = ("--clock", "--rate", "4")  # so that the listener to the clock is known before the last frame
        done = play("played", str(room), "--odometry", truth, *in_time, "--output", str(tmp_path / "out"))
        assert done.returncode == 0, done.stderr
        times = [stamp_to_ns(m.clock) for m in clock]
        # The first may be lost until the player is known.
        assert times and times == [i * 100_000_000 for i in range(FRAMES - len(times), FRAMES)]
        assert {s["metric"] for s in client.statuses} >= {"true"}
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["frames"] == FRAMES
    assert metrics["metric"] is True
    assert metrics["keyframes"] >= 1
    assert metrics["config"].keys() == settings().keys()
    assert (metrics["config"]["matcher"], metrics["config"]["scale"]) == ("sift", "odometry")
    assert abs(metrics["scale"] - 1) < 0.1
    assert metrics["learned_calibration"] == {"off_px": float(client.statuses[-1]["calibration_off_px"])}
    assert metrics["command"].startswith(f"player {room} --odometry")
    assert f"player {room}" in (tmp_path / "out" / "report.html").read_text()


def test_player_keeps_what_the_last_status_says_of_the_calibration():
    context = rclpy.Context()
    rclpy.init(context=context)
    player = Player(room_camera(320, 240), "vo_node", namespace="told", context=context)
    for k, off_px in enumerate((1.5, 3.2)):
        measured = {"processing_ms": "12.5", "calibration_off_px": str(off_px)}
        player._on_status(status_message(Estimate(k, MotionState.OK), Config(), "vo_node", measured))
    assert (player.calibration_off_px, player.milliseconds) == (3.2, [12.5, 12.5])
    player.destroy_node()
    rclpy.shutdown(context=context)


def test_player_waits_until_node_and_player_hear_all_of_each_other():
    """The node's topics appear one by one; before the last, a frame or its answer would be lost."""
    context = rclpy.Context()
    rclpy.init(context=context)
    names = {"namespace": "half", "context": context, "allow_undeclared_parameters": True}
    mute = rclpy.create_node("vo_node", **names, start_parameter_services=False)
    player = Player(room_camera(320, 240), "vo_node", carried=("depth",), namespace="half", context=context)
    with spinning(player):
        mute.create_subscription(ImageMessage, "image", lambda _: None, 1)
        mute.create_subscription(CameraInfo, "camera_info", lambda _: None, 1)
        mute.create_publisher(Odometry, "odom", 1)
        assert not player.wait_for_node(2.5)  # all topics are there, but nothing says that answers arrive
        told = rclpy.create_node("vo_node", **names, parameter_overrides=[Parameter("scale", value="depth")])
        told.declare_parameter("scale", "none")
        with spinning(told):
            assert not player.wait_for_node(2.5)  # it wants depth images, but does not hear them yet
            assert player.settings["scale"] == "depth"
            told.create_subscription(ImageMessage, "depth", lambda _: None, 1)
            assert player.wait_for_node(20.0)
    mute.destroy_node()
    rclpy.shutdown(context=context)


def test_errors_are_printed_without_an_output_folder(room):
    with running_node("printed", matcher="sift", reliable=True), connected_client("printed"):
        done = play("printed", str(room), "--groundtruth", str(room / "groundtruth_tum.txt"))
    assert done.returncode == 0, done.stderr
    assert f"{FRAMES} frames, " in done.stdout
    assert float(done.stdout.split("ATE ")[1].split(" m")[0]) < 0.05
    assert "RPE " in done.stdout
    assert "results in" not in done.stdout


def test_example_for_robot_localization_reaches_its_node():
    """As ROS reads it, in whatever namespace; with the numbers of values that the filter wants."""
    context = rclpy.Context()
    rclpy.init(context=context, args=["--ros-args", "--params-file", str(ROOT / "config" / "ekf.yaml")])
    node = rclpy.create_node(
        "ekf_filter_node", namespace="/robot", context=context, automatically_declare_parameters_from_overrides=True
    )
    try:
        fused = node.get_parameter("odom0_config").value
        assert len(fused) == 15
        assert np.flatnonzero(fused).tolist() == [6, 7, 8, 9, 10, 11]  # velocities only
        assert node.get_parameter("publish_tf").value is True
        assert node.get_parameter("world_frame").value == node.get_parameter("odom_frame").value == "odom"
        assert node.get_parameter("odom0").value == "odom"
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert "publish_tf" in (ROOT / "launch" / "robot_localization.launch.py").read_text()


def test_our_parameter_file_is_valid_and_the_layout_shows_our_topics():
    assert load_config(ROOT / "config" / "vo.yaml").matcher.name == "tiny"
    displays = yaml.safe_load((ROOT / "config" / "vo.rviz").read_text())["Visualization Manager"]["Displays"]
    topics = {d["Topic"]["Value"] for d in displays if "Topic" in d}
    assert topics == {"path", "odom", "vo_node/points", "vo_node/matches"}
    assert "rviz_default_plugins/TF" in {d["Class"] for d in displays}
