# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""`vo_node`: camera frames in; odometry, TF, path and match pictures out."""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from loftr_ros import cli
from loftr_ros.config import Config
from loftr_ros.errors import ConfigError, InputError, LoftrRosError, brief
from loftr_ros.matching import Matcher, matcher_from_config
from loftr_ros.ros import conversions, parameters
from loftr_ros.ros.extrinsics import Extrinsics
from loftr_ros.ros.inputs import Inputs
from loftr_ros.ros.outputs import Outputs
from loftr_ros.ros.saving import save_trajectory
from loftr_ros.ros.tracker import REPEATED, Start, Tracker
from loftr_ros.threads import leave_cores_to_others
from loftr_ros.viewer import Viewer

_STALE_AFTER_S = 2.0
_FARTHEST_M = 1e8
_WARM_UP_SIZE = (480, 640)


class VisualOdometryNode(LifecycleNode):
    """Lifecycle: configure loads the weights and warms up, activate subscribes, deactivate pauses, cleanup frees.

    With the parameter autostart, `start` does the first two. Images are processed by the Tracker's thread.

    Raises ConfigError when a parameter cannot be used.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("vo_node", **options)
        self.config: Config = parameters.declare(self)
        self._failure: Exception | None = None
        self._starting = False
        self._matcher: Matcher | None = None
        self._extrinsics: Extrinsics | None = None
        self._inputs: Inputs | None = None
        self._outputs: Outputs | None = None
        self._tracker: Tracker | None = None
        self._viewer: Viewer | None = None
        self._active = False
        self._counted = (time.monotonic(), 0, 0)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self._serve("reset", self._reset)
        self._serve("pause", lambda: self._pause(True))
        self._serve("resume", lambda: self._pause(False))
        self._serve("save_trajectory", self._save_trajectory)
        self.create_subscription(PoseWithCovarianceStamped, "~/set_pose", self._on_set_pose, 10)
        # On the steady clock: with use_sim_time and no /clock the diagnostics must speak all the same.
        self.create_timer(1.0, self._on_diagnostics_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.add_on_set_parameters_callback(parameters.on_change(lambda: self.config, self._apply))

    # -- lifecycle -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Configure and activate. Raises what keeps the node from it."""
        self._starting = True
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                raise self._failure or ConfigError("The node could not be started.")
        self._starting = False

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt(self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt(self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt(self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt(self._clean_up)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt(self._clean_up)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt(self._clean_up)

    def _attempt(self, step: Callable[[], None]) -> TransitionCallbackReturn:
        """rclpy swallows exceptions of transitions: say them."""
        try:
            step()
        except LoftrRosError as error:
            self._failure = error
            self._clean_up()
            if not self._starting:  # else main says it
                self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self._failure = error
            self.get_logger().error(f"{type(error).__name__}: {error}")
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        self._matcher = matcher_from_config(self.config.matcher)
        leave_cores_to_others()  # without LoFTR, too
        noise = np.random.default_rng(0).integers(0, 256, _WARM_UP_SIZE, dtype=np.uint8)
        self._matcher.match(noise, noise)  # the first call is the slow one
        self._inputs = Inputs(self, self.config)
        self._extrinsics = Extrinsics(self, self.config.frames)
        self._viewer = Viewer(self.config.output.viewer) if self.config.output.viewer else None
        if self._viewer is not None and self._viewer.url:
            self.get_logger().info(f"Look at it with: rerun {self._viewer.url}")
        self._outputs = Outputs(self, self.config, self._viewer)
        self._tracker = Tracker(
            self, self.config, self._matcher, self._inputs, self._extrinsics, self._outputs, self._status_name()
        )
        gc.collect()
        gc.freeze()  # a search through all that is loaded by now would hold up frames and services for 100 ms and more

    def _activate(self) -> None:
        assert self._inputs is not None and self._tracker is not None
        self._inputs.subscribe()
        self._tracker.start()
        self._active = True
        self.get_logger().info(f"Waiting for images on {self._inputs.image_topic}.")

    def _deactivate(self) -> None:
        """The map is kept: after the next activation the odometry goes on from it."""
        self._active = False
        if self._inputs is not None:
            self._inputs.unsubscribe()
        if self._tracker is not None:
            self._tracker.stop()

    def _clean_up(self) -> None:
        self._deactivate()
        for part in (self._outputs, self._extrinsics, self._viewer):
            if part is not None:
                part.destroy()
        self._matcher = self._inputs = self._extrinsics = self._outputs = self._tracker = self._viewer = None
        gc.unfreeze()
        gc.collect()
        if "torch" in sys.modules:
            sys.modules["torch"].cuda.empty_cache()

    # -- services and the like -------------------------------------------------------------------------------------

    def _serve(self, name: str, answer: Callable[[], str]) -> None:
        """A Trigger service that says what was done, or why not."""

        def callback(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            try:
                if not self._active:
                    raise InputError("The node is not active.")
                response.success, response.message = True, answer()
            except LoftrRosError as error:
                response.success, response.message = False, str(error)
            except Exception as error:  # a service must not end the node
                response.success, response.message = False, f"{type(error).__name__}: {brief(error)}."
                self.get_logger().error(f"~/{name} failed: {response.message}")
            return response

        self.create_service(Trigger, f"~/{name}", callback)

    def _reset(self) -> str:
        assert self._tracker is not None
        self._tracker.start_anew(Start())
        return "The odometry starts anew at the origin."

    def _pause(self, paused: bool) -> str:
        assert self._inputs is not None
        self._inputs.paused = paused
        return "Images are ignored until ~/resume." if paused else "Images are processed again."

    def _save_trajectory(self) -> str:
        assert self._outputs is not None
        path, count = save_trajectory(self._outputs.log.trajectory(), self.config.output)
        return f"{count} poses of '{self._outputs.base_frame}' in '{self._outputs.odom_frame}' are in {path}."

    def _on_set_pose(self, message: PoseWithCovarianceStamped) -> None:
        if self._inputs is None or self._tracker is None or self._outputs is None or not self._active:
            self.get_logger().error("set_pose is refused: The node is not active.")
            return
        with self._inputs.refusing("set_pose is refused"):
            self._tracker.start_anew(start_of(message, self._outputs.odom_frame))
            self.get_logger().info("The odometry starts anew at the pose of set_pose.")

    def _apply(self, config: Config) -> None:
        """Settings that may change at run time; the others are read-only parameters."""
        self.config = config
        for part in (self._tracker, self._outputs):
            if part is not None:
                part.config = config
        if hasattr(self._matcher, "threshold"):
            self._matcher.threshold = config.matcher.threshold
        if hasattr(self._matcher, "ratio"):
            self._matcher.ratio = config.matcher.ratio

    # -- diagnostics -----------------------------------------------------------------------------------------------

    def _on_diagnostics_timer(self) -> None:
        status = self._diagnosis()
        status.values = [*status.values, *conversions.key_values(self._rates())]
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(DiagnosticArray(header=Header(stamp=stamp), status=[status]))

    def _diagnosis(self) -> DiagnosticStatus:
        level, text = DiagnosticStatus.WARN, ""
        if not self._active or self._inputs is None or self._tracker is None:
            text = "The node is not active (lifecycle): nothing is processed."
        elif self._inputs.paused:
            text = "Paused: images are ignored until ~/resume."
        elif self._tracker.stopped:
            level, text = DiagnosticStatus.ERROR, self._tracker.stopped
        elif self._tracker.missing:
            text = f"{self._tracker.missing} {self._inputs.refused_within(_STALE_AFTER_S)}".rstrip()
        elif self._tracker.status is not None and time.monotonic() - self._tracker.status_at < _STALE_AFTER_S:
            return self._last_status(self._tracker.status, self._inputs.refused_within(_STALE_AFTER_S))
        else:
            level = DiagnosticStatus.STALE
            text = f"No images come on {self._inputs.image_topic}."
            if self._inputs.received > self._counted[1]:
                text = "Images come in, but none has been processed for a while."
                if time.monotonic() - self._tracker.repeated_at < _STALE_AFTER_S:
                    text = f"{text} {REPEATED}"
                text = f"{text} {self._inputs.refused_within(_STALE_AFTER_S)}".rstrip()
        return DiagnosticStatus(
            level=level, name=self._status_name(), message=text, hardware_id=self.config.matcher.device
        )

    @staticmethod
    def _last_status(last: DiagnosticStatus, refused: str) -> DiagnosticStatus:
        """That of the last frame; a warning at least where something was refused beside it."""
        return DiagnosticStatus(
            level=max(last.level, DiagnosticStatus.WARN) if refused else last.level,
            name=last.name,
            message=f"{last.message} {refused}".rstrip(),
            hardware_id=last.hardware_id,
            values=last.values,
        )

    def _rates(self) -> dict[str, str]:
        """Images in and frames out, a second."""
        then, received, processed = self._counted
        if self._inputs is None or self._tracker is None:
            return {}
        now = time.monotonic()
        self._counted = (now, self._inputs.received, self._tracker.processed)
        return {
            "images_per_s": f"{(self._counted[1] - received) / (now - then):.1f}",
            "frames_per_s": f"{(self._counted[2] - processed) / (now - then):.1f}",
        }

    def _status_name(self) -> str:
        return f"{self.get_fully_qualified_name().lstrip('/')}: visual odometry"

    def close(self) -> None:
        """Stop the worker and wait for the frame it is at."""
        self._clean_up()
        self.destroy_node()


def start_of(message: PoseWithCovarianceStamped, odom_frame: str) -> Start:
    """Where a set_pose message wants the base. Raises InputError or GeometryError where it cannot be."""
    frame = message.header.frame_id
    if frame not in ("", odom_frame):
        raise InputError(f"The pose must be in the frame '{odom_frame}', not '{frame[:80]}'.")
    pose = conversions.pose_of(message.pose.pose)
    covariance = np.array(message.pose.covariance).reshape(6, 6)
    if not np.isfinite(covariance).all():
        raise InputError("The covariance of the pose has numbers that are not finite.")
    if max(np.abs(pose).max(), np.abs(covariance).max()) > _FARTHEST_M:
        raise InputError("The pose, or its covariance, has numbers that no place on Earth has.")
    if not covariance.any():
        return Start(pose)
    covariance = (covariance + covariance.T) / 2
    if np.linalg.eigvalsh(covariance).min() < -1e-9 * np.abs(covariance).max():
        raise InputError("The covariance of the pose has a negative variance.")
    return Start(pose, covariance)


def main(arguments: Sequence[str]) -> int:
    try:
        rclpy.init(args=list(arguments))
    except Exception as error:  # RCLError and others, for arguments and parameter files that ROS cannot read
        raise ConfigError(f"The arguments are refused: {brief(error)}.") from None
    node = None
    try:
        executor = SingleThreadedExecutor()  # before the node says that it is ready: whoever waits for that may end it
        node = VisualOdometryNode()
        if node.config.node.autostart:
            node.start()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if rclpy.ok():  # what fails once a signal has ended ROS, in the middle of a transition say, is no failure
            raise
    finally:
        if node is not None:
            node.close()
        rclpy.try_shutdown()
    return 0


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """What SIGINT does: `ros2 launch` without a terminal sends it twice, the second time while the node cleans up."""
    signal.signal(signal.SIGINT, lambda *_: None)
    raise KeyboardInterrupt


def entry_point() -> int:
    signal.signal(signal.SIGINT, _interrupt_once)
    code = cli.run(main)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Python's own end would give it its default back, which kills
    return code


if __name__ == "__main__":
    sys.exit(entry_point())
