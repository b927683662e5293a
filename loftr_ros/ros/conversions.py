# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Pure functions between messages and arrays."""

from __future__ import annotations

import array
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import Pose, PoseStamped, TransformStamped
from nav_msgs.msg import Odometry
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, PointCloud2, PointField
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from loftr_ros.config import Config
from loftr_ros.evaluation.trajectory import seconds
from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.se3 import inverse, pose_from_xyz_quat, quat_xyzw, skew, transform
from loftr_ros.imaging import decode, depth_in_metres, to_grey, unpack
from loftr_ros.odometry.keyframe import Keyframe, keyframe_points
from loftr_ros.pictures import Picture
from loftr_ros.types import Array, Estimate, Image, MotionState

_LEAST_VARIANCE = 1e-9  # consumers take a variance of 0 for "not given"
_UNKNOWN_VARIANCE = 1e6
_JPEG_QUALITY = 85


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


def grey_image(message: ImageMessage | CompressedImage) -> Image:
    """[H, W] uint8. Raises InputError for an encoding or fields that make no image."""
    if isinstance(message, CompressedImage):
        return decode(message.data)
    return to_grey(_pixels(message), message.encoding)


def depth_image(message: ImageMessage) -> NDArray[np.float32]:
    """[H, W] float32 metres. Raises InputError."""
    return depth_in_metres(_pixels(message))


def _pixels(message: ImageMessage) -> NDArray[Any]:
    return unpack(
        message.encoding, message.height, message.width, message.step, message.data, bool(message.is_bigendian)
    )


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


def compressed_message(picture: Picture, header: Header) -> CompressedImage:
    """The picture as JPEG, named as image_transport does."""
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return CompressedImage(header=header, format="bgr8; jpeg compressed bgr8", data=array.array("B", data.tobytes()))


_MATCH = np.dtype(
    [(name, "<f4") for name in ("x0", "y0", "x1", "y1", "confidence", "sigma")] + [("index0", "<u4"), ("inlier", "u1")]
)
_POINT = np.dtype([(name, "<f4") for name in ("x", "y", "z", "intensity", "sigma")])
_FIELD_TYPES = {"f4": PointField.FLOAT32, "u4": PointField.UINT32, "u1": PointField.UINT8}


def _cloud(rows: NDArray[np.void], header: Header) -> PointCloud2:
    """Records as an unordered cloud with a field for each of their names."""
    fields = [
        PointField(name=name, offset=offset, datatype=_FIELD_TYPES[kind.str[1:]], count=1)
        for name, (kind, offset) in (rows.dtype.fields or {}).items()
    ]
    size = rows.dtype.itemsize
    return PointCloud2(
        header=header,
        height=1,
        width=len(rows),
        fields=fields,
        is_bigendian=False,
        point_step=size,
        row_step=size * len(rows),
        data=array.array("B", rows.tobytes()),
        is_dense=True,
    )


def matches_message(estimate: Estimate, header: Header) -> PointCloud2:
    """Matches with the keyframe: x0 y0 (keyframe) x1 y1 (frame) in pixels, confidence, sigma of x1 y1 in pixels,
    index0 (which keypoint of the keyframe), inlier (1: agrees with the pose)."""
    matches = estimate.matches
    rows = np.zeros(len(matches), _MATCH)
    rows["x0"], rows["y0"] = matches.points0.T
    rows["x1"], rows["y1"] = matches.points1.T
    rows["confidence"], rows["sigma"] = matches.confidence, matches.sigma
    rows["index0"], rows["inlier"] = matches.index0, estimate.inliers
    return _cloud(rows, header)


def points_message(keyframe: Keyframe, camera: Camera, pose_base_camera: Array, header: Header) -> PointCloud2:
    """The keyframe's points whose depth is known, in the odom frame: x y z, intensity (their grey value), and sigma,
    the deviation of their depth."""
    known = keyframe_points(keyframe)
    column, row = np.rint(camera.project(known.points)).astype(np.int64).T
    image = keyframe.frame.image
    rows = np.zeros(len(known.index), _POINT)
    rows["x"], rows["y"], rows["z"] = transform(pose_base_camera, known.world).T
    rows["intensity"] = image[np.clip(row, 0, image.shape[0] - 1), np.clip(column, 0, image.shape[1] - 1)]
    rows["sigma"] = known.relative_sigma * known.points[:, 2]
    return _cloud(rows, header)


def base_state(estimate: Estimate, pose_base_camera: Array) -> BaseState:
    """An Estimate that has a pose, for the base: T_odom_base = B T_world_camera inv(B), with B = pose_base_camera."""
    assert estimate.pose_world_camera is not None and estimate.pose_covariance is not None
    turn = np.kron(np.eye(2), pose_base_camera[:3, :3])
    pose_change = _pose_change(estimate.pose_world_camera, pose_base_camera)
    # The base's velocity: the camera's, plus what the rotation adds over the lever between them.
    lever = np.eye(6)
    lever[:3, 3:] = skew(pose_base_camera[:3, 3])
    twist_change = lever @ turn
    twist, twist_covariance = estimate.twist_camera, estimate.twist_covariance
    return BaseState(
        pose_odom_base=pose_base_camera @ estimate.pose_world_camera @ inverse(pose_base_camera),
        pose_covariance=_published(pose_change @ estimate.pose_covariance @ pose_change.T),
        twist_base=None if twist is None else twist_change @ twist,
        twist_covariance=(
            np.eye(6) * _UNKNOWN_VARIANCE
            if twist_covariance is None
            else _published(twist_change @ twist_covariance @ twist_change.T)
        ),
    )


def _pose_change(pose_world_camera: Array, pose_base_camera: Array) -> Array:
    """[6, 6] how a small change of the camera's pose (position, rotation vector; world) changes the base's (odom)."""
    turn = np.kron(np.eye(2), pose_base_camera[:3, :3])
    # A rotation of the camera swings the base around it.
    swing = np.eye(6)
    swing[:3, 3:] = -skew(pose_world_camera[:3, :3] @ inverse(pose_base_camera)[:3, 3])
    return turn @ swing


def camera_start(
    pose_odom_base: Array, covariance: Array | None, pose_base_camera: Array
) -> tuple[Array, Array | None]:
    """pose_world_camera [4, 4] and its covariance [6, 6] from those of the base: the inverse of base_state."""
    pose_world_camera = inverse(pose_base_camera) @ pose_odom_base @ pose_base_camera
    if covariance is None:
        return pose_world_camera, None
    change = np.linalg.inv(_pose_change(pose_world_camera, pose_base_camera))
    return pose_world_camera, change @ covariance @ change.T


def pose_of(message: Pose) -> Array:
    """[4, 4]. Raises GeometryError unless the quaternion has length 1."""
    p, q = message.position, message.orientation
    return pose_from_xyz_quat(np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w]))


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


def transform_message(state: BaseState, header: Header, base_frame: str, inverted: bool) -> TransformStamped:
    """odom -> base, or inverted: base -> odom."""
    pose = inverse(state.pose_odom_base) if inverted else state.pose_odom_base
    parent, child = (base_frame, header.frame_id) if inverted else (header.frame_id, base_frame)
    message = TransformStamped(header=Header(stamp=header.stamp, frame_id=parent), child_frame_id=child)
    as_pose = pose_message(pose)
    translation = message.transform.translation
    translation.x, translation.y, translation.z = as_pose.position.x, as_pose.position.y, as_pose.position.z
    message.transform.rotation = as_pose.orientation
    return message


def stamped_pose(header: Header, stamps_ns: list[int], rows: Array) -> PoseStamped:
    """From the first stamp and the first row of x y z qx qy qz qw."""
    message = PoseStamped(header=Header(stamp=ns_to_stamp(stamps_ns[0]), frame_id=header.frame_id))
    p, q = message.pose.position, message.pose.orientation
    p.x, p.y, p.z, q.x, q.y, q.z, q.w = rows[0].tolist()
    return message


_LEVELS = {
    MotionState.OK: DiagnosticStatus.OK,
    MotionState.STATIC: DiagnosticStatus.OK,
    MotionState.PURE_ROTATION: DiagnosticStatus.OK,
    MotionState.LOST: DiagnosticStatus.ERROR,
}


def status_message(estimate: Estimate, config: Config, name: str, counts: dict[str, str]) -> DiagnosticStatus:
    """What the odometry knows about the last frame, and what the node counts."""
    values = {
        "state": estimate.state.value,
        "pose": str(estimate.pose_world_camera is not None).lower(),
        "stamp": seconds(estimate.stamp_ns),
        "scale": config.scale.source,
        "metric": str(estimate.metric).lower(),
        "matcher": config.matcher.name,
        "matches": str(len(estimate.matches)),
        "inliers": str(int(estimate.inliers.sum())),
        "parallax_deg": f"{estimate.parallax_deg:.3f}",
        "keyframe": str(estimate.is_keyframe).lower(),
        "keyframe_stamp": seconds(estimate.keyframe_stamp_ns),
        **counts,
    }
    return DiagnosticStatus(
        level=_LEVELS.get(estimate.state, DiagnosticStatus.WARN),
        name=name,
        message=estimate.reason or "The camera is tracked.",
        hardware_id=counts.get("device") or config.matcher.device,  # where it runs; "auto" is what was asked for
        values=key_values(values),
    )


def key_values(values: dict[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=str(value)) for key, value in values.items()]
