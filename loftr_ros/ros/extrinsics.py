# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Where the camera sits on the robot: from a parameter, or from TF."""

from __future__ import annotations

from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.time import Time

from loftr_ros.config import FramesConfig
from loftr_ros.errors import ConfigError, GeometryError
from loftr_ros.geometry.se3 import pose_from_xyz_quat
from loftr_ros.types import Array


class Extrinsics:
    """pose_base_camera [4, 4] of the optical frame in the base frame; never assumed.

    Raises ConfigError when neither the parameter nor tf2_ros is there.
    """

    def __init__(self, node: Node, config: FramesConfig) -> None:
        self._base = config.prefix + config.base
        self._known: Array | None = None
        self._buffer: Any = None
        if config.extrinsics:
            try:
                self._known = pose_from_xyz_quat(np.array(config.extrinsics))
            except GeometryError as error:
                raise ConfigError(f"extrinsics is refused: {error}") from None
            return
        try:
            from tf2_ros import Buffer, TransformListener
        except ImportError:
            raise ConfigError(
                f"The pose of the camera in '{self._base}' is unknown: this machine has no tf2_ros to look it up, "
                "so set the parameter extrinsics (x y z qx qy qz qw)."
            ) from None
        self._buffer = Buffer()
        self._listener = TransformListener(self._buffer, node)

    def destroy(self) -> None:
        if self._buffer is not None:
            self._listener.unregister()

    def pose_base_camera(self, camera_frame: str) -> Array | None:
        """The extrinsics; None while TF does not have them yet. Taken once: the camera is fixed to the base."""
        if self._known is None and self._buffer.can_transform(self._base, camera_frame, Time()):
            transform = self._buffer.lookup_transform(self._base, camera_frame, Time()).transform
            t, q = transform.translation, transform.rotation
            self._known = pose_from_xyz_quat(np.array([t.x, t.y, t.z, q.x, q.y, q.z, q.w]))
        return self._known
