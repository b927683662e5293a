"""`vo_node`: camera frames in; odometry, TF, path and match pictures out."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import Odometry
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage
from std_srvs.srv import Trigger

from loftr_ros import cli
from loftr_ros.config import Config
from loftr_ros.errors import ConfigError, InputError
from loftr_ros.geometry.camera import camera_from_info, load_camera
from loftr_ros.matching import matcher_from_config
from loftr_ros.odometry import VisualOdometry
from loftr_ros.odometry.scale import Odometer
from loftr_ros.ros import conversions, parameters
from loftr_ros.ros.extrinsics import Extrinsics
from loftr_ros.ros.mailbox import Mailbox, StampedBuffer
from loftr_ros.ros.outputs import Outputs
from loftr_ros.types import Estimate, Frame, Image

_RELIABLE_QUEUE = 300
_DEPTH_TOLERANCE_NS = 20_000_000
_DEPTH_TIMEOUT_S = 0.1
_WARN_EVERY_S = 5.0
_READY_EVERY_S = 0.02
_STALE_AFTER_S = 2.0


@dataclass(frozen=True)
class _Arrival:
    """An image message and when it came, on the monotonic clock."""

    message: ImageMessage
    seconds: float


class VisualOdometryNode(Node):
    """Callbacks put messages into a mailbox; a worker thread takes the newest and runs the odometry.

    So the executor stays free for parameters and services while the matcher works, and a slow matcher drops frames
    instead of lagging behind.

    Raises ConfigError, InputError or WeightsError when a parameter, the calibration file or the weights cannot be used.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("vo_node", **options)
        self.config: Config = parameters.declare(self)
        self._matcher = matcher_from_config(self.config.matcher)
        self._extrinsics = Extrinsics(self, self.config.frames)
        self._outputs = Outputs(self, self.config)
        self._calibration = (
            load_camera(self.config.input.camera_info_file) if self.config.input.camera_info_file else None
        )
        self._odometry: VisualOdometry | None = None
        self._last: Estimate | None = None  # the last one that has a pose
        self._last_stamp_ns = -1
        self._status: DiagnosticStatus | None = None
        self._status_at = 0.0
        self._depths: StampedBuffer[ImageMessage] = StampedBuffer(10)
        self._wheels = Odometer()
        self._frames: Mailbox[_Arrival] = Mailbox(_RELIABLE_QUEUE if self.config.input.reliable else 1)
        self._reset_wanted = threading.Event()
        self._subscribe()
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_timer(1.0, self._on_diagnostics_timer)
        self.add_on_set_parameters_callback(parameters.on_change(lambda: self.config, self._apply))
        self._worker = threading.Thread(target=self._work, name="odometry", daemon=True)
        self._worker.start()
        self.get_logger().info(f"Waiting for images on {self.resolve_topic_name('image')}.")

    def _subscribe(self) -> None:
        quality = image_quality(self.config.input.reliable)
        self.create_subscription(ImageMessage, "image", self._on_image, quality)
        if self._calibration is None:
            self.create_subscription(CameraInfo, "camera_info", self._on_camera_info, quality)
        if self.config.scale.source == "depth":
            self.create_subscription(ImageMessage, "depth", self._on_depth, quality)
        if self.config.scale.source == "odometry":
            self.create_subscription(Odometry, "wheel_odom", self._on_wheel_odometry, image_quality(False))

    # -- callbacks, on the executor's thread -----------------------------------------------------------------------

    def _on_image(self, message: ImageMessage) -> None:
        self._frames.put(_Arrival(message, time.monotonic()))

    def _on_depth(self, message: ImageMessage) -> None:
        self._depths.put(conversions.stamp_to_ns(message.header.stamp), message)

    def _on_wheel_odometry(self, message: Odometry) -> None:
        p = message.pose.pose.position
        self._wheels.add(np.array([p.x, p.y, p.z]))

    def _on_camera_info(self, message: CameraInfo) -> None:
        try:
            camera = camera_from_info(message)
        except InputError as error:
            self.get_logger().error(f"camera_info is refused: {error}", throttle_duration_sec=_WARN_EVERY_S)
            return
        if self._calibration is not None and not camera.same_as(self._calibration):
            self.get_logger().warning(
                "The calibration of the camera has changed: the map starts anew at the last pose."
            )
        self._calibration = camera

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._reset_wanted.set()
        response.success, response.message = True, "The odometry starts anew at the origin."
        return response

    def _on_diagnostics_timer(self) -> None:
        status = self._status
        if status is None or time.monotonic() - self._status_at > _STALE_AFTER_S:
            status = DiagnosticStatus(
                level=DiagnosticStatus.STALE, name=self._status_name(), message="No frames are being processed."
            )
        self._outputs.publish_diagnostics(status)

    def _apply(self, config: Config) -> None:
        """Settings that may change at run time; the others are read-only parameters."""
        self.config = self._outputs.config = config
        if hasattr(self._matcher, "threshold"):
            self._matcher.threshold = config.matcher.threshold
        if hasattr(self._matcher, "ratio"):
            self._matcher.ratio = config.matcher.ratio

    # -- the worker's thread ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (arrival := self._frames.get()) is not None:
            try:
                ready = self._when_ready(arrival)
                if ready is None:
                    return
                self._process(ready)
            except InputError as error:
                self.get_logger().error(f"A frame is skipped: {error}", throttle_duration_sec=_WARN_EVERY_S)
            except Exception as error:  # one bad frame must not end the odometry
                if not rclpy.ok():
                    return
                self.get_logger().error(f"A frame failed: {type(error).__name__}: {error}")

    def _when_ready(self, arrival: _Arrival) -> _Arrival | None:
        """Wait until calibration and extrinsics are there, with the newest frame, or with this one if none may be lost.

        None when the node closes meanwhile.
        """
        while not self._ready(arrival):
            if self._frames.wait_closed(_READY_EVERY_S):
                return None
            if not self.config.input.reliable:
                arrival = self._frames.poll() or arrival
        return arrival

    def _ready(self, arrival: _Arrival) -> bool:
        camera_frame = self._camera_frame(arrival)
        if self._calibration is None:
            missing = f"a calibration on {self.resolve_topic_name('camera_info')}"
        elif self._extrinsics.pose_base_camera(camera_frame) is None:
            missing = (
                f"the transform from '{camera_frame}' to '{self.config.frames.base}' (TF, or parameter extrinsics)"
            )
        else:
            return True
        self.get_logger().warning(f"Images come in, but {missing} is missing.", throttle_duration_sec=_WARN_EVERY_S)
        return False

    def _camera_frame(self, arrival: _Arrival) -> str:
        return self.config.frames.optical or arrival.message.header.frame_id

    def _process(self, arrival: _Arrival) -> None:
        """Convert, step, publish."""
        message = arrival.message
        started = time.monotonic()
        stamp_ns = conversions.stamp_to_ns(message.header.stamp)
        if not self._in_order(stamp_ns):
            return
        image = conversions.grey_image(message)
        odometry = self._odometry_for(image)
        self._last_stamp_ns = stamp_ns
        before = odometry.keyframe
        estimate = odometry.process(Frame(stamp_ns, image, self._depth_at(stamp_ns), self._wheels.take()))
        if estimate.pose_world_camera is not None:
            self._last = estimate
            pose_base_camera = self._extrinsics.pose_base_camera(self._camera_frame(arrival))
            assert pose_base_camera is not None
            self._outputs.publish_pose(estimate, message.header, pose_base_camera)
        for keyframe in (before, odometry.keyframe):
            if keyframe is not None and keyframe.frame.stamp_ns == estimate.keyframe_stamp_ns:
                self._outputs.publish_picture(keyframe.frame.image, image, estimate, message.header)
                break
        self._report(estimate, arrival.seconds, started)

    def _in_order(self, stamp_ns: int) -> bool:
        """False for a repeated stamp; a stamp before the last one starts the odometry anew."""
        if self._reset_wanted.is_set():
            self._reset_wanted.clear()
            self._forget()
        if stamp_ns == self._last_stamp_ns:
            self.get_logger().warning(
                "Frames with a stamp that was there before are skipped.", throttle_duration_sec=_WARN_EVERY_S
            )
            return False
        if stamp_ns < self._last_stamp_ns:
            self.get_logger().warning("The time of the images has jumped back: the odometry starts anew.")
            self._forget()
        return True

    def _odometry_for(self, image: Image) -> VisualOdometry:
        """The odometry for the present calibration and image size. Raises InputError when they do not fit."""
        assert self._calibration is not None
        camera = self._calibration.resized(image.shape[1], image.shape[0])
        if self._odometry is None or not camera.same_as(self._odometry.camera):
            self._odometry = VisualOdometry(self._matcher, camera, self.config.odometry, self.config.scale)
            if self._last is not None:  # another camera, but the same robot: odom must not jump
                self._odometry.reset(self._last.pose_world_camera, self._last.pose_covariance)
        return self._odometry

    def _depth_at(self, stamp_ns: int) -> Any:
        if self.config.scale.source != "depth":
            return None
        message = self._depths.take(stamp_ns, _DEPTH_TOLERANCE_NS, _DEPTH_TIMEOUT_S)
        if message is None:
            self.get_logger().warning("A frame has no depth image.", throttle_duration_sec=_WARN_EVERY_S)
            return None
        return conversions.depth_image(message)

    def _report(self, estimate: Estimate, arrived: float, started: float) -> None:
        now = time.monotonic()
        self._status = conversions.status_message(
            estimate,
            self.config,
            self._status_name(),
            latency_ms=(now - arrived) * 1e3,
            processing_ms=(now - started) * 1e3,
            dropped=self._frames.dropped,
        )
        self._status_at = now
        self._outputs.publish_status(self._status)
        if estimate.pose_world_camera is None:
            self.get_logger().warning(f"{estimate.state.value}: {estimate.reason}", throttle_duration_sec=_WARN_EVERY_S)

    def _status_name(self) -> str:
        return f"{self.get_fully_qualified_name().lstrip('/')}: visual odometry"

    def _forget(self) -> None:
        """Start anew at the origin."""
        self._odometry, self._last = None, None
        self._last_stamp_ns = -1
        self._outputs.forget_path()

    def close(self) -> None:
        """Stop the worker and wait for the frame it is at."""
        self._frames.close()
        self._worker.join(timeout=10.0)
        self.destroy_node()


def image_quality(reliable: bool) -> QoSProfile:
    """Best effort and only the newest, as cameras publish; or reliable with a queue, for recordings."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=_RELIABLE_QUEUE if reliable else 1,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
    )


def main(arguments: Sequence[str]) -> int:
    try:
        rclpy.init(args=list(arguments))
    except Exception as error:  # RCLError and others, for arguments and parameter files that ROS cannot read
        raise ConfigError(f"The arguments are refused: {_first_line(error)}.") from None
    node = None
    try:
        node = VisualOdometryNode()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if node is not None:
            node.close()
        rclpy.try_shutdown()
    return 0


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def entry_point() -> int:
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(entry_point())
