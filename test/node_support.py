# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""A real vo_node in its own process, and a client of it in this one, over DDS."""

from __future__ import annotations

import array
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from loftr_ros.geometry.se3 import pose_from_xyz_quat
from loftr_ros.ros.conversions import ns_to_stamp, stamp_to_ns

ROOT = Path(__file__).parent.parent
AT_BASE = [0.0, 0.0, 0.0, -0.5, 0.5, -0.5, 0.5]
CAMERA_FRAME = "camera_optical"


def node_command(namespace: str, **parameters: object) -> list[str]:
    """`remap` is a list of from:=to; the other arguments are parameters."""
    command = [sys.executable, "-m", "loftr_ros.ros.node", "--ros-args", "-r", f"__ns:=/{namespace}"]
    for rule in parameters.pop("remap", []):
        command += ["-r", rule]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value if not isinstance(value, bool) else str(value).lower()}"]
    return command


@contextmanager
def running_node(namespace: str, **parameters: object) -> Iterator[subprocess.Popen[str]]:
    """The node, killed at the end if it does not end by itself on SIGINT; its exit code must then be 0."""
    parameters.setdefault("extrinsics", AT_BASE)
    process = subprocess.Popen(
        node_command(namespace, **parameters),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            output, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise AssertionError(f"the node did not end on SIGINT:\n{output}") from None
        print(output)
        process.log = output
        assert process.returncode == 0, output
        assert "Traceback" not in output, output


def refused(**parameters: object) -> tuple[int, str]:
    """Exit code and stderr of a node that must not start."""
    done = subprocess.run(
        node_command("refused", **parameters), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr


class Client:
    """Publishes camera frames to a node and keeps everything that it answers."""

    def __init__(self, namespace: str, node_name: str = "vo_node") -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("client", namespace=f"/{namespace}", context=self._context)
        self.image = self.node.create_publisher(ImageMessage, "image", 300)  # nothing is lost while the node is busy
        self.camera_info = self.node.create_publisher(CameraInfo, "camera_info", 10)
        self.depth = self.node.create_publisher(ImageMessage, "depth", 10)
        self.odometry: list[Odometry] = []
        self.transforms: list[TFMessage] = []
        self.paths: list[PathMessage] = []
        self.pictures: list[ImageMessage] = []
        self.statuses: list[dict[str, str]] = []
        self.diagnostics: list[DiagnosticArray] = []
        self._clients: dict = {}
        self._changed = threading.Condition()
        self._listen(Odometry, "odom", self.odometry.append, 100)
        self._listen(TFMessage, "/tf", self.transforms.append, 100)
        self._listen(PathMessage, "path", self.paths.append, 10)
        self._listen(DiagnosticStatus, f"{node_name}/status", self._on_status, 100)
        self._listen(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()
        self._node_name = node_name

    def _listen(self, kind, topic, callback, depth) -> None:
        def notify(message) -> None:
            with self._changed:
                callback(message)
                self._changed.notify_all()

        self.node.create_subscription(kind, topic, notify, depth)
        self._heard = False

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        """Only of this node: the topic is the same for all."""
        if message.status[0].name.startswith(f"{self.node.get_namespace()[1:]}/{self._node_name}:"):
            self.diagnostics.append(message)

    def _on_status(self, message: DiagnosticStatus) -> None:
        self.statuses.append({"message": message.message, **{v.key: v.value for v in message.values}})

    def listen_to_pictures(self) -> None:
        """Reliably: of a best-effort picture, any of its many fragments may be lost on a busy machine."""
        self._listen(ImageMessage, f"{self._node_name}/matches", self.pictures.append, 10)

    def gather(self, kind, topic: str, quality=10) -> list:
        """A list that fills with what comes on a topic (below the node's name with ~/ in front)."""
        messages: list = []
        self._listen(kind, topic.replace("~", self._node_name), messages.append, quality)
        return messages

    def wait_for_subscriber(self, publisher) -> None:
        """Until somebody listens, and what the node publishes arrives here."""
        end = time.monotonic() + 20.0
        while not publisher.get_subscription_count():
            assert time.monotonic() < end, f"nobody listens on {publisher.topic_name}"
            time.sleep(0.02)
        self.wait_until_heard()

    def wait_for_publisher(self, topic: str) -> None:
        end = time.monotonic() + 20.0
        while not self.node.count_publishers(topic.replace("~", self._node_name)):
            assert time.monotonic() < end, f"nobody publishes {topic}"
            time.sleep(0.02)
        self.wait_until_heard()

    def settled(self) -> None:
        """Wait until every status that says so has its odometry."""
        assert self.wait(lambda: len(self.odometry) >= sum(s["pose"] == "true" for s in self.statuses))

    def forget(self) -> None:
        with self._changed:
            for messages in (self.odometry, self.transforms, self.paths, self.statuses, self.diagnostics):
                messages.clear()

    def change_state(self, *labels: str) -> list[bool]:
        """Lifecycle transitions; whether each one succeeded."""
        requests = [ChangeState.Request(transition=Transition(label=label)) for label in labels]
        return [self.call(ChangeState, "change_state", request).success for request in requests]

    def state(self) -> str:
        return self.call(GetState, "get_state").current_state.label

    def start_fresh(self) -> None:
        """The node as it is after its start, but without the time that a new process takes."""
        if self.state() == "active":
            assert self.change_state("deactivate", "cleanup") == [True, True]
        assert self.change_state("configure", "activate") == [True, True]
        self.wait_for_node()
        self.forget()

    def set_parameter(self, name: str, value: object):
        """SetParametersResult."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        return self.call(SetParameters, "set_parameters", SetParameters.Request(parameters=[parameter])).results[0]

    def wait(self, condition, seconds: float = 20.0) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, seconds)

    def wait_for_node(self) -> None:
        """Until each hears the other."""
        end = time.monotonic() + 40.0
        while not (self.image.get_subscription_count() and self.camera_info.get_subscription_count()):
            assert time.monotonic() < end, "the node did not come up"
            time.sleep(0.02)
        self.wait_for_publisher("odom")

    def wait_until_heard(self, name: str = "") -> None:
        """Until everything that the node, or another one of this name, publishes arrives here.

        It learns of our subscriptions in the order in which they were made: once it knows where to send the answer to
        a new client, it knows all the others. An answer before that is lost, and one asks again.
        """
        client = self.node.create_client(GetState, f"{name or self._node_name}/get_state")
        end = time.monotonic() + 40.0
        while self._answer(client, GetState.Request(), 1.0) is None:
            assert time.monotonic() < end, "the node does not answer"
        self.node.destroy_client(client)
        self._heard = self._heard or not name

    def send_info(self, camera, stamp_ns: int = 0, **fields) -> None:
        info = CameraInfo(width=camera.width, height=camera.height, distortion_model=camera.model)
        info.header = Header(stamp=ns_to_stamp(stamp_ns), frame_id=CAMERA_FRAME)
        info.k, info.d = camera.matrix.ravel(), list(camera.distortion)
        for name, value in fields.items():
            setattr(info, name, value)
        self.camera_info.publish(info)

    def send(self, frame, encoding: str = "mono8") -> None:
        self.image.publish(image_message(frame.image, frame.stamp_ns, encoding))

    def play(self, frames, camera, before=None) -> None:
        """Send frames one by one, each after the status of the one before; `before(frame)` may send more with it."""
        if not self._heard:
            self.wait_until_heard()
        for frame in frames:
            self.send_info(camera, frame.stamp_ns)
            if before is not None:
                before(frame)
            if frame.depth is not None:
                self.depth.publish(image_message(frame.depth, frame.stamp_ns, "32FC1"))
            stamp = f"{frame.stamp_ns // 10**9}.{frame.stamp_ns % 10**9:09d}"
            self.send(frame)
            end = time.monotonic() + 40.0
            # A best-effort subscriber may not have heard the first ones; the node skips a repeated stamp.
            while not self.wait(lambda s=stamp: any(status["stamp"] == s for status in self.statuses[-3:]), 0.5):
                assert time.monotonic() < end, f"no answer to frame {frame.stamp_ns}"
                self.send_info(camera, frame.stamp_ns)
                self.send(frame)

    def poses(self) -> dict[int, np.ndarray]:
        """pose_odom_base by stamp."""
        return {stamp_to_ns(m.header.stamp): pose_of(m) for m in self.odometry}

    def call(self, kind, name: str, request=None):
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, f"{self._node_name}/{name}")
        return self._answer(self._clients[name], request or kind.Request(), 20.0)

    @staticmethod
    def _answer(client, request, seconds: float):
        """None without one in time."""
        assert client.wait_for_service(20.0)
        future = client.call_async(request)
        end = time.monotonic() + seconds
        while not future.done() and time.monotonic() < end:
            time.sleep(0.002)
        return future.result()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


@contextmanager
def connected_client(namespace: str, wait: bool = True) -> Iterator[Client]:
    """A client of a node; waits until that is active."""
    client = Client(namespace)
    try:
        if wait:
            client.wait_for_node()
        yield client
    finally:
        client.close()


def image_message(pixels: np.ndarray, stamp_ns: int, encoding: str) -> ImageMessage:
    data = array.array("B", np.ascontiguousarray(pixels).tobytes())
    return ImageMessage(
        header=Header(stamp=ns_to_stamp(stamp_ns), frame_id=CAMERA_FRAME),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=pixels.strides[0],
        data=data,
    )


def pose_of(message: Odometry) -> np.ndarray:
    p, q = message.pose.pose.position, message.pose.pose.orientation
    return pose_from_xyz_quat(np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w]))
