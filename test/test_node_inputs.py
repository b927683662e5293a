# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What the real node takes in, over DDS: images, calibration, masks, depth, wheels, quality of service, time."""

from __future__ import annotations

import array
import dataclasses

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: the node needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from geometry_msgs.msg import TwistWithCovarianceStamped  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from node_support import CAMERA_FRAME, connected_client, image_message, pose_of, running_node  # noqa: E402
from rclpy.qos import QoSReliabilityPolicy, qos_profile_sensor_data  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import CompressedImage, PointCloud2  # noqa: E402
from sensor_msgs.msg import Image as ImageMessage  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from loftr_ros.ros.conversions import ns_to_stamp, stamp_to_ns  # noqa: E402
from loftr_ros.synthetic.room import make_room, room_camera, round_trip  # noqa: E402

CAMERA = room_camera(480, 360)
SECOND = 1_000_000_000
TRUTH = round_trip(16, share=0.2)


@pytest.fixture(scope="module")
def deep():
    """Frames with depth."""
    return list(make_room(CAMERA).frames(TRUTH, rate_hz=10.0, with_depth=True))


@pytest.fixture(scope="module")
def frames(deep):
    return [dataclasses.replace(f, depth=None) for f in deep]


@pytest.fixture(scope="module")
def shared():
    with running_node("inputs", matcher="orb", reliable=True, lost_after=2) as process, connected_client("inputs") as c:
        c.process = process
        yield c


@pytest.fixture
def client(shared):
    shared.start_fresh()
    return shared


# -- images ----------------------------------------------------------------------------------------------------------


def encoded(grey: np.ndarray, encoding: str) -> np.ndarray:
    """Pixels whose brightness is the grey image, in an encoding."""
    if encoding.startswith("bayer") or encoding in ("mono8", "8UC1"):
        return grey
    if encoding in ("mono16", "16UC1"):
        return grey.astype(np.uint16) << 4  # a 12-bit sensor
    if encoding in ("yuv422", "uyvy"):
        return np.dstack([np.full_like(grey, 128), grey])
    if encoding in ("yuv422_yuy2", "yuyv"):
        return np.dstack([grey, np.full_like(grey, 128)])
    return np.repeat(grey[:, :, None], 4 if encoding in ("rgba8", "bgra8") else 3, axis=2)


ENCODINGS = (
    "mono8", "mono16", "rgb8", "bgr8", "rgba8", "bgra8", "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8",
    "yuv422", "yuv422_yuy2", "16UC1",
)  # fmt: skip


def test_every_common_encoding_is_the_same_picture(client, frames):
    client.send_info(CAMERA)
    client.send(frames[0])
    for i, encoding in enumerate(ENCODINGS, 1):
        client.image.publish(image_message(encoded(frames[0].image, encoding), i * SECOND, encoding))
    assert client.wait(lambda: len(client.statuses) == len(ENCODINGS) + 1)
    matches = {e: int(status["matches"]) for e, status in zip(ENCODINGS, client.statuses[1:])}
    for encoding, count in matches.items():
        # What a mosaic does not hold is interpolated, so some corners move.
        assert count > (0.5 if encoding.startswith("bayer") else 0.95) * matches["mono8"], encoding
    assert {status["state"] for status in client.statuses[1:]} == {"STATIC"}


def test_padded_rows_are_no_pixels(client, frames):
    client.play(frames[:1], CAMERA)
    padded = np.zeros((CAMERA.height, CAMERA.width + 24), np.uint8)
    padded[:, : CAMERA.width] = frames[0].image
    message = image_message(padded, SECOND, "mono8")
    message.width = CAMERA.width
    client.image.publish(message)
    assert client.wait(lambda: len(client.statuses) == 2)
    assert client.statuses[1]["state"] == "STATIC"
    assert int(client.statuses[1]["inliers"]) > 500


def test_compressed_images_come_below_the_remapped_name(frames):
    parameters = {"matcher": "orb", "reliable": True, "image_transport": "compressed", "remap": ["image:=cam/raw"]}
    with running_node("jpeg", **parameters), connected_client("jpeg", wait=False) as client:
        publisher = client.node.create_publisher(CompressedImage, "cam/raw/compressed", 10)
        client.wait_for_subscriber(publisher)
        client.wait_for_subscriber(client.camera_info)
        client.send_info(CAMERA)
        assert client.image.get_subscription_count() == 0
        broken = CompressedImage(format="jpeg", data=array.array("B", b"no picture"))
        broken.header.stamp.nanosec = 1
        publisher.publish(broken)
        for i, suffix in enumerate((".png", ".jpg", ".png")):
            header = Header(stamp=ns_to_stamp(frames[2 * i].stamp_ns + 10), frame_id=CAMERA_FRAME)
            data = cv2.imencode(suffix, frames[2 * i].image)[1].tobytes()
            publisher.publish(CompressedImage(header=header, format=suffix[1:], data=array.array("B", data)))
        assert client.wait(lambda: len(client.statuses) == 3)
        assert int(client.statuses[1]["matches"]) > 200
        assert [stamp_to_ns(m.header.stamp) for m in client.odometry][:1] == [frames[0].stamp_ns + 10]


def test_mask_from_the_topic_hides_its_black_part(client, frames):
    mask = client.node.create_publisher(ImageMessage, "mask", qos_profile_sensor_data)
    rows = client.gather(PointCloud2, "~/match_array")
    client.wait_for_subscriber(mask)
    client.wait_for_publisher("~/match_array")
    client.play(frames[:3], CAMERA)
    assert client.wait(lambda: len(rows) == 3)
    assert columns(rows[-1])["x1"].min() < CAMERA.width / 4
    pixels = np.full((CAMERA.height // 2, CAMERA.width // 2), 255, np.uint8)  # a small mask is enlarged
    pixels[:, : CAMERA.width // 4] = 0
    mask.publish(image_message(pixels, 0, "mono8"))
    client.wait(lambda: False, 0.3)
    client.play(frames[3:4], CAMERA)
    assert client.wait(lambda: len(rows) == 4)
    found = columns(rows[-1])
    assert len(found) > 50
    assert found["x1"].min() >= CAMERA.width / 2 - 1


def columns(message: PointCloud2) -> np.ndarray:
    """The rows of a cloud as records, read by its own description."""
    kinds = {2: "u1", 6: "<u4", 7: "<f4"}
    dtype = np.dtype(
        {
            "names": [f.name for f in message.fields],
            "formats": [kinds[f.datatype] for f in message.fields],
            "offsets": [f.offset for f in message.fields],
            "itemsize": message.point_step,
        }
    )
    assert len(message.data) == message.row_step == message.width * message.point_step
    return np.frombuffer(message.data, dtype)


# -- calibration -----------------------------------------------------------------------------------------------------


def test_calibration_from_a_file_needs_no_topic(frames, tmp_path):
    numbers = ", ".join(str(v) for v in CAMERA.matrix.ravel())
    (tmp_path / "camera.yaml").write_text(
        f"image_width: {CAMERA.width}\nimage_height: {CAMERA.height}\n"
        f"camera_matrix: {{rows: 3, cols: 3, data: [{numbers}]}}\n"
        "distortion_model: plumb_bob\ndistortion_coefficients: {rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}\n"
    )
    parameters = {"matcher": "orb", "reliable": True, "camera_info_file": tmp_path / "camera.yaml"}
    with running_node("file", **parameters), connected_client("file", wait=False) as client:
        client.wait_for_subscriber(client.image)
        client.send(frames[0])
        assert client.wait(lambda: len(client.odometry) == 1)
        assert client.camera_info.get_subscription_count() == 0


# -- metres ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rgbd():
    with running_node("rgbd", matcher="orb", reliable=True, scale="depth") as process, connected_client("rgbd") as c:
        c.process = process
        yield c


@pytest.mark.parametrize(("late_ms", "metric"), [(15, "true"), (60, "false")])
def test_depth_belongs_to_the_image_of_nearly_its_time(rgbd, deep, late_ms, metric):
    rgbd.start_fresh()
    rgbd.send_info(CAMERA)
    rgbd.depth.publish(image_message(deep[0].depth, deep[0].stamp_ns + late_ms * 1_000_000, "32FC1"))
    rgbd.send(deep[0])
    assert rgbd.wait(lambda: bool(rgbd.statuses))
    assert rgbd.statuses[0]["metric"] == metric


def test_depth_that_comes_after_its_image_is_waited_for(rgbd, deep):
    rgbd.start_fresh()
    rgbd.send_info(CAMERA)
    rgbd.send(deep[0])
    rgbd.wait(lambda: False, 0.03)
    rgbd.depth.publish(image_message(deep[0].depth, deep[0].stamp_ns, "32FC1"))
    assert rgbd.wait(lambda: bool(rgbd.statuses))
    assert rgbd.statuses[0]["metric"] == "true"


def test_small_depth_image_in_millimetres_is_fitted_to_the_image(rgbd, deep):
    rgbd.start_fresh()
    for frame in deep[:6]:
        rgbd.send_info(CAMERA)
        small = cv2.resize(frame.depth, (CAMERA.width // 2, CAMERA.height // 2), interpolation=cv2.INTER_NEAREST)
        rgbd.depth.publish(image_message((small * 1000).astype(np.uint16), frame.stamp_ns, "16UC1"))
        rgbd.send(frame)
    assert rgbd.wait(lambda: len(rgbd.odometry) == 6)
    moved = np.linalg.norm(pose_of(rgbd.odometry[-1])[:3, 3])
    true = np.linalg.norm(TRUTH[5][:3, 3] - TRUTH[0][:3, 3])
    assert moved == pytest.approx(true, rel=0.1)


def wheel_positions(client):
    publisher = client.node.create_publisher(Odometry, "wheel_odom", 10)

    def send(frame) -> None:
        message = Odometry(header=Header(stamp=ns_to_stamp(frame.stamp_ns)))
        p = message.pose.pose.position
        p.x, p.y, p.z = TRUTH[round(frame.stamp_ns / SECOND * 10)][:3, 3].tolist()
        publisher.publish(message)

    return publisher, send


def wheel_speeds(client):
    """The mean speed of each step, from its begin to its end."""
    publisher = client.node.create_publisher(TwistWithCovarianceStamped, "wheel_twist", 10)

    def send(frame) -> None:
        i = round(frame.stamp_ns / SECOND * 10)
        way = np.linalg.norm(TRUTH[i][:3, 3] - TRUTH[i - 1][:3, 3]) if i else 0.0
        for back_ns in (99_000_000, 0):
            message = TwistWithCovarianceStamped(header=Header(stamp=ns_to_stamp(frame.stamp_ns + SECOND - back_ns)))
            message.twist.twist.linear.x = float(way / 0.1)
            publisher.publish(message)

    return publisher, send


@pytest.fixture(scope="module")
def wheeled():
    parameters = {"matcher": "sift", "reliable": True, "scale": "odometry"}
    with running_node("wheels", **parameters) as process, connected_client("wheels") as client:
        client.process = process
        yield client


@pytest.mark.parametrize("wheels", [wheel_positions, wheel_speeds])
def test_wheels_make_metres(wheeled, frames, wheels):
    wheeled.start_fresh()
    publisher, send = wheels(wheeled)
    wheeled.wait_for_subscriber(publisher)
    if wheels is wheel_speeds:  # stamps before the first frame, too
        frames = [dataclasses.replace(f, stamp_ns=f.stamp_ns + SECOND) for f in frames]
        wheeled.play(frames, CAMERA, before=lambda f: send(dataclasses.replace(f, stamp_ns=f.stamp_ns - SECOND)))
    else:
        wheeled.play(frames, CAMERA, before=send)
    wheeled.settled()
    assert wheeled.statuses[-1]["metric"] == "true"
    wheeled.node.destroy_publisher(publisher)
    assert len(wheeled.odometry) > 8  # none before the length of a metre is known, but for the first
    moved = np.linalg.norm(pose_of(wheeled.odometry[-1])[:3, 3])
    assert moved == pytest.approx(np.linalg.norm(TRUTH[-1][:3, 3] - TRUTH[0][:3, 3]), rel=0.05)


# -- quality of service and time -------------------------------------------------------------------------------------


def test_camera_that_publishes_best_effort_is_heard_and_odometry_is_reliable(frames):
    """And the node's default does not hold a reliable camera back."""
    with running_node("qos", matcher="orb"), connected_client("qos") as client:
        odometry = client.gather(Odometry, "odom", qos_profile_sensor_data)
        best_effort = client.node.create_publisher(ImageMessage, "image", qos_profile_sensor_data)
        client.wait_for_subscriber(best_effort)
        client.play(frames[:2], CAMERA)  # reliable
        client.settled()
        count = len(client.statuses)
        for frame in frames[2:]:
            best_effort.publish(image_message(frame.image, frame.stamp_ns, "mono8"))
            if client.wait(lambda: len(client.statuses) > count, 1.0):
                break
        assert len(client.statuses) > count
        assert client.wait(lambda: len(odometry) == len(client.odometry) > 0)  # best-effort and reliable subscribers
        (image,) = client.node.get_subscriptions_info_by_topic("image")
        assert image.qos_profile.reliability == QoSReliabilityPolicy.BEST_EFFORT
        (odom,) = client.node.get_publishers_info_by_topic("odom")
        assert odom.qos_profile.reliability == QoSReliabilityPolicy.RELIABLE


def test_quality_of_service_can_be_overridden():
    overrides = {
        "qos_overrides./override/image.subscription.reliability": "reliable",
        "qos_overrides./override/odom.publisher.reliability": "best_effort",
    }
    with running_node("override", matcher="orb", **overrides), connected_client("override") as client:
        (image,) = client.node.get_subscriptions_info_by_topic("image")
        assert image.qos_profile.reliability == QoSReliabilityPolicy.RELIABLE
        (odom,) = client.node.get_publishers_info_by_topic("odom")
        assert odom.qos_profile.reliability == QoSReliabilityPolicy.BEST_EFFORT


def test_simulated_time_stamps_the_diagnostics_and_the_images_theirs(frames):
    with (
        running_node("sim", matcher="orb", reliable=True, use_sim_time=True),
        connected_client("sim") as client,
    ):
        clock = client.node.create_publisher(Clock, "/clock", 10)
        client.wait_for_subscriber(clock)
        assert client.wait(lambda: bool(client.diagnostics))  # they speak before there is a clock
        client.play(frames[:1], CAMERA, before=lambda f: clock.publish(Clock(clock=ns_to_stamp(1234 * SECOND))))
        client.diagnostics.clear()
        assert client.wait(lambda: bool(client.diagnostics))
        assert stamp_to_ns(client.diagnostics[-1].header.stamp) == 1234 * SECOND
        assert stamp_to_ns(client.odometry[0].header.stamp) == frames[0].stamp_ns


# -- diagnostics -----------------------------------------------------------------------------------------------------


def test_diagnostics_tell_what_is_missing_and_how_it_goes(client, frames):
    def level_and_text() -> tuple[bytes, str]:
        client.diagnostics.clear()
        assert client.wait(lambda: bool(client.diagnostics))
        (status,) = client.diagnostics[-1].status
        return status.level, status.message

    assert level_and_text() == (DiagnosticStatus.STALE, "No images come on /inputs/image.")
    client.send(frames[0])
    assert client.wait(lambda: any("is missing" in d.status[0].message for d in client.diagnostics))
    level, text = level_and_text()
    assert level == DiagnosticStatus.WARN
    assert text == "Images come in, but a calibration on /inputs/camera_info (or camera_info_file) is missing."
    client.play(frames, CAMERA)
    assert level_and_text()[0] == DiagnosticStatus.OK
    blank = np.full_like(frames[0].image, 100)
    dark = [dataclasses.replace(f, image=blank, stamp_ns=f.stamp_ns + 10 * SECOND) for f in frames[:3]]
    client.play(dark, CAMERA)
    assert client.statuses[-1]["state"] == "LOST"
    level, text = level_and_text()
    assert level == DiagnosticStatus.ERROR
    assert text == client.statuses[-1]["message"] != ""
    values = {v.key: v.value for v in client.diagnostics[-1].status[0].values}
    assert float(values["images_per_s"]) >= 0 and float(values["frames_per_s"]) >= 0
    assert values["state"] == "LOST"
