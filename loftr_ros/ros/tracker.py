# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The worker of the node: takes frames, runs the odometry, hands on what it finds."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node

from loftr_ros.allocator import touch_reserve
from loftr_ros.config import Config
from loftr_ros.errors import ExhaustedError, GeometryError, MatcherError, brief
from loftr_ros.geometry.camera import Camera
from loftr_ros.matching import Matcher
from loftr_ros.odometry import VisualOdometry
from loftr_ros.ros import conversions
from loftr_ros.ros.extrinsics import Extrinsics
from loftr_ros.ros.inputs import Arrival, Inputs
from loftr_ros.ros.lateness import Lateness, age_of
from loftr_ros.ros.outputs import Outputs, Result
from loftr_ros.types import Array, Estimate, Frame, Image
from loftr_ros.viewer import matched_keyframe

_WARN_EVERY_S = 5.0
_READY_EVERY_S = 0.02
_GAP_S = 1.0
_RESERVE_AFTER = 100  # frames; by then the window of keyframes is full, and the heap nearly as large as it gets
REPEATED = "Frames with a stamp that was there before are skipped."


@dataclass(frozen=True)
class Start:
    """Where to start anew: pose_odom_base [4, 4] and its covariance [6, 6] in odom axes (None: exact)."""

    pose_odom_base: Array | None = None
    covariance: Array | None = None


class Tracker:
    """Its thread takes the newest frame and runs the odometry.

    So the executor stays free for parameters and services while the matcher works, and a slow matcher drops frames
    instead of lagging behind.

    Attributes:
        status: of the last processed frame; None before the first.
        status_at: when that was, on the monotonic clock.
        missing: what it waits for while images come in; "" when nothing is missing.
        repeated_at: when a frame was last skipped because its stamp was there before, on the monotonic clock.
        stopped: why it processes nothing until it starts anew; "" while it works.
        processed: number of frames.
        late: number of frames that were dropped because they came too late.
    """

    def __init__(
        self,
        node: Node,
        config: Config,
        matcher: Matcher,
        inputs: Inputs,
        extrinsics: Extrinsics,
        outputs: Outputs,
        status_name: str,
    ) -> None:
        self.config = config
        self._node, self._matcher = node, matcher
        self._inputs, self._extrinsics, self._outputs = inputs, extrinsics, outputs
        self._status_name = status_name
        self.status: DiagnosticStatus | None = None
        self.status_at = 0.0
        self.missing = ""
        self.stopped = ""
        self.repeated_at = -np.inf
        self.processed = 0
        self.late = 0
        self._lateness = Lateness()
        self._odometry: VisualOdometry | None = None
        self._last: tuple[Array, Array | None] | None = None  # pose_world_camera and covariance to go on from
        self._last_stamp_ns = -1
        self._start: Start | None = None  # asked for by a service or topic
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="odometry", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Wait for the frame it is at. The inputs must have been closed."""
        if self._thread is not None:
            self._thread.join(timeout=30.0)
            self._thread = None
        self.missing = ""

    def start_anew(self, start: Start) -> None:
        """From the next frame on; called from other threads."""
        self._start = start

    # -- the worker's thread ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (arrival := self._inputs.frames.get()) is not None:
            if (self.stopped and self._start is None) or self._is_late(arrival):
                continue
            self.stopped = ""
            try:
                with self._inputs.refusing("A frame is skipped"):
                    ready = self._when_ready(arrival)
                    if ready is None:
                        return
                    self._process(ready)
            except Exception as error:  # one bad frame must not end the odometry
                if not rclpy.ok(context=self._node.context):
                    return
                text = f"A frame failed: {type(error).__name__}: {brief(error)}."
                self._node.get_logger().error(text, throttle_duration_sec=_WARN_EVERY_S)

    def _is_late(self, arrival: Arrival) -> bool:
        """Whether it has waited so long (in a starved process, say) that the next one is worth more; it is counted.

        The newest image may well have waited for one period of a slow camera while the one before was processed.
        """
        limit = self.config.input.max_delay_s
        if self.config.input.reliable or limit == 0:
            return False
        if self._lateness.seconds(self._age_of(arrival)) <= max(limit, self._inputs.period.seconds):
            return False
        self.late += 1
        return True

    def _age_of(self, arrival: Arrival) -> float | None:
        return age_of(arrival.stamp_ns, self._node.get_clock().now().nanoseconds)

    def _when_ready(self, arrival: Arrival) -> Arrival | None:
        """Wait until calibration and extrinsics are there, with the newest frame, or with this one if none may be lost.

        None when the node closes meanwhile.
        """
        while not self._ready(arrival):
            if self._inputs.frames.wait_closed(_READY_EVERY_S):
                return None
            if not self.config.input.reliable:
                arrival = self._inputs.frames.poll() or arrival
        return arrival

    def _ready(self, arrival: Arrival) -> bool:
        camera_frame = self._camera_frame(arrival)
        if self._inputs.calibration is None:
            missing = f"a calibration on {self._node.resolve_topic_name('camera_info')} (or camera_info_file)"
        elif not self._extrinsics_known(camera_frame):
            missing = (
                f"the transform from '{camera_frame}' to '{self._outputs.base_frame}' (TF, or parameter extrinsics)"
            )
        else:
            self.missing = ""
            return True
        self.missing = f"Images come in, but {missing} is missing."
        self._node.get_logger().warning(self.missing, throttle_duration_sec=_WARN_EVERY_S)
        return False

    def _extrinsics_known(self, camera_frame: str) -> bool:
        try:
            return self._extrinsics.pose_base_camera(camera_frame) is not None
        except GeometryError as error:  # TF carries what is no pose
            self._node.get_logger().error(f"TF is refused: {error}", throttle_duration_sec=_WARN_EVERY_S)
            return False

    def _camera_frame(self, arrival: Arrival) -> str:
        frames = self.config.frames
        return frames.prefix + frames.optical if frames.optical else arrival.frame_id

    def _process(self, arrival: Arrival) -> None:
        """Convert, step, publish."""
        started, age_s = time.monotonic(), self._age_of(arrival)
        pose_base_camera = self._extrinsics.pose_base_camera(self._camera_frame(arrival))
        assert pose_base_camera is not None
        image = conversions.grey_image(arrival.message)
        camera = self._camera_for(image)
        # Only now: the stamp of a message that is garbage means nothing.
        if not self._in_order(arrival.stamp_ns, pose_base_camera):
            return
        odometry = self._odometry_for(camera)
        if self._inputs.mask is not None:
            self._matcher.mask = self._inputs.mask
        depth = self._inputs.depth_of(arrival, image.shape)
        frame = Frame(arrival.stamp_ns, image, depth, self._inputs.way_of(arrival))
        self._last_stamp_ns = frame.stamp_ns
        before = odometry.keyframe
        converted = time.monotonic()
        estimate = self._estimate(odometry, frame)
        odometry_ms = (time.monotonic() - converted) * 1e3
        if estimate.pose_world_camera is not None:
            self._last = (estimate.pose_world_camera, estimate.pose_covariance)
        keyframe = matched_keyframe(estimate, before, odometry.keyframe)
        self._outputs.publish(
            Result(
                estimate=estimate,
                frame=frame,
                header=arrival.message.header,
                matched=keyframe,
                keyframe=odometry.keyframe,
                camera=odometry.refined_camera,
                pose_base_camera=pose_base_camera,
                odometry_ms=odometry_ms,
            )
        )
        measured = {
            "age_ms": "" if age_s is None else f"{1e3 * age_s:.1f}",
            "latency_ms": f"{1e3 * (time.monotonic() - arrival.seconds):.1f}",
            "processing_ms": f"{1e3 * (time.monotonic() - started):.1f}",
            "odometry_ms": f"{odometry_ms:.1f}",
            "device": str(getattr(self._matcher, "device", "")),
            "calibration_off_px": f"{odometry.learned_calibration['off_px']:.1f}",
        }
        self._report(estimate, measured)

    def _estimate(self, odometry: VisualOdometry, frame: Frame) -> Estimate:
        """Of one frame; one without a pose where anything fails."""
        try:
            return odometry.process(frame)
        except ExhaustedError as error:
            self.stopped = reason = f"{error} Nothing is processed until ~/reset."
        except MatcherError as error:
            reason = str(error)
        except Exception as error:
            if not rclpy.ok(context=self._node.context):
                raise
            reason = f"The odometry failed: {type(error).__name__}: {brief(error)}."
        self._node.get_logger().error(reason, throttle_duration_sec=_WARN_EVERY_S)
        return odometry.missed(frame, reason)

    def _in_order(self, stamp_ns: int, pose_base_camera: Array) -> bool:
        """False for a repeated stamp; a stamp before the last one starts the odometry anew."""
        start, self._start = self._start, None
        if start is not None:
            self._forget(start, pose_base_camera)
        if stamp_ns == self._last_stamp_ns:
            self.repeated_at = time.monotonic()
            self._node.get_logger().warning(REPEATED, throttle_duration_sec=_WARN_EVERY_S)
            return False
        if stamp_ns < self._last_stamp_ns:
            self._node.get_logger().warning("The time of the images has jumped back: the odometry starts anew.")
            self._forget(Start(), pose_base_camera)
        elif 0 <= self._last_stamp_ns < stamp_ns - _GAP_S * 1e9:
            gap = (stamp_ns - self._last_stamp_ns) * 1e-9
            self._node.get_logger().warning(
                f"No image was processed for {gap:.1f} s.", throttle_duration_sec=_WARN_EVERY_S
            )
        return True

    def _camera_for(self, image: Image) -> Camera:
        """The present calibration for the size of an image. Raises InputError when they do not fit."""
        assert self._inputs.calibration is not None
        return self._inputs.calibration.resized(image.shape[1], image.shape[0])

    def _odometry_for(self, camera: Camera) -> VisualOdometry:
        """The odometry for the present calibration and image size."""
        if self._odometry is None or not camera.same_as(self._odometry.camera):
            self._odometry = VisualOdometry(self._matcher, camera, self.config.odometry, self.config.scale)
            if self._last is not None:  # another camera, but the same robot: odom must not jump
                self._odometry.reset(*self._last)
        self._odometry.config = self.config.odometry  # may have changed at run time
        return self._odometry

    def _forget(self, start: Start, pose_base_camera: Array) -> None:
        """Start anew: at the origin, or at a pose."""
        self._odometry, self._last = None, None
        if start.pose_odom_base is not None:
            self._last = conversions.camera_start(start.pose_odom_base, start.covariance, pose_base_camera)
        self._last_stamp_ns = -1
        self._outputs.forget()

    def _report(self, estimate: Estimate, measured: dict[str, str]) -> None:
        self.processed += 1
        self.status = conversions.status_message(
            estimate,
            self.config,
            self._status_name,
            {
                **measured,
                "received_frames": str(self._inputs.received),
                "dropped_frames": str(self._inputs.frames.dropped),
                "late_frames": str(self.late),
            },
        )
        self.status_at = time.monotonic()
        self._outputs.publish_status(self.status)
        if self.processed == _RESERVE_AFTER:
            touch_reserve()
        if estimate.pose_world_camera is None:
            self._node.get_logger().warning(
                f"{estimate.state.value}: {estimate.reason}", throttle_duration_sec=_WARN_EVERY_S
            )
