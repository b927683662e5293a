# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What reaches a running node and cannot be used, and faults while it runs, over DDS.

The node runs in this process, so that its diagnosis can be asked for at once instead of once a second. After every bad
message it must live, say the sentence, and follow the next good frame without a jump.
"""

from __future__ import annotations

import array
import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: the node needs ROS 2")

import rclpy  # noqa: E402
from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from geometry_msgs.msg import PoseWithCovarianceStamped, TwistWithCovarianceStamped  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from node_support import (  # noqa: E402
    AT_BASE,
    CAMERA_FRAME,
    Client,
    connected_client,
    image_message,
    node_command,
    pose_of,
)
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from recordings import write_sequence  # noqa: E402
from sensor_msgs.msg import CompressedImage, RegionOfInterest  # noqa: E402
from sensor_msgs.msg import Image as ImageMessage  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from test_bad_input_files import attempt, jpeg_that_claims, png_that_claims  # noqa: E402

from loftr_ros.config import ScaleConfig  # noqa: E402
from loftr_ros.errors import ExhaustedError  # noqa: E402
from loftr_ros.geometry import adjustment  # noqa: E402
from loftr_ros.matching import load_matcher  # noqa: E402
from loftr_ros.odometry import VisualOdometry  # noqa: E402
from loftr_ros.ros import node, player  # noqa: E402
from loftr_ros.ros.conversions import ns_to_stamp  # noqa: E402
from loftr_ros.ros.node import VisualOdometryNode  # noqa: E402
from loftr_ros.synthetic.room import make_room, room_camera, round_trip  # noqa: E402
from loftr_ros.types import Matches  # noqa: E402

CAMERA = room_camera(320, 240)
TRUTH = round_trip(24, share=0.15)
PERIOD_NS = 100_000_000
MOST_STEP_M = 0.35  # between two frames; the truth's are 0.04 m
SECONDS = 5.0


@contextmanager
def node_here(namespace: str, **parameters: object) -> Iterator[VisualOdometryNode]:
    context = rclpy.Context()
    rclpy.init(context=context)
    parameters = {"matcher": "orb", "reliable": True, "extrinsics": AT_BASE, **parameters}
    node = VisualOdometryNode(
        namespace=namespace,
        context=context,
        parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()],
    )
    node.start()
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    try:
        yield node
        assert thread.is_alive(), "an exception has ended the node"
    finally:
        executor.shutdown()
        thread.join()
        node.close()
        rclpy.try_shutdown(context=context)


class Robot:
    """A node, its client, and a camera that goes on and on, to and fro."""

    def __init__(self, node: VisualOdometryNode, client: Client, frames: list) -> None:
        self.node, self.client, self._frames = node, client, frames
        self._count = 0

    def next_frame(self):
        """The camera's next frame, with ever later stamps."""
        there = self._count % (2 * len(self._frames) - 2)
        i = min(there, 2 * len(self._frames) - 2 - there)
        self._count += 1
        return dataclasses.replace(self._frames[i], stamp_ns=self._count * PERIOD_NS)

    def go_on(self, frames: int = 1, camera=CAMERA) -> dict[str, str]:
        """Play good frames; the status of the last one."""
        self.client.play([self.next_frame() for _ in range(frames)], camera)
        return self.client.statuses[-1]

    def follows(self) -> None:
        """The next frame is followed, near the last pose."""
        self.client.settled()
        before = pose_of(self.client.odometry[-1])
        status = self.go_on()
        assert status["pose"] == "true" and status["state"] in ("OK", "STATIC", "LOW_PARALLAX"), status
        self.client.settled()
        step = pose_of(self.client.odometry[-1])[:3, 3] - before[:3, 3]
        assert np.linalg.norm(step) < MOST_STEP_M

    def recovers(self) -> None:
        """The camera is followed again within a second of frames, near where it was last."""
        for _ in range(10):
            if self.go_on()["pose"] == "true":
                break
        self.client.settled()
        *_, before, now = (pose_of(message)[:3, 3] for message in self.client.odometry[-2:])
        assert np.linalg.norm(now - before) < MOST_STEP_M
        self.follows()

    def says(self, words: str) -> str:
        """Wait until the diagnosis has these words, within seconds; the whole of it."""
        end = time.monotonic() + SECONDS
        while words not in (text := self.node._diagnosis().message):
            assert time.monotonic() < end, f"'{words}' is not in: {text}"
            time.sleep(0.01)
        assert "\n" not in text and "Traceback" not in text
        return text

    def forget_refusals(self) -> None:
        self.node._inputs.refusals.clear()


@pytest.fixture(scope="module")
def frames() -> list:
    return list(make_room(CAMERA).frames(TRUTH, rate_hz=10.0, with_depth=True))


@pytest.fixture(scope="module")
def rgbd(frames, tmp_path_factory) -> Iterator[Robot]:
    folder = tmp_path_factory.mktemp("poses")
    parameters = {"scale": "depth", "trajectory_folder": str(folder), "pose_log_file": "log.txt", "lost_after": 3}
    parameters["matcher"] = "sift"  # ORB loses this room now and then at this size
    with node_here("bad", **parameters) as node, connected_client("bad") as client:
        robot = Robot(node, client, frames)
        robot.folder = folder
        robot.go_on(4)
        yield robot


@pytest.fixture
def robot(rgbd) -> Robot:
    rgbd.forget_refusals()
    return rgbd


# -- images ----------------------------------------------------------------------------------------------------------

IMAGES = {
    "no such encoding": ({"encoding": "mono32"}, "encoding 'mono32' is not supported"),
    "no encoding": ({"encoding": ""}, "encoding '' is not supported"),
    "an encoding of many letters": ({"encoding": "x" * 300}, "is not supported"),
    "an encoding of more bytes": ({"encoding": "rgb8"}, "says 320x240 pixels of 'rgb8'"),
    "depth for an image": ({"encoding": "32FC1"}, "32FC1"),
    "step too short": ({"step": 10}, "10 bytes a row"),
    "step too long": ({"step": 100000}, "100000 bytes a row"),
    "no step": ({"step": 0}, "0 bytes a row"),
    "no width": ({"width": 0}, "0x240 pixels"),
    "no height": ({"height": 0}, "320x0 pixels"),
    "huge": ({"width": 2**32 - 1, "height": 2**32 - 1, "step": 2**32 - 1}, "4294967295x4294967295 pixels"),
    "wider than its rows": ({"width": 321}, "says 321x240"),
    "no data": ({"data": array.array("B")}, "has 0 bytes"),
    "data cut off": ({"data": array.array("B", bytes(1000))}, "has 1000 bytes"),
    "one pixel": ({"width": 1, "height": 1}, "calibrated for 320x240"),
    "another shape": ({"height": 120}, "images are 320x120"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_lies_is_skipped(robot, name):
    lies, words = IMAGES[name]
    frame = robot.next_frame()
    message = image_message(frame.image, frame.stamp_ns, "mono8")
    for field, value in lies.items():
        setattr(message, field, value)
    robot.client.image.publish(message)
    text = robot.says(words)
    assert "A frame is skipped: " in text
    robot.follows()


def test_the_stamp_of_garbage_means_nothing(robot):
    """Were it taken, time would have jumped back, and the odometry would start anew."""
    robot.follows()
    poses = len(robot.node._outputs.log)
    robot.client.image.publish(image_message(robot.next_frame().image, 0, "mono32"))
    robot.says("'mono32' is not supported")
    robot.follows()
    assert len(robot.node._outputs.log) == poses + 1


def matrix(**changes: float) -> np.ndarray:
    values = CAMERA.matrix.ravel().copy()
    for name, value in changes.items():
        values[{"fx": 0, "skew": 1, "cx": 2, "fy": 4, "last": 8}[name]] = value
    return values


CALIBRATIONS = {
    "NaN": ({"k": matrix(fx=np.nan)}, "not finite"),
    "infinite": ({"k": matrix(cx=np.inf)}, "not finite"),
    "uncalibrated": ({"k": np.zeros(9)}, "not calibrated"),
    "negative focal length": ({"k": matrix(fx=-300.0)}, "must be positive"),
    "no second focal length": ({"k": matrix(fy=0.0)}, "must be positive"),
    "focal length of no camera": ({"k": matrix(fx=1e-200)}, "no camera has"),
    "centre of no camera": ({"k": matrix(cx=1e300)}, "no camera has"),
    "skewed": ({"k": matrix(skew=5.0)}, "must be [fx 0 cx; 0 fy cy; 0 0 1]"),
    "not homogeneous": ({"k": matrix(last=0.0)}, "must be [fx 0 cx; 0 fy cy; 0 0 1]"),
    "three coefficients": ({"d": [0.1, 0.1, 0.1]}, "does not take 3 coefficients"),
    "a thousand coefficients": ({"d": [0.1] * 1000}, "does not take 1000 coefficients"),
    "coefficient NaN": ({"d": [np.nan] * 5}, "not finite"),
    "unknown model": ({"distortion_model": "ball"}, "'ball' is not supported"),
    "no size": ({"width": 0, "height": 0}, "0x0 pixels"),
    "huge": ({"width": 2**31, "height": 2**31}, "2147483648x2147483648 pixels"),
    "region outside": ({"roi": RegionOfInterest(x_offset=300, width=100, height=100)}, "lies outside the image"),
    "region far outside": ({"roi": RegionOfInterest(x_offset=2**32 - 1)}, "lies outside the image"),
    "binned away": ({"binning_x": 2**31}, "leave an image of 0x240 pixels"),
}


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_a_calibration_that_cannot_be_is_refused_and_the_last_one_stays(robot, name):
    fields, words = CALIBRATIONS[name]
    before = robot.node._inputs.calibration
    robot.client.send_info(CAMERA, **fields)
    assert "camera_info is refused: " in robot.says(words)
    assert robot.node._inputs.calibration is before
    robot.follows()


def test_what_is_not_used_of_a_calibration_may_be_garbage(robot):
    robot.client.send_info(CAMERA, r=np.full(9, np.nan), p=np.full(12, np.inf))
    robot.follows()
    assert not robot.node._inputs.refusals


def test_a_calibration_for_another_shape_is_said_until_the_right_one_is_back(robot):
    robot.client.send_info(CAMERA, width=320, height=100)
    time.sleep(0.3)
    frame = robot.next_frame()
    robot.client.send(frame)
    robot.says("The images are 320x240, but the camera is calibrated for 320x100.")
    robot.follows()


# -- depth, masks, poses ---------------------------------------------------------------------------------------------

NOWHERE = np.full((240, 320), np.nan, np.float32)
DEPTHS = {
    "another shape": (image_message(np.ones((240, 100), np.float32), 0, "32FC1"), {}, "100x240, which does not fit"),
    "no size": (image_message(np.ones((240, 320), np.float32), 0, "32FC1"), {"width": 0}, "0x240 pixels"),
    "colours": (image_message(np.ones((240, 960), np.uint8), 0, "rgb8"), {"width": 320}, "must be 16UC1 or 32FC1"),
    "unknown": (image_message(np.ones((240, 320), np.float32), 0, "64FC1"), {}, "'64FC1' is not supported"),
    "a lying step": (image_message(np.ones((240, 320), np.float32), 0, "32FC1"), {"step": 1}, "1 bytes a row"),
    "cut off": (
        image_message(np.ones((240, 320), np.float32), 0, "32FC1"),
        {"data": array.array("B", bytes(9))},
        "has 9 bytes",
    ),
    "NaN": (image_message(NOWHERE, 0, "32FC1"), {}, ""),
    "infinite": (image_message(NOWHERE + np.float32(np.inf), 0, "32FC1"), {}, ""),
    "negative": (image_message(np.full((240, 320), -3, np.float32), 0, "32FC1"), {}, ""),
    "of another time": (image_message(np.ones((240, 320), np.float32), 0, "32FC1"), {"header": Header()}, ""),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_a_depth_image_that_cannot_be_used_is_left_out(robot, name):
    """Its frame is followed all the same, and so is the next one."""
    message, lies, words = DEPTHS[name]
    frame = dataclasses.replace(robot.next_frame(), depth=None)
    message.header = Header(stamp=ns_to_stamp(frame.stamp_ns), frame_id=CAMERA_FRAME)
    for field, value in lies.items():
        setattr(message, field, value)
    robot.client.play([frame], CAMERA, before=lambda _: robot.client.depth.publish(message))
    assert robot.client.statuses[-1]["pose"] == "true"
    if words:
        assert "A depth image is refused: " in robot.says(words)
    robot.follows()


@pytest.mark.parametrize(
    ("lies", "words"),
    [({"encoding": "mask"}, "'mask' is not supported"), ({"width": 0}, "0x240 pixels"), ({"step": 3}, "3 bytes a row")],
)
def test_a_mask_that_cannot_be_used_is_refused(robot, lies, words):
    publisher = robot.client.node.create_publisher(ImageMessage, "mask", 10)
    robot.client.wait_for_subscriber(publisher)
    message = image_message(np.full((240, 320), 255, np.uint8), 0, "mono8")
    for field, value in lies.items():
        setattr(message, field, value)
    publisher.publish(message)
    assert "A mask is refused: " in robot.says(words)
    assert robot.node._inputs.mask is None
    robot.follows()
    robot.client.node.destroy_publisher(publisher)


def start_pose(x: float = 0.0, w: float = 1.0, covariance: float = 0.0, frame: str = "") -> PoseWithCovarianceStamped:
    message = PoseWithCovarianceStamped(header=Header(frame_id=frame))
    message.pose.pose.position.x, message.pose.pose.orientation.w = x, w
    message.pose.covariance = np.diag([covariance] * 6).ravel()
    return message


POSES = {
    "place NaN": (start_pose(x=np.nan), "is not finite"),
    "place infinite": (start_pose(x=np.inf), "is not finite"),
    "place not on Earth": (start_pose(x=1e300), "no place on Earth"),
    "rotation NaN": (start_pose(w=np.nan), "not 1"),
    "no rotation": (start_pose(w=0.0), "has length 0, not 1"),
    "long rotation": (start_pose(w=2.0), "has length 2, not 1"),
    "covariance NaN": (start_pose(covariance=np.nan), "not finite"),
    "covariance huge": (start_pose(covariance=1.7e308), "no place on Earth"),
    "covariance negative": (start_pose(covariance=-1.0), "negative variance"),
    "another frame": (start_pose(frame="mars"), "must be in the frame 'odom', not 'mars'"),
}


@pytest.mark.parametrize("name", POSES)
def test_a_pose_that_cannot_be_is_not_taken(robot, name):
    message, words = POSES[name]
    publisher = robot.client.node.create_publisher(PoseWithCovarianceStamped, "vo_node/set_pose", 10)
    robot.client.wait_for_subscriber(publisher)
    publisher.publish(message)
    assert "set_pose is refused: " in robot.says(words)
    robot.follows()
    robot.client.node.destroy_publisher(publisher)


# -- stamps ----------------------------------------------------------------------------------------------------------


def test_a_camera_that_does_not_stamp_is_told_so(robot):
    """The first of its frames starts anew (time has jumped back); the others are skipped."""
    end = time.monotonic() + SECONDS
    text = ""
    while not text.endswith("Frames with a stamp that was there before are skipped."):
        assert time.monotonic() < end, text
        robot.client.image.publish(image_message(robot.next_frame().image, 0, "mono8"))
        time.sleep(0.05)
        robot.node._tracker.status_at -= 10.0  # as if this went on for long
        text = robot.node._diagnosis().message
    robot.recovers()


@pytest.mark.parametrize("stamp_ns", [-5_000_000_000, -(2**31) * 10**9, 1, (2**31 - 1) * 10**9])
def test_stamps_from_the_ends_of_time(robot, stamp_ns):
    """They start anew, or look like a long gap, and the next good stamp is followed."""
    frame = dataclasses.replace(robot.next_frame(), stamp_ns=stamp_ns)
    robot.client.depth.publish(image_message(frame.depth, stamp_ns, "32FC1"))
    robot.client.send(frame)
    wanted = ("-" if stamp_ns < 0 else "") + f"{abs(stamp_ns) // 10**9}.{abs(stamp_ns) % 10**9:09d}"
    assert robot.client.wait(lambda: robot.client.statuses[-1]["stamp"] == wanted, SECONDS)
    robot.recovers()


# -- sizes that change -----------------------------------------------------------------------------------------------


def test_images_that_change_their_size_go_on_from_the_last_pose(robot):
    robot.follows()
    for scale in (0.5, 1.0, 2.0, 1.0):
        before = pose_of(robot.client.odometry[-1])
        frame = robot.next_frame()
        size = (int(320 * scale), int(240 * scale))
        changed = dataclasses.replace(frame, image=cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA))
        robot.client.play([changed], CAMERA)
        robot.client.settled()
        assert robot.client.statuses[-1]["pose"] == "true"
        assert np.linalg.norm(pose_of(robot.client.odometry[-1])[:3, 3] - before[:3, 3]) < MOST_STEP_M
    robot.follows()


# -- parameters and services -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_matches", 0),
        ("min_matches", 2**62),
        ("ratio", float("nan")),
        ("ratio", float("inf")),
        ("trajectory_file", "/etc/passwd"),
        ("trajectory_file", "../../x"),
        ("trajectory_file", ""),
        ("trajectory_format", "csv"),
        ("extrinsics", [1.0]),
        ("matcher", "orb"),
        ("out_of_memory", "stop"),
        ("nonsense", 1),
        ("picture_width", 1),
        ("path_rate_hz", -1.0),
        ("lost_after", None),
    ],
)
def test_a_parameter_that_cannot_be_is_refused_at_run_time(robot, name, value):
    result = robot.client.set_parameter(name, value)
    assert not result.successful and result.reason.strip() and "Traceback" not in result.reason
    robot.follows()


@pytest.mark.parametrize("name", ["x" * 300, "log.txt/x", "loop/x"])
def test_a_trajectory_that_cannot_be_saved_is_said(robot, name):
    loop = robot.folder / "loop"
    if not loop.is_symlink():
        loop.symlink_to(loop)
    assert robot.client.set_parameter("trajectory_file", name).successful
    answer = robot.client.call(Trigger, "save_trajectory")
    assert not answer.success and "cannot be" in answer.message and answer.message.endswith(".")
    assert robot.client.set_parameter("trajectory_file", "trajectory.txt").successful
    assert robot.client.call(Trigger, "save_trajectory").success
    robot.follows()


# -- faults while running --------------------------------------------------------------------------------------------


def test_a_camera_that_stops_and_comes_back(robot):
    robot.node._counted = (time.monotonic(), robot.node._inputs.received, 0)
    robot.says("No images come on /bad/image.")
    assert robot.node._diagnosis().level == DiagnosticStatus.STALE
    robot.follows()
    assert robot.node._diagnosis().level == DiagnosticStatus.OK


def test_a_depth_camera_that_is_late_makes_metres_from_its_first_image_on(frames):
    """Without a jump, though lengths had no unit before."""
    late = [dataclasses.replace(frame, depth=None) for frame in frames[:3]] + frames[3:16]
    odometry = VisualOdometry(load_matcher("sift"), CAMERA, scale=ScaleConfig(source="depth"))
    found = [odometry.process(frame) for frame in late]
    assert [estimate.metric for estimate in found] == [False] * 3 + [True] * 13
    assert {estimate.state.value for estimate in found[3:]} <= {"OK", "STATIC", "LOW_PARALLAX"}
    last = next(e.pose_world_camera for e in reversed(found[:3]) if e.pose_world_camera is not None)
    assert found[3].is_keyframe
    np.testing.assert_allclose(found[3].pose_world_camera, last, atol=1e-12)
    way = found[-1].pose_world_camera[:3, 3] - found[3].pose_world_camera[:3, 3]
    true = TRUTH[15][:3, 3] - TRUTH[3][:3, 3]
    assert np.linalg.norm(way) == pytest.approx(np.linalg.norm(true), rel=0.1)


def test_a_publisher_that_dies_and_another_one_in_its_place(robot):
    client = robot.client
    client.node.destroy_publisher(client.image)
    client.image = client.node.create_publisher(ImageMessage, "image", 300)
    client.wait_for_subscriber(client.image)
    robot.follows()


def broken(*_):
    raise IndexError("list index out of range\nand more")


def not_finite(matches: Matches) -> Matches:
    return dataclasses.replace(matches, points1=np.full_like(matches.points1, np.nan))


def torn(matches: Matches) -> Matches:
    return dataclasses.replace(matches, sigma=matches.sigma[:-1])


def changed(robot: Robot, change):
    plain = robot.node._matcher.match_features
    return lambda *features: change(plain(*features))


@pytest.mark.parametrize(
    ("method", "make", "words"),
    [
        ("extract", lambda robot: broken, "The matcher failed: IndexError: list index out of range."),
        ("match_features", lambda robot: broken, "The matcher failed: IndexError: list index out of range."),
        ("match_features", lambda robot: changed(robot, lambda matches: None), "The matcher failed: AttributeError"),
        ("match_features", lambda robot: changed(robot, torn), "The matcher failed: ValueError: its matches have"),
        ("match_features", lambda robot: changed(robot, not_finite), "Only 0 matches"),
    ],
)
def test_a_matcher_that_fails_costs_its_frames_only(robot, monkeypatch, method, make, words):
    robot.follows()
    count = len(robot.client.odometry)
    with monkeypatch.context() as patch:
        patch.setattr(robot.node._matcher, method, make(robot))
        states = [robot.go_on()["state"] for _ in range(4)]
        assert states == ["FEW_MATCHES", "FEW_MATCHES", "LOST", "LOST"]
        robot.says(words)
        assert robot.node._diagnosis().level == DiagnosticStatus.ERROR
    assert len(robot.client.odometry) == count  # no pose without matches
    robot.recovers()


def no_convergence(monkeypatch, robot):
    plain = adjustment._iterate

    def iterate(*arguments):
        found = plain(*arguments)
        return dataclasses.replace(found, pose=np.full_like(found.pose, np.nan))

    monkeypatch.setattr(adjustment, "_iterate", iterate)


def no_solution(monkeypatch, robot):
    def solve(*_):
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr(adjustment.np.linalg, "solve", solve)


def unforeseen(monkeypatch, robot):
    def linearize(*_):
        raise FloatingPointError("unforeseen")

    monkeypatch.setattr(adjustment, "_linearize", linearize)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_convergence, "did not converge"),
        (no_solution, "do not determine the pose"),
        (unforeseen, "The odometry failed: FloatingPointError: unforeseen."),
    ],
)
def test_a_solver_that_fails_costs_its_frames_only(robot, monkeypatch, spoil, words):
    robot.follows()
    count = len(robot.client.odometry)
    with monkeypatch.context() as patch:
        spoil(patch, robot)
        states = {robot.go_on()["state"] for _ in range(2)}
        robot.says(words)
    assert states == {"FEW_MATCHES"} and len(robot.client.odometry) == count
    robot.recovers()


def test_a_matcher_without_memory_stops_until_it_is_reset(robot, monkeypatch):
    robot.follows()

    def without_memory(image):
        raise ExhaustedError("LoFTR ran out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(robot.node._matcher, "extract", without_memory)
        robot.go_on()
        assert robot.says("LoFTR ran out of memory.").endswith("Nothing is processed until ~/reset.")
        assert robot.node._diagnosis().level == DiagnosticStatus.ERROR
    processed = robot.node._tracker.processed
    for _ in range(3):
        robot.client.send(robot.next_frame())
    time.sleep(0.2)
    assert robot.node._tracker.processed == processed  # though the memory is back
    assert robot.client.call(Trigger, "reset").success
    robot.go_on(2)  # at the origin
    robot.follows()


def test_a_full_disk_ends_neither_the_odometry_nor_the_pose_log(robot, monkeypatch):
    from loftr_ros.ros import pose_log

    robot.follows()
    plain, log = pose_log.os.pwrite, robot.folder / "log.txt"
    whole = log.read_text()

    def half(file, data, at):
        return plain(file, data[: len(data) // 2], at)

    with monkeypatch.context() as patch:
        patch.setattr(pose_log.os, "pwrite", half)
        robot.follows()
    assert log.read_text() == whole  # no half line
    robot.follows()
    added = log.read_text().removeprefix(whole)
    assert added.count("\n") == 1 and len(added.split()) == 8


# -- starts ----------------------------------------------------------------------------------------------------------

# {bad}: a file of nonsense; {dir}: an empty folder; {seq}: a good sequence; {none}: no file.
STARTS = {
    "unknown parameter": (node, "-p min_match:=3", "did you mean 'min_matches'?"),
    "parameter of a wrong type": (node, "-p min_matches:=many", "The parameter min_matches is refused"),
    "parameter out of range": (node, "-p ratio:=7.0", "The parameter ratio is refused"),
    "parameter of no choice": (node, "-p scale:=guess", "scale must be one of none, depth"),
    "infinite parameter": (node, "-p max_depth:=.inf", "max_depth"),
    "six extrinsics": (node, "-p extrinsics:=[0.,0.,0.,0.,0.,1.]", "extrinsics must have 0 or 7 numbers, not 6."),
    "extrinsics without a rotation": (node, "-p extrinsics:=[0.,0.,0.,0.,0.,0.,0.]", "extrinsics is refused"),
    "extrinsics NaN": (node, "-p extrinsics:=[.nan,0.,0.,0.,0.,0.,1.]", "extrinsics must be finite"),
    "parameter file that is none": (node, "--params-file {yaml}", "The arguments are refused"),
    "no parameter file": (node, "--params-file {none}", "The arguments are refused"),
    "remapping that is none": (node, "-r a:=", "The arguments are refused"),
    "bad calibration file": (node, "-p camera_info_file:={bad}", "lacks or garbles a field"),
    "no calibration file": (node, "-p camera_info_file:={none}", "cannot be read"),
    "bad mask": (node, "-p mask_file:={bad}", "is not a readable image"),
    "bad weights": (node, "-p matcher:=tiny -p weights:={bad}", "weights file"),
    "no GPU": (node, "-p matcher:=tiny -p device:=cuda", "GPU"),
    "pose log that cannot be made": (node, "-p trajectory_folder:=/proc/x -p pose_log_file:=a", "cannot be made"),
    "pose log that is a folder": (node, "-p trajectory_folder:={dir} -p pose_log_file:=inner", "Is a directory"),
    "player: nothing to play": (player, "{none}", "does not exist"),
    "player: no images": (player, "{dir}", "no images"),
    "player: rate NaN": (player, "{seq} --rate nan", "--rate must be 0 or a number"),
    "player: rate infinite": (player, "{seq} --rate inf", "--rate must be 0 or a number"),
    "player: no node's name": (player, "{seq} --node a/b", "cannot be the name of a node"),
    "player: no ground truth": (player, "{seq} --groundtruth {none}", "does not exist"),
    "player: extrinsics NaN": (player, "{seq} --extrinsics nan 0 0 0 0 0 1", "is not finite"),
    "player: extrinsics without a rotation": (player, "{seq} --extrinsics 0 0 0 0 0 0 0", "not 1"),
    "player: nowhere to write": (player, "{seq} --output /proc/x", "cannot be made"),
}


@pytest.mark.parametrize("name", STARTS)
def test_a_start_that_cannot_be(tmp_path, capfd, name):
    command, arguments, words = STARTS[name]
    places = {"bad": tmp_path / "bad.yaml", "dir": tmp_path / "dir", "none": tmp_path / "none.yaml"}
    places["bad"].write_text("no image")
    (places["dir"] / "inner").mkdir(parents=True)
    places["yaml"] = tmp_path / "no.yaml"
    places["yaml"].write_text("a: [")
    places["seq"] = write_sequence(tmp_path / "sequence", [np.zeros((24, 32), np.uint8)] * 3)
    given = arguments.format(**places).split()
    if command is node:
        if "extrinsics" not in arguments:
            given += ["-p", f"extrinsics:={AT_BASE}".replace(" ", "")]
        given = ["--ros-args", "-p", "matcher:=orb", *given]
    assert words in attempt(capfd, command, *given)


# -- other inputs ----------------------------------------------------------------------------------------------------


def compressed(data: bytes) -> CompressedImage:
    return CompressedImage(format="png", data=array.array("B", data))


def test_compressed_images_that_cannot_be_decoded_are_skipped(frames):
    png = cv2.imencode(".png", frames[0].image)[1].tobytes()
    bad = {
        b"": "0 bytes of a compressed image",
        b"no image": "8 bytes of a compressed image",
        png[:30]: "30 bytes of a compressed image cannot be decoded",
        png_that_claims(60000, 60000): "60000x60000 pixels",
        jpeg_that_claims(65000, 65000): "65000x65000 pixels",
        png_that_claims(0, 0): "0x0 pixels",
    }
    with node_here("jpg", image_transport="compressed") as node, connected_client("jpg", wait=False) as client:
        robot = Robot(node, client, frames)
        publisher = client.node.create_publisher(CompressedImage, "image/compressed", 100)
        client.wait_for_subscriber(publisher)
        client.wait_for_subscriber(client.camera_info)
        client.send_info(CAMERA)
        for i, (data, words) in enumerate(bad.items()):
            robot.forget_refusals()
            publisher.publish(compressed(data))
            assert "A frame is skipped: " in robot.says(words)
            good = compressed(png)
            good.header = Header(stamp=ns_to_stamp((i + 1) * PERIOD_NS), frame_id=CAMERA_FRAME)
            publisher.publish(good)
            assert client.wait(lambda i=i: len(client.statuses) == i + 1, SECONDS)
        assert [status["state"] for status in client.statuses[1:]] == ["STATIC"] * (len(bad) - 1)


def wheel_position(stamp_ns: int, x: float) -> Odometry:
    message = Odometry(header=Header(stamp=ns_to_stamp(stamp_ns)))
    message.pose.pose.position.x = x
    return message


def wheel_speed(stamp_ns: int, x: float) -> TwistWithCovarianceStamped:
    message = TwistWithCovarianceStamped(header=Header(stamp=ns_to_stamp(stamp_ns)))
    message.twist.twist.linear.x = x
    return message


def test_wheels_that_tell_nonsense_do_not_spoil_the_metres(frames):
    """Positions, with nonsense between them: the length of the way comes out right all the same."""
    nonsense = {
        "its position is not finite": lambda stamp: wheel_position(stamp, np.nan),
        "its position is not finite.": lambda stamp: wheel_position(stamp, -np.inf),
        "its position has jumped by 1e+09 m": lambda stamp: wheel_position(stamp, 1e9),
        "a speed of nan m/s cannot be": lambda stamp: wheel_speed(stamp, np.nan),
        "a speed of inf m/s cannot be": lambda stamp: wheel_speed(stamp, np.inf),
        "a speed of 1e+10 m/s cannot be": lambda stamp: wheel_speed(stamp, 1e10),
    }
    way = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff([p[:3, 3] for p in TRUTH], axis=0), axis=1))])
    with node_here("wheel", scale="odometry", matcher="sift") as node, connected_client("wheel") as client:
        robot = Robot(node, client, [dataclasses.replace(frame, depth=None) for frame in frames])
        publishers = {
            kind: client.node.create_publisher(kind, topic, 10)
            for kind, topic in ((Odometry, "wheel_odom"), (TwistWithCovarianceStamped, "wheel_twist"))
        }
        for publisher in publishers.values():
            client.wait_for_subscriber(publisher)

        def send(frame) -> None:
            """The way, backwards, after some nonsense."""
            i = frame.stamp_ns // PERIOD_NS - 1
            if i % 3 == 0 and nonsense:
                words = next(iter(nonsense))
                message = nonsense.pop(words)(frame.stamp_ns - PERIOD_NS // 2)
                robot.forget_refusals()
                publishers[type(message)].publish(message)
                end = time.monotonic() + SECONDS
                while words not in "".join(text for text, _ in list(node._inputs.refusals.values())):
                    assert time.monotonic() < end, words
                    time.sleep(0.005)
            publishers[Odometry].publish(wheel_position(frame.stamp_ns, -float(way[i])))

        good = [robot.next_frame() for _ in TRUTH]
        client.play(good, CAMERA, before=send)
        client.settled()
        assert not nonsense and client.statuses[-1]["metric"] == "true"
        moved = np.linalg.norm(pose_of(client.odometry[-1])[:3, 3])
        assert moved == pytest.approx(np.linalg.norm(TRUTH[-1][:3, 3] - TRUTH[0][:3, 3]), rel=0.15)


def test_a_node_that_is_killed_leaves_every_pose_that_it_published(frames, tmp_path):
    """kill -9; then another one goes on in the same file, behind a line that was cut off."""
    import signal
    import subprocess

    from node_support import ROOT

    parameters = {"matcher": "orb", "reliable": True, "extrinsics": AT_BASE}
    parameters |= {"trajectory_folder": tmp_path, "pose_log_file": "poses.txt", "scale": "depth"}
    log = tmp_path / "poses.txt"
    kept = ""
    for begins in (1, 2):
        process = subprocess.Popen(node_command("killed", **parameters), cwd=ROOT, stderr=subprocess.PIPE)
        try:
            with connected_client("killed") as client:
                client.play(frames[:6], CAMERA)
                client.settled()
                published = len(client.odometry)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        text = log.read_text()
        lines = text.splitlines()
        assert text.startswith(kept) and text.endswith("\n")
        assert sum(line.startswith("#") for line in lines) == begins
        table = np.loadtxt(log, ndmin=2)
        assert table.shape == (6 * begins, 8) and published == 6
        assert np.isfinite(table).all()
        kept = text
        log.write_text(text + "12.5 0.1 0.")  # the disk was full, say
