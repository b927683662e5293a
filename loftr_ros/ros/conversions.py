"""Pure functions between messages and arrays."""

from __future__ import annotations

import array
from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Time
from cv_bridge import CvBridge
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import Pose, PoseStamped, TransformStamped
from nav_msgs.msg import Odometry
from numpy.typing import NDArray
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from loftr_ros.config import Config
from loftr_ros.errors import InputError
from loftr_ros.geometry.se3 import inverse, quat_xyzw, skew
from loftr_ros.imaging import depth_in_metres, to_grey
from loftr_ros.pictures import Picture
from loftr_ros.types import Array, Estimate, Image, MotionState

_BRIDGE = CvBridge()
_LEAST_VARIANCE = 1e-9  # consumers take a variance of 0 for "not given"
_UNKNOWN_VARIANCE = 1e6


@dataclass(frozen=True)
class BaseState:
    """An Estimate in the frame of the robot.

    Attributes:
        pose_odom_base: [4, 4].
        pose_covariance: [6, 6] of position and rotation vector, in the axes of odom.
        twist_base: [6] linear and angular velocity of the base, in its own axes; None when unknown.
        twist_covariance: [6, 6].
    """

    pose_odom_base: Array
    pose_covariance: Array
    twist_base: Array | None
    twist_covariance: Array


def stamp_to_ns(stamp: Time) -> int:
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def ns_to_stamp(nanoseconds: int) -> Time:
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def grey_image(message: ImageMessage) -> Image:
    """[H, W] uint8. Raises InputError for an encoding or fields that make no image."""
    return to_grey(_pixels(message), message.encoding)


def depth_image(message: ImageMessage) -> NDArray[np.float32]:
    """[H, W] float32 metres. Raises InputError."""
    return depth_in_metres(_pixels(message))


def _pixels(message: ImageMessage) -> NDArray[np.generic]:
    # passthrough: what cv_bridge itself converts differs between its versions
    if message.width == 0 or message.height == 0 or len(message.data) < message.step * message.height:
        raise InputError(
            f"The image says {message.width}x{message.height} pixels and {message.step} bytes a row, "
            f"but holds {len(message.data)} bytes."
        )
    try:
        return np.asarray(_BRIDGE.imgmsg_to_cv2(message, desired_encoding="passthrough"))
    except Exception as error:  # CvBridgeError, KeyError, ValueError and TypeError, by version
        raise InputError(f"The image of encoding '{message.encoding}' cannot be converted: {error}.") from None


def picture_message(picture: Picture, header: Header) -> ImageMessage:
    """A bgr8 Image. Its bytes go in as an array.array, the only type that rclpy does not check byte by byte."""
    return ImageMessage(
        header=header,
        height=picture.shape[0],
        width=picture.shape[1],
        encoding="bgr8",
        step=picture.shape[1] * 3,
        data=array.array("B", picture.tobytes()),
    )


def base_state(estimate: Estimate, pose_base_camera: Array) -> BaseState:
    """An Estimate that has a pose, for the base: T_odom_base = B T_world_camera inv(B), with B = pose_base_camera."""
    assert estimate.pose_world_camera is not None and estimate.pose_covariance is not None
    camera_base = inverse(pose_base_camera)
    rotation = pose_base_camera[:3, :3]
    turn = np.kron(np.eye(2), rotation)
    # A rotation of the camera swings the base around it.
    swing = np.eye(6)
    swing[:3, 3:] = -skew(estimate.pose_world_camera[:3, :3] @ camera_base[:3, 3])
    pose_change = turn @ swing
    # The base's velocity: the camera's, plus what the rotation adds over the lever between them.
    lever = np.eye(6)
    lever[:3, 3:] = skew(pose_base_camera[:3, 3])
    twist_change = lever @ turn
    twist, twist_covariance = estimate.twist_camera, estimate.twist_covariance
    return BaseState(
        pose_odom_base=pose_base_camera @ estimate.pose_world_camera @ camera_base,
        pose_covariance=_published(pose_change @ estimate.pose_covariance @ pose_change.T),
        twist_base=None if twist is None else twist_change @ twist,
        twist_covariance=(
            np.eye(6) * _UNKNOWN_VARIANCE
            if twist_covariance is None
            else _published(twist_change @ twist_covariance @ twist_change.T)
        ),
    )


def _published(covariance: Array) -> Array:
    """Symmetric, with no variance that is 0."""
    return (covariance + covariance.T) / 2 + np.eye(6) * _LEAST_VARIANCE


def pose_message(pose: Array) -> Pose:
    message = Pose()
    message.position.x, message.position.y, message.position.z = pose[:3, 3].tolist()
    x, y, z, w = quat_xyzw(pose[:3, :3]).tolist()
    message.orientation.x, message.orientation.y, message.orientation.z, message.orientation.w = x, y, z, w
    return message


def odometry_message(state: BaseState, header: Header, child_frame: str) -> Odometry:
    message = Odometry(header=header, child_frame_id=child_frame)
    message.pose.pose = pose_message(state.pose_odom_base)
    message.pose.covariance = state.pose_covariance.ravel()
    twist = np.zeros(6) if state.twist_base is None else state.twist_base
    linear, angular = message.twist.twist.linear, message.twist.twist.angular
    linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = twist.tolist()
    message.twist.covariance = state.twist_covariance.ravel()
    return message


def transform_message(state: BaseState, header: Header, child_frame: str) -> TransformStamped:
    message = TransformStamped(header=header, child_frame_id=child_frame)
    pose = pose_message(state.pose_odom_base)
    translation = message.transform.translation
    translation.x, translation.y, translation.z = pose.position.x, pose.position.y, pose.position.z
    message.transform.rotation = pose.orientation
    return message


def stamped_pose(state: BaseState, header: Header) -> PoseStamped:
    return PoseStamped(header=header, pose=pose_message(state.pose_odom_base))


_LEVELS = {
    MotionState.OK: DiagnosticStatus.OK,
    MotionState.STATIC: DiagnosticStatus.OK,
    MotionState.PURE_ROTATION: DiagnosticStatus.OK,
    MotionState.LOST: DiagnosticStatus.ERROR,
}


def status_message(
    estimate: Estimate, config: Config, name: str, latency_ms: float, processing_ms: float, dropped: int
) -> DiagnosticStatus:
    """What the odometry knows about the last frame."""
    values = {
        "state": estimate.state.value,
        "pose": str(estimate.pose_world_camera is not None).lower(),
        "stamp": f"{estimate.stamp_ns // 10**9}.{estimate.stamp_ns % 10**9:09d}",
        "scale": config.scale.source,
        "metric": str(estimate.metric).lower(),
        "matcher": config.matcher.name,
        "matches": str(len(estimate.matches)),
        "inliers": str(int(estimate.inliers.sum())),
        "parallax_deg": f"{estimate.parallax_deg:.3f}",
        "keyframe": str(estimate.is_keyframe).lower(),
        "latency_ms": f"{latency_ms:.1f}",
        "processing_ms": f"{processing_ms:.1f}",
        "dropped_frames": str(dropped),
    }
    return DiagnosticStatus(
        level=_LEVELS.get(estimate.state, DiagnosticStatus.WARN),
        name=name,
        message=estimate.reason or "The camera is tracked.",
        hardware_id=config.matcher.device,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
