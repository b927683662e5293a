# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""A live view of the odometry with rerun (https://rerun.io), where the package rerun-sdk is installed."""

from __future__ import annotations

import re
import time
from pathlib import Path

import cv2
import numpy as np

from loftr_ros.errors import ConfigError
from loftr_ros.geometry.se3 import transform
from loftr_ros.odometry.keyframe import Keyframe
from loftr_ros.pictures import match_picture
from loftr_ros.types import Array, Estimate, Image, MotionState

_TRAJECTORY_EVERY_S = 0.5
_MOST_POSITIONS = 5000
_PICTURE_WIDTH = 960
_COLOURS = {MotionState.OK: (80, 200, 80), MotionState.LOST: (230, 60, 60), MotionState.FEW_MATCHES: (230, 60, 60)}
_OTHER_COLOUR = (240, 190, 60)


class Viewer:
    """Shows trajectory, keyframe points, matches, state and numbers, frame by frame on the timeline `time`.

    Args:
        target: "spawn" (a window here), "serve" (`rerun URL` elsewhere connects to here), the URL of a rerun that runs
            (rerun+http://HOST:9876/proxy), or a FILE.rrd to look at later.

    Raises ConfigError when rerun is not installed or the target cannot be used.
    """

    def __init__(self, target: str) -> None:
        try:
            import rerun
        except ImportError:
            raise ConfigError('The viewer needs rerun: pip install "rerun-sdk>=0.23".') from None
        self._rerun = rerun
        self._stream = rerun.RecordingStream("loftr_ros")
        self.url = ""
        try:
            self._connect(target)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(f"The viewer '{target}' cannot be used: {' '.join(str(error).split())}.") from None
        self._positions: list[Array] = []
        self._next_trajectory = 0.0
        self._state: MotionState | None = None
        self._keyframe_stamp_ns = -1
        self._stream.log("world", rerun.ViewCoordinates.RIGHT_HAND_Y_DOWN, static=True)

    def _connect(self, target: str) -> None:
        if target == "spawn":
            self._stream.spawn()
        elif target == "serve":
            self.url = self._stream.serve_grpc()
        elif re.match(r"rerun(\+https?)?://", target):
            self._stream.connect_grpc(target)
        elif target.endswith(".rrd"):
            if not Path(target).expanduser().parent.is_dir():
                raise ValueError(f"the folder of {target} does not exist")
            self._stream.save(Path(target).expanduser())
        else:
            raise ValueError("it is neither spawn, serve, a rerun URL nor a FILE.rrd")

    def show(
        self, estimate: Estimate, image: Image, matched: Keyframe | None, keyframe: Keyframe | None, **numbers: float
    ) -> None:
        """One frame.

        Args:
            image: [H, W] grey.
            matched: the keyframe that the matches start from; None: no picture of them.
            keyframe: the present keyframe, whose points are shown.
            numbers: more of them to plot, such as odometry_ms.
        """
        self._stream.set_time("time", timestamp=np.datetime64(estimate.stamp_ns, "ns"))
        self._show_numbers(estimate, numbers)
        if matched is not None:
            picture = match_picture(matched.frame.image, image, estimate, _PICTURE_WIDTH)
            jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
            self._stream.log("matches", self._rerun.EncodedImage(contents=jpeg, media_type="image/jpeg"))
        if estimate.pose_world_camera is not None:
            self._show_pose(estimate.pose_world_camera)
        if keyframe is not None and keyframe.frame.stamp_ns != self._keyframe_stamp_ns:
            self._keyframe_stamp_ns = keyframe.frame.stamp_ns
            self._show_points(keyframe)

    def _show_numbers(self, estimate: Estimate, numbers: dict[str, float]) -> None:
        values = {
            "matches": len(estimate.matches),
            "inliers": int(estimate.inliers.sum()),
            "parallax_deg": estimate.parallax_deg,
            **numbers,
        }
        for name, value in values.items():
            self._stream.log(f"numbers/{name}", self._rerun.Scalars(value))
        if estimate.state is not self._state:
            self._state = estimate.state
            colour = _COLOURS.get(estimate.state, _OTHER_COLOUR)
            text = f"{estimate.state.value} {estimate.reason}".strip()
            self._stream.log("state", self._rerun.TextLog(text, color=colour))

    def _show_pose(self, pose: Array) -> None:
        self._stream.log("world/camera", self._rerun.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
        self._positions.append(pose[:3, 3].copy())
        if len(self._positions) > _MOST_POSITIONS:  # half the detail, all of the way
            self._positions = self._positions[::2]
        now = time.monotonic()
        if now >= self._next_trajectory:
            self._next_trajectory = now + _TRAJECTORY_EVERY_S
            self._stream.log("world/trajectory", self._rerun.LineStrips3D([np.array(self._positions)]))

    def _show_points(self, keyframe: Keyframe) -> None:
        points = keyframe.depths.points3d(keyframe.depths.precise)
        points = transform(keyframe.pose_world_camera, points)
        self._stream.log("world/points", self._rerun.Points3D(points, radii=self._rerun.Radius.ui_points(2)))

    def destroy(self) -> None:
        """Finish the file or the connection."""
        if self._positions:
            self._stream.log("world/trajectory", self._rerun.LineStrips3D([np.array(self._positions)]))
        self._stream.flush()
        self._stream.disconnect()


def matched_keyframe(estimate: Estimate, *candidates: Keyframe | None) -> Keyframe | None:
    """The keyframe that the estimate's matches start from; None when it is gone already."""
    known = (k for k in candidates if k is not None and k.frame.stamp_ns == estimate.keyframe_stamp_ns)
    return next(known, None)
