# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""`player`: play a recording into the node over DDS, and keep what the node answers.

It sends a frame, waits for the node's status of it, then sends the next: every frame is processed, on machines of any
speed. With --rate it sends in time instead, like a camera.
"""

from __future__ import annotations

import argparse
import array
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import GetParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

import loftr_ros
from loftr_ros import cli
from loftr_ros.config import settings
from loftr_ros.errors import GeometryError, InputError
from loftr_ros.evaluation.album import Album
from loftr_ros.evaluation.replay import Run, measure, print_metrics, save
from loftr_ros.evaluation.sequences import Options, Recording, open_recording
from loftr_ros.files import make_folder, write_image
from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.se3 import inverse, pose_from_xyz_quat
from loftr_ros.ros.conversions import ns_to_stamp, pose_of, stamp_to_ns
from loftr_ros.types import Array, Estimate, Frame, MotionState

CAMERA_FRAME = "camera_optical"
# base_link at the camera, x forward, y left, z up (REP-103)
CAMERA_AT_BASE = (0.0, 0.0, 0.0, -0.5, 0.5, -0.5, 0.5)
_FIRST_ANSWER_S = 120.0  # the node may still be loading its weights
_ANSWER_S = 30.0
_REPEAT_S = 1.0
_VIDEO_HZ = 10.0


class Player(Node):
    """Publishes frames; gathers the statuses, odometry and match pictures that come back.

    Args:
        carried: the sources of scale ("depth", "odometry") that the frames bring along.
        options: of rclpy's Node.
    """

    def __init__(
        self,
        camera: Camera,
        node_name: str,
        film: Film | None = None,
        clock: bool = False,
        carried: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__("player", **options)
        self.film = film
        self._info = _camera_info(camera)
        self._way = 0.0
        self._time = self.create_publisher(Clock, "/clock", 10) if clock else None
        self._image = self.create_publisher(ImageMessage, "image", 10)
        self._camera_info = self.create_publisher(CameraInfo, "camera_info", 10)
        self._depth = self.create_publisher(ImageMessage, "depth", 10)
        self._wheels = self.create_publisher(Odometry, "wheel_odom", 10)
        publishers = {"depth": self._depth, "odometry": self._wheels}
        self._carried = {source: publishers[source] for source in carried}
        self.states: dict[int, MotionState] = {}
        self.posed: set[int] = set()  # stamps of the frames that have a pose
        self.milliseconds: list[float] = []
        self.inliers: dict[int, int] = {}
        self.metric: dict[int, bool] = {}
        self.keyframes: set[int] = set()
        self.settings: dict[str, Any] = {}  # of the node
        self.calibration_off_px = 0.0  # at the edge of the image, by what the node has learned so far
        self.poses: dict[int, Array] = {}  # pose_odom_base
        self.changed = threading.Condition()
        self.create_subscription(DiagnosticStatus, f"{node_name}/status", self._on_status, 100)
        self.create_subscription(Odometry, "odom", self._on_odometry, 100)
        if film is not None:
            self.create_subscription(ImageMessage, f"{node_name}/matches", self._on_picture, 10)
        # After all subscriptions: see _hears_all.
        self._parameters = self.create_client(GetParameters, f"{node_name}/get_parameters")

    def wait_for_node(self, seconds: float, alive: Callable[[], bool] = lambda: True) -> bool:
        """Until each hears the other. False where the node has not come up by then, or is no longer alive."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and alive():
            if self._image.get_subscription_count() and self.count_publishers("odom") and self._hears_all():
                return True
            time.sleep(0.05)
        return False

    def _hears_all(self) -> bool:
        """Whether the node hears all that it wants of a frame, and its answers will arrive.

        It learns of a node's subscriptions in the order in which they were made: once the answer to this call finds its
        way, that to the first frame does too. An answer before that is lost, and one asks again.
        """
        if not self.ask_settings():
            return False
        wanted = [] if self.settings.get("camera_info_file") else [self._camera_info]
        if (source := self._carried.get(self.settings.get("scale", ""))) is not None:
            wanted.append(source)
        return all(publisher.get_subscription_count() for publisher in wanted)

    def send(self, frame: Frame) -> None:
        header = Header(stamp=ns_to_stamp(frame.stamp_ns), frame_id=CAMERA_FRAME)
        if self._time is not None:
            self._time.publish(Clock(clock=header.stamp))
        if frame.distance is not None:
            self._send_wheels(frame.distance, header)
        self._info.header = header
        self._camera_info.publish(self._info)
        if frame.depth is not None:
            self._depth.publish(_message(frame.depth.astype(np.float32), "32FC1", header))
        self._image.publish(_message(frame.image, "mono8", header))

    def _send_wheels(self, distance: float, header: Header) -> None:
        """Wheels that only know how far they went: the same way, straight on."""
        self._way += distance
        message = Odometry(header=Header(stamp=header.stamp, frame_id="wheels"), child_frame_id="wheels_base")
        message.pose.pose.position.x = self._way
        message.pose.pose.orientation.w = 1.0
        self._wheels.publish(message)

    def wait_for_answer(self, stamp_ns: int, seconds: float) -> bool:
        """Repeats the calibration meanwhile: a best-effort subscriber may have missed it."""
        end = time.monotonic() + seconds
        with self.changed:
            while not self.changed.wait_for(lambda: stamp_ns in self.states, _REPEAT_S):
                if time.monotonic() > end:
                    return False
                self._camera_info.publish(self._info)
        return True

    def wait_for_poses(self, seconds: float) -> None:
        """Odometry travels beside the statuses: give the last of it time to arrive."""
        with self.changed:
            self.changed.wait_for(lambda: self.posed <= self.poses.keys(), seconds)

    def ask_settings(self) -> bool:
        """Ask for the node's parameters; False where it does not tell them within a moment."""
        if not self._parameters.wait_for_service(_REPEAT_S):
            return False
        names, told = list(settings()), threading.Event()
        future = self._parameters.call_async(GetParameters.Request(names=names))
        future.add_done_callback(lambda _: told.set())
        if not told.wait(_REPEAT_S) or future.result() is None:
            self._parameters.remove_pending_request(future)
            return False
        self.settings = {n: parameter_value_to_python(v) for n, v in zip(names, future.result().values)}
        return True

    def _on_status(self, message: DiagnosticStatus) -> None:
        values = {item.key: item.value for item in message.values}
        with self.changed:
            stamp = int(values["stamp"].replace(".", ""))
            self.states[stamp] = MotionState(values["state"])
            if values["pose"] == "true":
                self.posed.add(stamp)
            self.inliers[stamp] = int(values["inliers"])
            self.metric[stamp] = values["metric"] == "true"
            if values["keyframe"] == "true":
                self.keyframes.add(stamp)
            self.milliseconds.append(float(values["processing_ms"]))
            self.calibration_off_px = float(values["calibration_off_px"])
            self.changed.notify_all()

    def _on_odometry(self, message: Odometry) -> None:
        with self.changed:
            self.poses[stamp_to_ns(message.header.stamp)] = pose_of(message.pose.pose)
            self.changed.notify_all()

    def _on_picture(self, message: ImageMessage) -> None:
        assert self.film is not None
        picture = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        self.film.add(stamp_to_ns(message.header.stamp), picture)


def _camera_info(camera: Camera) -> CameraInfo:
    info = CameraInfo(width=camera.width, height=camera.height, distortion_model=camera.model or "plumb_bob")
    info.k = camera.matrix.ravel()
    info.d = [float(d) for d in camera.distortion]
    info.r = np.eye(3).ravel()
    info.p = np.hstack([camera.matrix, np.zeros((3, 1))]).ravel()
    return info


def _message(pixels: np.ndarray[Any, Any], encoding: str, header: Header) -> ImageMessage:
    data = array.array("B", np.ascontiguousarray(pixels).tobytes())
    height, width = pixels.shape
    return ImageMessage(
        header=header, height=height, width=width, encoding=encoding, step=width * pixels.itemsize, data=data
    )


def play(player: Player, recording: Recording, rate_hz: float) -> None:
    """Send all frames. Raises InputError when no node answers."""
    if not player.wait_for_node(_FIRST_ANSWER_S):
        raise InputError(f"No odometry node listens on {player.resolve_topic_name('image')}.")
    frames = cli.progress(recording.frames(), len(recording) or None, "playing")
    started = time.monotonic()
    for count, frame in enumerate(frames, 1):
        player.send(frame)
        if rate_hz > 0:
            time.sleep(max(0.0, started + count / rate_hz - time.monotonic()))
        elif not player.wait_for_answer(frame.stamp_ns, _FIRST_ANSWER_S if count == 1 else _ANSWER_S):
            raise InputError(f"The odometry node did not answer to frame {count}.")
    player.wait_for_poses(2.0 if rate_hz == 0 else 5.0)


def gathered(player: Player, pose_base_camera: Array) -> Run:
    """What came back, as the estimates of a replay: poses of the camera in the first camera's frame."""
    estimates = [
        Estimate(
            stamp,
            state,
            _camera_pose(player.poses.get(stamp), pose_base_camera),
            metric=player.metric[stamp],
            is_keyframe=stamp in player.keyframes,
        )
        for stamp, state in sorted(player.states.items())
    ]
    return Run(estimates, player.milliseconds, [count for _, count in sorted(player.inliers.items())])


def _camera_pose(pose_odom_base: Array | None, pose_base_camera: Array) -> Array | None:
    return None if pose_odom_base is None else inverse(pose_base_camera) @ pose_odom_base @ pose_base_camera


class Film:
    """Writes match pictures as they come: matches.mp4 with all, matches.png with the one in the middle.

    Args:
        folder: where they go.
        middle: number of the picture to keep as matches.png; earlier ones stand in for it until it comes.

    Attributes:
        album: some of them.
    """

    def __init__(self, folder: Path, middle: int) -> None:
        self._folder, self._middle = folder, middle
        self._part = folder / ".matches.part.mp4"  # takes its place once it is whole
        self.album = Album()
        self._video: cv2.VideoWriter | None = None
        self._count = 0
        self._still: np.ndarray[Any, Any] | None = None

    def add(self, stamp_ns: int, picture: np.ndarray[Any, Any]) -> None:
        """A bgr picture [H, W, 3]; all of one size."""
        if self.album.wants_next():
            self.album.add(stamp_ns, picture)
        height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2  # the codec wants even sides
        if self._video is None:
            codec = cv2.VideoWriter_fourcc(*"mp4v")
            self._video = cv2.VideoWriter(str(self._part), codec, _VIDEO_HZ, (width, height))
        self._video.write(np.ascontiguousarray(picture[:height, :width]))
        self._count += 1
        if self._count <= self._middle or self._still is None:
            self._still = picture

    def close(self) -> None:
        """Finish the files. Raises InputError where one cannot be written."""
        if self._video is not None:
            self._video.release()
            try:
                self._part.replace(self._folder / "matches.mp4")
            except OSError as error:
                raise InputError(f"{self._folder / 'matches.mp4'} cannot be written: {error.strerror}.") from None
        if self._still is not None:
            write_image(self._folder / "matches.png", self._still)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="player", description=__doc__)
    parser.add_argument("input", help="sequence folder, folder of images, video, or bag")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for trajectory, metrics and match pictures")
    parser.add_argument(
        "--rate", type=float, default=0.0, metavar="HZ", help="frames a second; 0: wait for each answer"
    )
    parser.add_argument("--camera-info", type=Path, metavar="FILE", help="calibration, where the input has none")
    parser.add_argument("--groundtruth", type=Path, metavar="FILE", help="TUM trajectory to compare with")
    parser.add_argument("--image-topic", default="", metavar="TOPIC", help="of a bag with several cameras")
    parser.add_argument("--depth", action="store_true", help="send the depth images too")
    parser.add_argument(
        "--odometry", default="", metavar="FILE|TOPIC", help="send the way of the wheels too: a TUM file, or of the bag"
    )
    parser.add_argument("--clock", action="store_true", help="send the recording's time on /clock, for use_sim_time")
    parser.add_argument("--node", default="vo_node", help="name of the odometry node")
    parser.add_argument(
        "--extrinsics", type=float, nargs=7, default=CAMERA_AT_BASE, metavar="N",
        help="pose of the camera in the base frame, as the node has it: x y z qx qy qz qw",
    )  # fmt: skip
    return parser


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(rclpy.utilities.remove_ros_args(["player", *arguments])[1:])
    try:
        pose_base_camera = pose_from_xyz_quat(np.array(options.extrinsics))
    except GeometryError as error:
        raise InputError(str(error)) from None
    recording = open_recording(
        options.input,
        Options(options.camera_info, 10.0, options.image_topic, options.depth, options.odometry),
    )
    groundtruth = options.groundtruth or recording.groundtruth
    _check(options, groundtruth)
    rclpy.init(args=list(arguments))
    film = None if options.output is None else Film(options.output, len(recording) // 2)
    carried = [source for source in ("depth", "odometry") if getattr(options, source)]
    player = Player(recording.camera, options.node, film, options.clock, carried)
    code = 0
    try:
        with spinning(player):
            play(player, recording, options.rate)
            player.ask_settings()  # they may have changed
    except Exception:
        if rclpy.ok():
            raise
        code = 130  # a signal has ended ROS in the middle of a call
    finally:
        rclpy.try_shutdown()
        if player.states:  # what came back before a failure is not lost
            _keep(player, options, arguments, groundtruth if code == 0 else None, pose_base_camera)
    return code


def _check(options: argparse.Namespace, groundtruth: Path | None) -> None:
    """Refuse what would fail only after the whole recording has been played. Raises InputError."""
    if groundtruth is not None and not groundtruth.is_file():
        raise InputError(f"The ground truth {groundtruth} does not exist.")
    if not 0 <= options.rate < 10000:
        raise InputError(f"--rate must be 0 or a number of frames a second, not {options.rate:g}.")
    if not re.fullmatch(r"[A-Za-z_]\w*", options.node):
        raise InputError(f"'{options.node}' cannot be the name of a node.")
    if options.output is not None:
        make_folder(options.output)


def _keep(
    player: Player,
    options: argparse.Namespace,
    arguments: Sequence[str],
    groundtruth: Path | None,
    pose_base_camera: Array,
) -> None:
    run = gathered(player, pose_base_camera)
    if player.film is None:
        print_metrics(measure(run, groundtruth), None)
        return
    run.album = player.film.album
    about = {
        "input": str(options.input),
        "command": shlex.join(["player", *arguments]),
        "version": loftr_ros.__version__,
        "through": "node",
        "config": {name: value if value is not None else [] for name, value in player.settings.items()},
        "learned_calibration": {"off_px": player.calibration_off_px},
    }
    metrics = save(run, options.output, groundtruth, about)
    print_metrics(metrics, options.output)
    player.film.close()


@contextmanager
def spinning(node: Node) -> Iterator[None]:
    """Serve the node in a thread of its own, until ROS is shut down at the latest; the node is destroyed in the end."""
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    thread = threading.Thread(target=_spin, args=(executor,))
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join()
        node.destroy_node()


def _spin(executor: SingleThreadedExecutor) -> None:
    try:
        executor.spin()
    except (ExternalShutdownException, KeyboardInterrupt):
        return


def entry_point() -> int:
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(entry_point())
