"""The real node in its own process, over DDS: what goes in as messages, what comes out, and with which values."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: the node needs ROS 2")

from node_support import AT_BASE, connected_client, image_message, pose_of, refused, running_node  # noqa: E402
from rcl_interfaces.msg import Parameter as ParameterMessage  # noqa: E402
from rcl_interfaces.msg import ParameterType, ParameterValue  # noqa: E402
from rcl_interfaces.srv import DescribeParameters, SetParameters  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from loftr_ros.config import limits_of, settings  # noqa: E402
from loftr_ros.evaluation.metrics import evaluate  # noqa: E402
from loftr_ros.evaluation.sequences import open_recording  # noqa: E402
from loftr_ros.evaluation.trajectory import Trajectory, write_tum  # noqa: E402
from loftr_ros.geometry.se3 import inverse, pose_from_xyz_quat, rotation_angle_deg  # noqa: E402
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
        assert client.wait(lambda: bool(client.diagnostics))
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


def test_tf_can_be_left_to_others(frames):
    with running_node("quiet", matcher="orb", reliable=True, publish_tf=False), connected_client("quiet") as client:
        client.play([dataclasses.replace(f, depth=None) for f in frames[:3]], CAMERA)
        assert client.wait(lambda: len(client.odometry) == sum(s["pose"] == "true" for s in client.statuses) > 0)
        assert client.transforms == []


def test_image_before_camera_info_is_kept_until_it_comes(frames):
    with running_node("late", matcher="orb", reliable=True), connected_client("late") as client:
        client.send(frames[0])
        assert not client.wait(lambda: bool(client.statuses), 1.0)
        client.send_info(CAMERA)
        assert client.wait(lambda: len(client.odometry) == 1)
        assert stamp_to_ns(client.odometry[0].header.stamp) == frames[0].stamp_ns


def test_uncalibrated_camera_is_refused(frames):
    with running_node("raw", matcher="orb", reliable=True), connected_client("raw") as client:
        client.send_info(CAMERA, k=np.zeros(9))
        client.send(frames[0])
        assert not client.wait(lambda: bool(client.odometry), 1.5)
        client.send_info(CAMERA)
        assert client.wait(lambda: len(client.odometry) == 1)


def test_backward_jump_of_time_starts_anew_at_the_origin(frames):
    with running_node("jump", matcher="orb", reliable=True), connected_client("jump") as client:
        plain = [dataclasses.replace(f, depth=None) for f in frames]
        client.play(plain[:10], CAMERA)
        assert client.wait(lambda: len(client.odometry) == sum(s["pose"] == "true" for s in client.statuses) > 1)
        assert np.linalg.norm(pose_of(client.odometry[-1])[:3, 3]) > 0.01
        before = len(client.odometry)
        client.play(plain[:1], CAMERA)
        assert client.wait(lambda: len(client.odometry) == before + 1)
        np.testing.assert_allclose(pose_of(client.odometry[-1]), np.eye(4), atol=1e-12)


def test_reset_service_starts_anew_at_the_origin(frames):
    with running_node("reset", matcher="orb", reliable=True), connected_client("reset") as client:
        plain = [dataclasses.replace(f, depth=None) for f in frames]
        client.play(plain[:8], CAMERA)
        assert client.wait(lambda: len(client.odometry) == sum(s["pose"] == "true" for s in client.statuses) > 1)
        before = len(client.odometry)
        assert client.call(Trigger, "reset").success
        client.play(plain[8:9], CAMERA)
        assert client.wait(lambda: len(client.odometry) == before + 1)
        np.testing.assert_allclose(pose_of(client.odometry[-1]), np.eye(4), atol=1e-12)


def test_wrong_image_is_skipped_and_the_next_one_goes_on(frames):
    with running_node("wrong", matcher="orb", reliable=True), connected_client("wrong") as client:
        client.send_info(CAMERA)
        client.send(frames[0], encoding="no_such_encoding")
        message = image_message(frames[1].image[:40], frames[1].stamp_ns, "mono8")
        message.height = CAMERA.height  # 320 rows are missing
        client.image.publish(message)
        client.play([dataclasses.replace(frames[2], depth=None)], CAMERA)
        assert client.wait(lambda: len(client.odometry) == 1)
        assert stamp_to_ns(client.odometry[0].header.stamp) == frames[2].stamp_ns


def test_slow_matcher_drops_stale_frames_and_counts_them(frames):
    with running_node("slow", matcher="sift", reliable=False), connected_client("slow") as client:
        plain = [dataclasses.replace(f, depth=None) for f in frames]
        client.play(plain[:1], CAMERA)
        for frame in plain[1:-1]:
            client.send(frame)
            time.sleep(0.01)
        client.play(plain[-1:], CAMERA)  # sent again where best effort loses it
        assert len(client.statuses) < len(plain)
        assert int(client.statuses[-1]["dropped_frames"]) > 0
        assert max(float(s["latency_ms"]) - float(s["processing_ms"]) for s in client.statuses[1:]) < 3000


def set_parameter(client, name: str, value: ParameterValue):
    request = SetParameters.Request(parameters=[ParameterMessage(name=name, value=value)])
    (result,) = client.call(SetParameters, "set_parameters", request).results
    return result


def test_parameters_are_described_and_bad_values_refused_at_run_time():
    with running_node("set", matcher="orb"), connected_client("set") as client:
        keys = list(settings())
        described = client.call(DescribeParameters, "describe_parameters", DescribeParameters.Request(names=keys))
        for key, descriptor in zip(keys, described.descriptors):
            limits = limits_of(settings()[key][1])
            assert descriptor.description == limits.text
            assert descriptor.read_only == limits.read_only
        good = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=0.7)
        assert set_parameter(client, "ratio", good).successful
        bad = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=7.0)
        assert not set_parameter(client, "ratio", bad).successful
        fixed = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value="sift")
        assert not set_parameter(client, "matcher", fixed).successful


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
    ],
)
def test_bad_parameters_stop_the_start_with_one_sentence(parameters, sentence):
    code, text = refused(**parameters)
    assert code == 2
    assert text.startswith("error: ")
    assert sentence in text
    assert text.count("\n") == 1


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


@pytest.mark.parametrize(("name", "most_ate_m"), [("kitti06", 0.25), ("kitti00", 3.0)])
def test_real_drive_at_10_hz(name, most_ate_m):
    recording = open_recording(real_sequence(name))
    # Reliable: on a busy machine every frame is processed all the same, only later, so the result is the same.
    with running_node(name, matcher="sift", path_rate_hz=100.0, reliable=True), connected_client(name) as client:
        client.send_info(recording.camera)
        frames = list(recording.frames())
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
