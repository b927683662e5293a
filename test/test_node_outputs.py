# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What the real node gives besides odometry, over DDS: matches as data, points, pictures, TF either way, names."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: the node needs ROS 2")

from node_support import AT_BASE, connected_client, pose_of, running_node  # noqa: E402
from sensor_msgs.msg import CompressedImage, PointCloud2  # noqa: E402
from test_node_inputs import columns  # noqa: E402
from test_viewer import printed, rerun_command  # noqa: E402

from loftr_ros.geometry.se3 import inverse, pose_from_xyz_quat, transform  # noqa: E402
from loftr_ros.ros.conversions import stamp_to_ns  # noqa: E402
from loftr_ros.synthetic.room import make_room, room_camera, round_trip  # noqa: E402

CAMERA = room_camera(480, 360)
TRUTH = round_trip(8, share=0.1)
EXTRINSICS = [0.3, -0.1, 0.5, *AT_BASE[3:]]


@pytest.fixture(scope="module")
def frames():
    return list(make_room(CAMERA).frames(TRUTH, rate_hz=10.0, with_depth=True))


@pytest.fixture(scope="module")
def client(frames):
    """A client that listened to everything while the frames went through the node."""
    parameters = {
        "matcher": "sift", "reliable": True, "scale": "depth", "invert_tf": True, "extrinsics": EXTRINSICS,
        "path_rate_hz": 100.0, "picture_rate_hz": 100.0, "picture_width": 600,
        "path_length": 3,
    }  # fmt: skip
    with running_node("outputs", **parameters), connected_client("outputs") as client:
        client.matches = client.gather(PointCloud2, "~/match_array")
        client.points = client.gather(PointCloud2, "~/points")
        client.compressed = client.gather(CompressedImage, "~/matches/compressed")
        client.listen_to_pictures()
        for topic in ("~/match_array", "~/points", "~/matches", "~/matches/compressed", "path"):
            client.wait_for_publisher(topic)
        client.play(frames, CAMERA)
        assert client.wait(lambda: len(client.odometry) == len(client.transforms) == len(frames))
        assert client.wait(lambda: len(client.matches) == len(frames) and client.points)
        assert client.wait(lambda: bool(both_pictures(client)))
        yield client


def both_pictures(client):
    """The compressed pictures that also came raw."""
    raw = {stamp_to_ns(m.header.stamp) for m in client.pictures}
    return [m for m in client.compressed if stamp_to_ns(m.header.stamp) in raw]


def test_match_array_holds_the_matches_that_the_status_counts(client, frames):
    for message, status, frame in zip(client.matches, client.statuses, frames):
        assert stamp_to_ns(message.header.stamp) == frame.stamp_ns
        assert message.header.frame_id == "camera_optical"
        rows = columns(message)
        assert rows.dtype.names == ("x0", "y0", "x1", "y1", "confidence", "sigma", "index0", "inlier")
        assert len(rows) == int(status["matches"])
        assert int(rows["inlier"].sum()) == int(status["inliers"])


def test_inliers_of_the_match_array_agree_with_the_true_motion(client, frames):
    """Each keyframe pixel, moved by true depth and motion, lands where its match says."""
    by_stamp = {f.stamp_ns: (f, pose) for f, pose in zip(frames, TRUTH)}
    by_time = {f"{s // 10**9}.{s % 10**9:09d}": s for s in by_stamp}
    checked = 0
    for message, status in zip(client.matches[1:], client.statuses[1:]):
        rows = columns(message)
        rows = rows[rows["inlier"] == 1]
        keyframe, pose_keyframe = by_stamp[by_time[status["keyframe_stamp"]]]
        _, pose = by_stamp[stamp_to_ns(message.header.stamp)]
        pixels0 = np.array([rows["x0"], rows["y0"]], dtype=float).T
        column, row = np.rint(pixels0).astype(int).T
        depth = keyframe.depth[row, column].astype(float)
        seen = np.hstack([CAMERA.normalize(pixels0), np.ones((len(rows), 1))]) * depth[:, None]
        expected = CAMERA.project(transform(inverse(pose) @ pose_keyframe, seen))
        error = np.linalg.norm(expected - np.array([rows["x1"], rows["y1"]]).T, axis=1)
        assert np.median(error) < 0.6  # pixels
        checked += len(rows)
    assert checked > 500


def test_points_lie_on_the_surfaces_of_the_room(client, frames):
    pose_base_camera = pose_from_xyz_quat(np.array(EXTRINSICS))
    for message in client.points:
        assert message.header.frame_id == "odom"
        rows = columns(message)
        assert rows.dtype.names == ("x", "y", "z", "intensity", "sigma")
        assert len(rows) > 50
        in_odom = np.array([rows["x"], rows["y"], rows["z"]], dtype=float).T
        # In the first camera, whose frame is the true world's up to the first pose.
        seen = transform(inverse(pose_base_camera), in_odom)
        pixels = CAMERA.project(seen)
        column, row = np.rint(pixels).astype(int).T
        inside = (column >= 0) & (row >= 0) & (column < CAMERA.width) & (row < CAMERA.height)
        true = frames[0].depth[row[inside], column[inside]]
        relative = np.abs(seen[inside, 2] - true) / true
        assert np.median(relative) < 0.02
        assert (rows["sigma"] > 0).all()
        assert np.unique(rows["intensity"]).size > 10


def test_compressed_picture_is_the_raw_one(client):
    raw = {stamp_to_ns(m.header.stamp): m for m in client.pictures}
    both = both_pictures(client)
    assert both
    for message in both:
        assert message.format == "bgr8; jpeg compressed bgr8"
        decoded = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
        other = raw[stamp_to_ns(message.header.stamp)]
        pixels = np.frombuffer(other.data, np.uint8).reshape(other.height, other.width, 3)
        assert decoded.shape == pixels.shape == (other.height, 600, 3)
        assert np.abs(decoded.astype(int) - pixels).mean() < 8


def test_inverted_tf_is_the_inverse_of_the_odometry(client):
    for odometry, tf in zip(client.odometry, client.transforms):
        (transformed,) = tf.transforms
        assert (transformed.header.frame_id, transformed.child_frame_id) == ("base_link", "odom")
        assert transformed.header.stamp == odometry.header.stamp
        t, q = transformed.transform.translation, transformed.transform.rotation
        found = pose_from_xyz_quat(np.array([t.x, t.y, t.z, q.x, q.y, q.z, q.w]))
        np.testing.assert_allclose(found @ pose_of(odometry), np.eye(4), atol=1e-9)


def test_path_is_no_longer_than_its_parameter_says(client, frames):
    assert max(len(m.poses) for m in client.paths) == 3
    last = client.paths[-1]
    stamps = [stamp_to_ns(pose.header.stamp) for pose in last.poses]
    newest = [f.stamp_ns for f in frames].index(stamp_to_ns(last.header.stamp))
    assert stamps == [f.stamp_ns for f in frames[newest - 2 : newest + 1]]


def test_viewer_of_the_node_records_poses_and_timings(tmp_path, frames):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    command = rerun_command()
    file = tmp_path / "node.rrd"
    with running_node("seen", matcher="orb", reliable=True, viewer=file), connected_client("seen") as client:
        client.play(frames[:3], CAMERA)
        milliseconds = [float(s["odometry_ms"]) for s in client.statuses]
    rows = printed(command, file, "/numbers/odometry_ms")
    found = [float(row.split("[")[-1].split("]")[0]) for row in rows]
    np.testing.assert_allclose(found, milliseconds, atol=0.06)
    assert len(printed(command, file, "/world/camera")) == sum(s["pose"] == "true" for s in client.statuses)


def test_status_says_times_that_fit_together(client):
    for status in client.statuses:
        assert 0 <= float(status["calibration_off_px"]) < 5
        assert status["device"] == "cpu"  # where SIFT always runs
        assert 0 < float(status["odometry_ms"]) <= float(status["processing_ms"]) <= float(status["latency_ms"])
        assert int(status["received_frames"]) >= 1


def test_two_cameras_in_namespaces_do_not_meet(frames):
    """Two nodes, one TF tree: topics and frames of each carry its name."""
    with (
        running_node("left", matcher="orb", reliable=True, frame_prefix="left/", scale="depth"),
        running_node("right", matcher="orb", reliable=True, frame_prefix="right/", scale="depth"),
        connected_client("left") as left,
        connected_client("right") as right,
    ):
        left.wait_until_heard("/right/vo_node")  # whose transforms it is to see as well
        left.play(frames[:-2], CAMERA)
        right.play(frames, CAMERA)
        assert left.wait(lambda: len(left.odometry) == len(frames) - 2)
        assert right.wait(lambda: len(right.odometry) == len(frames))
        for client, name in ((left, "left"), (right, "right")):
            frame_ids = {(m.header.frame_id, m.child_frame_id) for m in client.odometry}
            assert frame_ids == {(f"{name}/odom", f"{name}/base_link")}
            assert client.wait(lambda c=client: bool(c.diagnostics))
            assert client.diagnostics[-1].status[0].name == f"{name}/vo_node: visual odometry"
        # /tf is one for all
        assert left.wait(lambda: children(left) == {"left/base_link", "right/base_link"})
        assert len(right.statuses) == len(left.statuses) + 2


def children(client) -> set[str]:
    return {t.child_frame_id for m in client.transforms for t in m.transforms}
