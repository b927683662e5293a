# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Lifecycle and services of the real node, over DDS."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: the node needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from geometry_msgs.msg import PoseWithCovarianceStamped  # noqa: E402
from lifecycle_msgs.msg import TransitionEvent  # noqa: E402
from node_support import connected_client, pose_of, running_node  # noqa: E402
from rcl_interfaces.srv import GetParameters  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from loftr_ros.evaluation.trajectory import read_times  # noqa: E402
from loftr_ros.geometry.se3 import pose_from_xyz_quat  # noqa: E402
from loftr_ros.ros.conversions import ns_to_stamp, stamp_to_ns  # noqa: E402
from loftr_ros.ros.node import VisualOdometryNode  # noqa: E402
from loftr_ros.synthetic.room import make_room, room_camera, round_trip  # noqa: E402

CAMERA = room_camera(480, 360)


@pytest.fixture(scope="module")
def frames():
    return list(make_room(CAMERA).frames(round_trip(14, share=0.2), rate_hz=10.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(scope="module")
def manual(folder):
    """A node that waits to be configured, with a lever arm between base and camera."""
    parameters = {
        "matcher": "orb", "reliable": True, "autostart": False, "trajectory_folder": str(folder),
        "path_rate_hz": 100.0, "extrinsics": [0.3, -0.1, 0.5, -0.5, 0.5, -0.5, 0.5],
    }  # fmt: skip
    with running_node("manual", **parameters) as process, connected_client("manual", wait=False) as client:
        client.process = process
        yield client


@pytest.fixture
def client(manual):
    manual.start_fresh()
    return manual


def test_unconfigured_node_says_so_and_publishes_no_odometry(manual):
    assert manual.state() == "unconfigured"
    assert manual.node.count_publishers("odom") == 0
    answer = manual.call(Trigger, "reset")
    assert (answer.success, answer.message) == (False, "The node is not active.")
    assert manual.wait(lambda: bool(manual.diagnostics))
    (status,) = manual.diagnostics[-1].status
    assert status.level == DiagnosticStatus.WARN
    assert status.name == "manual/vo_node: visual odometry"
    assert "not active" in status.message


def test_transitions_make_and_take_away_topics(manual, frames):
    events = manual.gather(TransitionEvent, "~/transition_event")
    manual.wait_for_publisher("~/transition_event")
    assert manual.change_state("configure") == [True]
    assert manual.state() == "inactive"
    manual.wait_for_publisher("odom")
    assert manual.image.get_subscription_count() == 0
    assert manual.change_state("activate") == [True]
    manual.wait_for_subscriber(manual.image)
    manual.play(frames[:3], CAMERA)
    manual.settled()
    assert manual.change_state("deactivate") == [True]
    count = len(manual.statuses)
    manual.send(frames[3])
    assert not manual.wait(lambda: len(manual.statuses) > count, 0.7)
    assert manual.image.get_subscription_count() == 0
    assert manual.change_state("cleanup") == [True]
    assert manual.state() == "unconfigured"
    assert manual.node.count_publishers("odom") == 0
    assert manual.change_state("activate") == [False]  # not from here
    goals = [event.goal_state.label for event in events]
    assert [g for g in goals if g in ("inactive", "active", "unconfigured")] == [
        "inactive", "active", "inactive", "unconfigured",
    ]  # fmt: skip


def test_map_is_kept_while_inactive(client, frames):
    client.play(frames[:9], CAMERA)
    client.settled()
    before = pose_of(client.odometry[-1])
    assert np.linalg.norm(before[:3, 3]) > 0.01
    assert client.change_state("deactivate", "activate") == [True, True]
    client.wait_for_node()
    client.play(frames[9:10], CAMERA)
    client.settled()
    step = np.linalg.norm(pose_of(client.odometry[-1])[:3, 3] - before[:3, 3])
    assert 0 < step < 0.3 * np.linalg.norm(before[:3, 3])


def test_cleanup_forgets_the_map(client, frames):
    client.play(frames[:9], CAMERA)
    client.settled()
    client.start_fresh()
    client.play(frames[9:10], CAMERA)
    client.settled()
    np.testing.assert_allclose(pose_of(client.odometry[-1]), np.eye(4), atol=1e-12)


def test_what_is_loaded_is_never_searched_for_garbage_while_frames_come():
    """With PyTorch loaded that search stops every thread for 100 ms; it is spared from configure until cleanup."""
    context = rclpy.Context()
    rclpy.init(context=context)
    overrides = [rclpy.Parameter("matcher", value="orb"), rclpy.Parameter("extrinsics", value=[0.0] * 6 + [1.0])]
    node = VisualOdometryNode(context=context, namespace=f"/garbage_{os.getpid()}", parameter_overrides=overrides)
    try:
        loaded = len(gc.get_objects())
        node.start()
        assert gc.get_freeze_count() > 0.9 * loaded
        assert len(gc.get_objects()) < 0.1 * loaded
        assert node.trigger_deactivate() == node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        assert gc.get_freeze_count() == 0
    finally:
        node.close()
        rclpy.shutdown(context=context)


def test_configure_that_fails_is_said_and_leaves_the_node_unconfigured():
    with (
        running_node("broken", matcher="orb", autostart=False, camera_info_file="/nowhere.yaml") as process,
        connected_client("broken", wait=False) as client,
    ):
        assert client.change_state("configure") == [False]
        assert client.state() == "unconfigured"
        assert client.change_state("shutdown") == [True]
        assert client.state() == "finalized"
    assert "/nowhere.yaml" in process.log


def test_pause_ignores_images_until_resume(client, frames):
    client.play(frames[:6], CAMERA)
    client.settled()
    assert client.call(Trigger, "pause").success
    count = len(client.statuses)
    for frame in frames[6:7]:
        client.send(frame)
    assert client.wait(lambda: client.diagnostics and client.diagnostics[-1].status[0].message.startswith("Paused"))
    assert len(client.statuses) == count
    last = pose_of(client.odometry[-1])
    assert client.call(Trigger, "resume").success
    client.play(frames[7:8], CAMERA)
    client.settled()
    assert len(client.statuses) == count + 1
    step = np.linalg.norm(pose_of(client.odometry[-1])[:3, 3] - last[:3, 3])
    assert 0 < step < np.linalg.norm(last[:3, 3])  # from the map before the pause


def test_saved_trajectory_is_what_was_published(client, frames, folder):
    client.play(frames[:8], CAMERA)
    client.settled()
    poses = client.poses()
    answer = client.call(Trigger, "save_trajectory")
    assert answer.success, answer.message
    assert answer.message == (
        f"{len(poses)} poses of 'base_link' in 'odom' are in {folder.resolve() / 'trajectory.txt'}."
    )
    assert read_times(folder / "trajectory.txt") == sorted(poses)
    table = np.loadtxt(folder / "trajectory.txt")
    for row, stamp in zip(table, sorted(poses)):
        np.testing.assert_allclose(pose_from_xyz_quat(row[1:]), poses[stamp], atol=1e-8)
    assert client.set_parameter("trajectory_format", "kitti").successful
    assert client.set_parameter("trajectory_file", "deeper/kitti.txt").successful
    assert client.call(Trigger, "save_trajectory").success
    matrices = np.loadtxt(folder / "deeper" / "kitti.txt").reshape(-1, 3, 4)
    np.testing.assert_allclose(matrices, [poses[s][:3] for s in sorted(poses)], atol=1e-8)
    client.set_parameter("trajectory_format", "tum")
    client.set_parameter("trajectory_file", "trajectory.txt")


def test_trajectory_is_never_saved_outside_its_folder(client, frames, folder, tmp_path):
    client.play(frames[:2], CAMERA)
    (folder / "way_out").unlink(missing_ok=True)
    (folder / "way_out").symlink_to(tmp_path)
    assert client.set_parameter("trajectory_file", "way_out/stolen.txt").successful
    answer = client.call(Trigger, "save_trajectory")
    client.set_parameter("trajectory_file", "trajectory.txt")
    assert not answer.success
    assert answer.message == f"{tmp_path.resolve() / 'stolen.txt'} lies outside trajectory_folder, {folder.resolve()}."
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_saved_before_there_is_a_pose(client):
    answer = client.call(Trigger, "save_trajectory")
    assert (answer.success, answer.message) == (False, "There are no poses yet.")


def pose_wish(frame_id: str, position, quaternion, covariance=None) -> PoseWithCovarianceStamped:
    message = PoseWithCovarianceStamped()
    message.header.frame_id = frame_id
    p, q = message.pose.pose.position, message.pose.pose.orientation
    p.x, p.y, p.z = position
    q.x, q.y, q.z, q.w = quaternion
    if covariance is not None:
        message.pose.covariance = covariance.ravel()
    return message


def test_set_pose_starts_anew_at_that_pose_of_the_base(client, frames):
    wishes = client.node.create_publisher(PoseWithCovarianceStamped, "vo_node/set_pose", 10)
    client.wait_for_subscriber(wishes)
    client.play(frames[:7], CAMERA)
    client.settled()
    half = np.sqrt(0.5)
    covariance = np.diag([0.04, 0.09, 0.01, 0.001, 0.002, 0.003])
    covariance[0, 1] = covariance[1, 0] = 0.02
    wishes.publish(pose_wish("odom", (1.0, 2.0, 0.5), (0.0, 0.0, half, half), covariance))
    assert client.wait(lambda: False, 0.3) is False  # until it has arrived
    count = len(client.odometry)
    client.play(frames[7:8], CAMERA)
    assert client.wait(lambda: len(client.odometry) == count + 1)
    expected = pose_from_xyz_quat(np.array([1.0, 2.0, 0.5, 0.0, 0.0, half, half]))
    np.testing.assert_allclose(pose_of(client.odometry[-1]), expected, atol=1e-9)
    found = np.array(client.odometry[-1].pose.covariance).reshape(6, 6)
    np.testing.assert_allclose(found, covariance, atol=1e-8)
    # The way goes on from there: straight ahead is along y of odom now.
    client.play(frames[8:12], CAMERA)
    client.settled()
    moved = pose_of(client.odometry[-1])[:3, 3] - expected[:3, 3]
    assert 0.005 < np.linalg.norm(moved) < 1.0


@pytest.mark.parametrize(
    "wish",
    [
        pose_wish("map", (1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)),
        pose_wish("odom", (1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)),
        pose_wish("odom", (float("nan"), 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)),
        pose_wish("odom", (1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), np.diag([-1.0, 1, 1, 1, 1, 1])),
    ],
    ids=["other frame", "no quaternion", "not finite", "negative variance"],
)
def test_impossible_set_pose_is_refused(client, frames, wish):
    wishes = client.node.create_publisher(PoseWithCovarianceStamped, "vo_node/set_pose", 10)
    client.wait_for_subscriber(wishes)
    wishes.publish(wish)
    client.wait(lambda: False, 0.2)
    client.play(frames[:1], CAMERA)
    client.settled()
    np.testing.assert_allclose(pose_of(client.odometry[-1]), np.eye(4), atol=1e-12)


def test_path_and_trajectory_begin_anew_with_a_reset(client, frames):
    client.wait_for_publisher("path")
    client.play(frames[:5], CAMERA)
    client.settled()
    assert client.call(Trigger, "reset").success
    client.wait(lambda: False, 0.05)  # paths are limited to 100 a second
    client.play(frames[5:6], CAMERA)
    assert client.wait(lambda: stamp_to_ns(client.paths[-1].header.stamp) == frames[5].stamp_ns)
    assert [p.header.stamp for p in client.paths[-1].poses] == [ns_to_stamp(frames[5].stamp_ns)]
    assert "1 poses" in client.call(Trigger, "save_trajectory").message


def test_services_and_parameters_answer_while_a_frame_is_matched():
    """LoFTR on a CPU takes a large part of a second here: several answers come before the frame's own."""
    camera = room_camera(640, 480)
    frames = list(make_room(camera).frames(round_trip(4, share=0.02), rate_hz=10.0))
    with running_node("busy", matcher="tiny", device="cpu", reliable=True), connected_client("busy") as client:
        client.play(frames[:1], camera)
        most = 0
        for frame in frames[1:]:
            count, answers = len(client.statuses), 0
            client.send(frame)
            while len(client.statuses) == count:
                request = GetParameters.Request(names=["threshold"])
                assert client.call(GetParameters, "get_parameters", request).values[0].double_value == 0.2
                answers += 1
            most = max(most, answers)
        assert most >= 3
