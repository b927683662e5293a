# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The real node in its own process, over DDS: what goes in as messages, what comes out, and with which values."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: the node needs ROS 2")

from node_support import AT_BASE, connected_client, image_message, pose_of, refused, running_node  # noqa: E402
from rcl_interfaces.srv import DescribeParameters  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from loftr_ros.config import limits_of, settings  # noqa: E402
from loftr_ros.evaluation.metrics import evaluate  # noqa: E402
from loftr_ros.evaluation.sequences import open_recording  # noqa: E402
from loftr_ros.evaluation.trajectory import Trajectory, write_tum  # noqa: E402
from loftr_ros.geometry.se3 import inverse, make_pose, pose_from_xyz_quat, rotation_angle_deg, rotation_from_vector  # noqa: E402
from loftr_ros.ros.conversions import stamp_to_ns  # noqa: E402
from loftr_ros.synthetic.room import make_room, room_camera, round_trip  # noqa: E402

CAMERA = room_camera(480, 360)
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def room():
    return make_room(CAMERA)


@pytest.fixture(scope="module")
def truth():
    return round_trip(25, share=0.2)


@pytest.fixture(scope="module")
def frames(room, truth):
    return list(room.frames(truth, rate_hz=10.0, with_depth=True))


@pytest.fixture(scope="module")
def played(frames):
    """A client after the frames went through a node with depth: metric poses of a base with a lever arm."""
    extrinsics = [0.3, -0.1, 0.5, *AT_BASE[3:]]
    with (
        running_node("depth", matcher="sift", scale="depth", reliable=True, extrinsics=extrinsics, path_rate_hz=100.0),
        connected_client("depth") as client,
    ):
        client.listen_to_pictures()
        client.play(frames, CAMERA)
        assert client.wait(lambda: len(client.odometry) == len(frames) and len(client.transforms) == len(frames))
        assert client.wait(lambda: bool(client.diagnostics) and bool(client.pictures))
        client.pose_base_camera = pose_from_xyz_quat(np.array(extrinsics))
        yield client


def test_one_odometry_for_every_frame_with_the_images_stamps(played, frames):
    assert [stamp_to_ns(m.header.stamp) for m in played.odometry] == [f.stamp_ns for f in frames]
    assert {m.header.frame_id for m in played.odometry} == {"odom"}
    assert {m.child_frame_id for m in played.odometry} == {"base_link"}


def test_known_trajectory_is_recovered_in_the_frame_of_the_base(played, truth, frames):
    pose_base_camera = played.pose_base_camera
    for frame, pose_world_camera in zip(frames, truth):
        pose_first_camera = inverse(truth[0]) @ pose_world_camera
        expected = pose_base_camera @ pose_first_camera @ inverse(pose_base_camera)
        found = played.poses()[frame.stamp_ns]
        assert np.linalg.norm(found[:3, 3] - expected[:3, 3]) < 0.03  # metres, of 1.6 m travelled
        assert rotation_angle_deg(found[:3, :3].T @ expected[:3, :3]) < 0.6


def test_twist_is_the_velocity_of_the_base_in_its_own_axes(played, truth):
    pose_base_camera = played.pose_base_camera
    bases = [pose_base_camera @ inverse(truth[0]) @ p @ inverse(pose_base_camera) for p in truth]
    for i in range(3, len(bases)):
        velocity = bases[i][:3, :3].T @ (bases[i][:3, 3] - bases[i - 1][:3, 3]) / 0.1
        twist = played.odometry[i].twist.twist
        found = np.array([twist.linear.x, twist.linear.y, twist.linear.z])
        # The published velocity is that of the step's end, the truth its mean: 2 degrees of turn lie between.
        assert np.linalg.norm(found - velocity) < 0.12 * max(np.linalg.norm(velocity), 0.5)


def test_tf_equals_the_odometry(played):
    for odometry, tf in zip(played.odometry, played.transforms):
        (transform,) = tf.transforms
        assert transform.header == odometry.header
        assert transform.child_frame_id == odometry.child_frame_id
        t, p = transform.transform.translation, odometry.pose.pose.position
        assert (t.x, t.y, t.z) == (p.x, p.y, p.z)
        assert transform.transform.rotation == odometry.pose.pose.orientation


def test_covariances_are_symmetric_and_positive_and_never_zero(played):
    for message in played.odometry:
        for covariance in (message.pose.covariance, message.twist.covariance):
            matrix = np.array(covariance).reshape(6, 6)
            np.testing.assert_allclose(matrix, matrix.T, rtol=1e-9)
            assert np.linalg.eigvalsh(matrix).min() > 0


def test_a_filter_that_takes_the_velocities_alone_follows_the_poses(played):
    """As robot_localization does with config/ekf.yaml: twists in the child frame, unit quaternions, growing stamps."""
    first, *others = played.odometry
    base = pose_of(first)
    before_ns, travelled = stamp_to_ns(first.header.stamp), 0.0
    for message in others:
        q = message.pose.pose.orientation
        assert np.linalg.norm([q.x, q.y, q.z, q.w]) == pytest.approx(1, abs=1e-9)
        stamp_ns = stamp_to_ns(message.header.stamp)
        assert stamp_ns > before_ns
        seconds, before_ns = (stamp_ns - before_ns) * 1e-9, stamp_ns
        linear, angular = message.twist.twist.linear, message.twist.twist.angular
        turn = rotation_from_vector(np.array([angular.x, angular.y, angular.z]) * seconds)
        step = turn @ np.array([linear.x, linear.y, linear.z]) * seconds
        base = base @ make_pose(turn, step)
        travelled += np.linalg.norm(step)
    assert travelled > 1.0
    last = pose_of(others[-1])
    assert np.linalg.norm(base[:3, 3] - last[:3, 3]) < 0.02 * travelled
    assert rotation_angle_deg(base[:3, :3].T @ last[:3, :3]) < 0.1


def test_path_grows_with_the_poses(played):
    lengths = [len(m.poses) for m in played.paths]
    assert len(lengths) > 5
    assert lengths == sorted(lengths)
    last = played.paths[-1]
    assert last.header.frame_id == "odom"
    by_stamp = {stamp_to_ns(m.header.stamp): m.pose.pose for m in played.odometry}
    assert all(by_stamp[stamp_to_ns(p.header.stamp)] == p.pose for p in last.poses)


def test_match_pictures_carry_the_images_stamp(played, frames):
    assert played.pictures
    stamps = {f.stamp_ns for f in frames}
    for message in played.pictures:
        assert stamp_to_ns(message.header.stamp) in stamps
        assert message.encoding == "bgr8"
        assert len(message.data) == message.height * message.step == message.height * message.width * 3


def test_status_says_state_scale_and_counts(played):
    last = played.statuses[-1]
    assert last["state"] == "OK"
    assert last["scale"] == "depth"
    assert last["metric"] == "true"
    assert int(last["inliers"]) >= 30
    assert last["dropped_frames"] == "0"
    (status,) = played.diagnostics[-1].status
    assert status.level == b"\x00" or status.level == b"\x03"  # OK, or STALE once the frames have ended


def test_no_scale_is_said_and_the_shape_of_the_way_is_right(frames, truth, tmp_path):
    with running_node("mono", matcher="sift", reliable=True), connected_client("mono") as client:
        client.play([dataclasses.replace(f, depth=None) for f in frames], CAMERA)
        assert client.wait(lambda: len(client.odometry) == sum(s["pose"] == "true" for s in client.statuses))
        assert len(client.odometry) >= len(frames) - 3  # without parallax the first frames have no pose
        assert {s["metric"] for s in client.statuses} == {"false"}
        at_base = pose_from_xyz_quat(np.array(AT_BASE))
        poses = [inverse(at_base) @ pose_of(m) @ at_base for m in client.odometry]
    write_tum(tmp_path / "truth.txt", Trajectory([f.stamp_ns for f in frames], truth))
    errors, _ = evaluate(
        Trajectory([stamp_to_ns(m.header.stamp) for m in client.odometry], poses), tmp_path / "truth.txt"
    )
    assert errors.ate_sim3_rmse_m < 0.05
    assert errors.rpe_rotation_rmse_deg < 0.8


@pytest.fixture(scope="module")
def plain(frames):
    return [dataclasses.replace(f, depth=None) for f in frames]


@pytest.fixture(scope="module")
def shared():
    """One node for all tests that only need a fresh map; it leaves TF to others."""
    with running_node("shared", matcher="orb", reliable=True, publish_tf=False), connected_client("shared") as client:
        yield client


@pytest.fixture
def client(shared):
    shared.start_fresh()
    return shared


def test_tf_can_be_left_to_others(client, plain):
    client.play(plain[:3], CAMERA)
    assert client.wait(lambda: len(client.odometry) == sum(s["pose"] == "true" for s in client.statuses) > 0)
    assert client.transforms == []


def test_image_before_camera_info_is_kept_until_it_comes(client, plain):
    client.send(plain[0])
    assert client.wait(lambda: any("a calibration on /shared/camera_info" in text for text in diagnoses(client)))
    assert client.statuses == []
    client.send_info(CAMERA)
    assert client.wait(lambda: len(client.odometry) == 1)
    assert stamp_to_ns(client.odometry[0].header.stamp) == plain[0].stamp_ns


def diagnoses(client) -> list[str]:
    return [message.status[0].message for message in client.diagnostics]


def test_uncalibrated_camera_is_refused(client, plain):
    client.send_info(CAMERA, k=np.zeros(9))
    client.send(plain[0])
    assert not client.wait(lambda: bool(client.odometry), 1.5)
    client.send_info(CAMERA)
    assert client.wait(lambda: len(client.odometry) == 1)


def test_changed_calibration_starts_anew_at_the_last_pose(client, plain):
    client.play(plain[:8], CAMERA)
    client.settled()
    last = pose_of(client.odometry[-1])
    assert np.linalg.norm(last[:3, 3]) > 0.01
    other = dataclasses.replace(CAMERA, matrix=CAMERA.matrix * np.array([[1.1], [1.1], [1.0]]))
    before = len(client.odometry)
    for _ in range(5):  # two topics have no order: the calibration must have come before its image
        client.send_info(other)
        time.sleep(0.1)
    client.play(plain[8:9], other)
    assert client.wait(lambda: len(client.odometry) == before + 1)
    np.testing.assert_allclose(pose_of(client.odometry[-1]), last, atol=1e-9)


def test_backward_jump_of_time_starts_anew_at_the_origin(client, plain):
    client.play(plain[:8], CAMERA)
    client.settled()
    assert np.linalg.norm(pose_of(client.odometry[-1])[:3, 3]) > 0.01
    before = len(client.odometry)
    client.play(plain[:1], CAMERA)
    assert client.wait(lambda: len(client.odometry) == before + 1)
    np.testing.assert_allclose(pose_of(client.odometry[-1]), np.eye(4), atol=1e-12)


def test_gap_in_time_gives_no_absurd_velocity(client, plain):
    client.play(plain[:6], CAMERA)
    later = [dataclasses.replace(f, stamp_ns=f.stamp_ns + 20 * SECOND) for f in plain[6:9]]
    client.play(later, CAMERA)
    client.settled()
    speeds = [m.twist.twist.linear for m in client.odometry]
    speeds = np.array([np.linalg.norm([v.x, v.y, v.z]) for v in speeds])
    assert np.isfinite(speeds).all()
    after = [i for i, m in enumerate(client.odometry) if stamp_to_ns(m.header.stamp) >= later[0].stamp_ns]
    assert len(after) >= 2
    assert speeds[after].max() < 3 * speeds[: after[0]].max()


def test_reset_service_starts_anew_at_the_origin(client, plain):
    client.play(plain[:8], CAMERA)
    client.settled()
    before = len(client.odometry)
    assert client.call(Trigger, "reset").success
    client.play(plain[8:9], CAMERA)
    assert client.wait(lambda: len(client.odometry) == before + 1)
    np.testing.assert_allclose(pose_of(client.odometry[-1]), np.eye(4), atol=1e-12)


def test_wrong_image_is_skipped_and_the_next_one_goes_on(client, plain):
    client.send_info(CAMERA)
    client.send(plain[0], encoding="no_such_encoding")
    message = image_message(plain[1].image[:40], plain[1].stamp_ns, "mono8")
    message.height = CAMERA.height  # 320 rows are missing
    client.image.publish(message)
    client.play([plain[2]], CAMERA)
    assert client.wait(lambda: len(client.odometry) == 1)
    assert stamp_to_ns(client.odometry[0].header.stamp) == plain[2].stamp_ns


def test_slow_matcher_drops_stale_frames_and_counts_them(plain):
    with running_node("slow", matcher="sift", reliable=False), connected_client("slow") as client:
        client.play(plain[:1], CAMERA)
        for frame in plain[1:-1]:
            client.send(frame)
            time.sleep(0.01)
        client.play(plain[-1:], CAMERA)  # sent again where best effort loses it
        assert len(client.statuses) < len(plain)
        last = client.statuses[-1]
        assert int(last["dropped_frames"]) > 0
        # What came is processed, dropped, or was sent again and skipped.
        assert int(last["received_frames"]) >= len(client.statuses) + int(last["dropped_frames"])
        assert max(float(s["latency_ms"]) - float(s["processing_ms"]) for s in client.statuses[1:]) < 3000


def test_parameters_are_described_and_bad_values_refused_at_run_time(client):
    keys = list(settings())
    described = client.call(DescribeParameters, "describe_parameters", DescribeParameters.Request(names=keys))
    for key, descriptor in zip(keys, described.descriptors):
        limits = limits_of(settings()[key][1])
        assert descriptor.description == limits.text
        assert descriptor.read_only == limits.read_only
    assert client.set_parameter("ratio", 0.7).successful
    for name, value, sentence in (
        ("ratio", 7.0, "range"),
        ("ratio", "high", "type"),
        ("matcher", "sift", "read-only"),
        ("trajectory_format", "csv", "trajectory_format must be one of tum, kitti, not 'csv'."),
        ("trajectory_file", "../x", "trajectory_file must be a file inside trajectory_folder, not '../x'."),
    ):
        result = client.set_parameter(name, value)
        assert not result.successful
        assert sentence in result.reason.lower() or sentence in result.reason


def test_a_threshold_set_at_run_time_changes_the_next_pose(client, plain):
    client.play(plain[:8], CAMERA)
    assert client.statuses[-1]["state"] == "OK"
    assert client.set_parameter("min_matches", 9000).successful
    assert client.set_parameter("lost_after", 2).successful
    client.play(plain[8:10], CAMERA)
    assert [s["state"] for s in client.statuses[-2:]] == ["FEW_MATCHES", "LOST"]
    assert client.set_parameter("min_matches", 30).successful
    assert client.set_parameter("lost_after", 10).successful
    client.play(plain[10:11], CAMERA)
    assert client.statuses[-1]["state"] == "OK"


def test_a_threshold_set_at_run_time_changes_the_next_match(client, plain):
    assert client.set_parameter("ratio", 0.95).successful
    client.play(plain[:2], CAMERA)
    many = int(client.statuses[-1]["matches"])
    assert client.set_parameter("ratio", 0.4).successful
    client.play(plain[2:3], CAMERA)
    assert int(client.statuses[-1]["matches"]) < 0.5 * many
    assert client.set_parameter("ratio", 0.8).successful


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"matcher": "surf"}, "matcher must be one of tiny, outdoor, indoor, sift, orb, not 'surf'."),
        ({"matchr": "orb"}, "There is no setting 'matchr'; did you mean 'matcher'?"),
        ({"matcher": "orb", "max_keypoints": 3}, "max_keypoints"),
        ({"matcher": "orb", "ratio": "high"}, "ratio"),
        ({"matcher": "orb", "scale": "camera_height", "extrinsics": AT_BASE}, "camera_height must be greater than 0"),
        ({"matcher": "orb", "extrinsics": [0.0, 1.0]}, "extrinsics must have 0 or 7 numbers, not 2."),
        ({"matcher": "orb", "extrinsics": [0.0] * 7}, "has length 0, not 1."),
        ({"matcher": "orb", "camera_info_file": "/nowhere.yaml", "extrinsics": AT_BASE}, "/nowhere.yaml"),
        ({"matcher": "outdoor", "weights": "/nowhere.ckpt"}, "The weights file /nowhere.ckpt does not exist."),
        ({"matcher": "orb", "trajectory_file": "/etc/passwd"}, "must be a file inside trajectory_folder"),
        ({"matcher": "orb", "extrinsics": AT_BASE, "viewer": "window"}, "neither spawn, serve, a rerun URL nor a FILE"),
    ],
)
def test_bad_parameters_stop_the_start_with_one_sentence(parameters, sentence):
    code, text = refused(**parameters)
    assert code == 2
    assert text.startswith("error: ")
    assert sentence in text
    assert text.count("\n") == 1


@pytest.mark.parametrize("apart_s", [0.0, 0.005, 0.02, 0.1, 0.3])
def test_a_second_sigint_does_not_disturb_the_end(apart_s):
    """As from `ros2 launch` without a terminal: from its process group, and from launch itself."""
    with running_node("twice", matcher="orb") as process:
        assert any("Waiting for images" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        time.sleep(apart_s)
    assert "Exception ignored" not in process.log


def test_no_extrinsics_and_no_tf_is_said():
    try:
        import tf2_ros  # noqa: F401
    except ImportError:
        code, text = refused(matcher="orb")
        assert code == 2
        assert "set the parameter extrinsics" in text
    else:
        pytest.skip("tf2_ros is here, so the extrinsics may come from TF")


def real_sequence(name: str) -> Path:
    data = os.environ.get("LOFTR_ROS_DATA")
    if not data:
        pytest.skip("LOFTR_ROS_DATA is not set: there are no real sequences")
    return Path(data) / name


@pytest.mark.parametrize(("name", "most_ate_m"), [("kitti06", 0.25), ("kitti00", 0.8)])
def test_real_drive_at_10_hz(name, most_ate_m):
    recording = open_recording(real_sequence(name))
    # Reliable: on a busy machine every frame is processed all the same, only later, so the result is the same.
    with running_node(name, matcher="sift", path_rate_hz=100.0, reliable=True), connected_client(name) as client:
        client.send_info(recording.camera)
        frames = list(recording.frames())[:40]
        client.play(frames[:1], recording.camera)
        started = time.monotonic()
        for i, frame in enumerate(frames[1:], 1):
            time.sleep(max(0.0, started + i * 0.1 - time.monotonic()))
            client.send(frame)
        assert client.wait(
            lambda: (
                client.statuses
                and client.statuses[-1]["stamp"]
                == f"{frames[-1].stamp_ns // SECOND}.{frames[-1].stamp_ns % SECOND:09d}"
            ),
            seconds=150.0,
        )
        assert client.wait(lambda: len(client.odometry) == len(client.transforms) == len(frames))
        assert [stamp_to_ns(m.header.stamp) for m in client.odometry] == [f.stamp_ns for f in frames]
        for odometry, tf in zip(client.odometry, client.transforms):
            assert tf.transforms[0].header.stamp == odometry.header.stamp
            assert tf.transforms[0].transform.rotation == odometry.pose.pose.orientation
            assert tf.transforms[0].transform.translation.x == odometry.pose.pose.position.x
        lengths = [len(p.poses) for p in client.paths]
        assert lengths == sorted(lengths) and lengths[-1] > lengths[0]
        assert {s["metric"] for s in client.statuses} == {"false"}
        at_base = pose_from_xyz_quat(np.array(AT_BASE))
        poses = [inverse(at_base) @ pose_of(m) @ at_base for m in client.odometry]
        stamps_ns = [stamp_to_ns(m.header.stamp) for m in client.odometry]
    errors, _ = evaluate(Trajectory(stamps_ns, poses), recording.groundtruth)
    assert errors.ate_sim3_rmse_m < most_ate_m
