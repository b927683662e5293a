# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Frames of reference of the messages, wheels and mailboxes: what needs no running node."""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: the node needs ROS 2")

from loftr_ros.config import Config  # noqa: E402
from loftr_ros.errors import InputError  # noqa: E402
from loftr_ros.geometry.se3 import make_pose, rotation_from_vector  # noqa: E402
from loftr_ros.ros import conversions  # noqa: E402
from loftr_ros.ros.inputs import fitted  # noqa: E402
from loftr_ros.ros.mailbox import Mailbox  # noqa: E402
from loftr_ros.ros.pose_log import PoseLog  # noqa: E402
from loftr_ros.ros.wheels import WheelWay  # noqa: E402
from loftr_ros.types import Estimate, MotionState  # noqa: E402

SECOND = 1_000_000_000


def random_pose(rng: np.random.Generator) -> np.ndarray:
    return make_pose(rotation_from_vector(rng.uniform(-1, 1, 3)), rng.uniform(-2, 2, 3))


@pytest.mark.parametrize("seed", range(5))
def test_camera_start_undoes_base_state(seed):
    rng = np.random.default_rng(seed)
    pose, extrinsics = random_pose(rng), random_pose(rng)
    root = rng.standard_normal((6, 6))
    covariance = root @ root.T
    state = conversions.base_state(Estimate(0, MotionState.OK, pose, None, covariance), extrinsics)
    found, found_covariance = conversions.camera_start(state.pose_odom_base, state.pose_covariance, extrinsics)
    np.testing.assert_allclose(found, pose, atol=1e-9)
    np.testing.assert_allclose(found_covariance, covariance, atol=1e-6)
    assert conversions.camera_start(state.pose_odom_base, None, extrinsics)[1] is None


def test_wheel_way_is_interpolated_at_the_frames_and_adds_up():
    wheels = WheelWay()
    for i in range(11):  # 2 m/s along a circle's chord steps, every 50 ms
        wheels.add_position(SECOND + i * 50_000_000, np.array([0.1 * i, 0.0, 0.0]))
    assert wheels.take(SECOND + 10_000_000, 0.0) is None  # the first frame has no step
    assert wheels.take(SECOND + 110_000_000, 0.0) == pytest.approx(0.2)
    assert wheels.take(SECOND + 135_000_000, 0.0) == pytest.approx(0.05)
    # Later than the last message: what is missing comes with the next frame.
    assert wheels.take(SECOND + 600_000_000, 0.0) == pytest.approx(1.0 - 0.27)
    wheels.add_position(SECOND + 700_000_000, np.array([1.4, 0.0, 0.0]))
    assert wheels.take(SECOND + 700_000_000, 0.0) == pytest.approx(0.4)


def test_wheel_speeds_are_integrated_as_changing_steadily():
    wheels = WheelWay()
    for i in range(5):
        wheels.add_speed(i * SECOND, float(i))  # v = t, so way = t^2 / 2
    assert wheels.take(0, 0.0) is None
    assert wheels.take(4 * SECOND, 0.0) == pytest.approx(8.0)


def test_wheels_that_jump_back_in_time_begin_anew_and_late_messages_are_left_out():
    wheels = WheelWay()
    for stamp, x in ((10 * SECOND, 0.0), (11 * SECOND, 1.0), (int(10.5 * SECOND), 99.0), (12 * SECOND, 2.0)):
        wheels.add_position(stamp, np.array([x, 0.0, 0.0]))
    assert wheels.take(10 * SECOND, 0.0) is None
    assert wheels.take(12 * SECOND, 0.0) == pytest.approx(2.0)
    wheels.add_position(SECOND, np.array([50.0, 0.0, 0.0]))
    assert wheels.take(12 * SECOND, 0.0) is None
    wheels.add_position(2 * SECOND, np.array([50.5, 0.0, 0.0]))
    wheels.take(SECOND, 0.0)
    assert wheels.take(2 * SECOND, 0.0) == pytest.approx(0.5)


def test_wheels_that_come_a_moment_later_are_waited_for():
    wheels = WheelWay()
    wheels.add_position(0, np.zeros(3))
    assert wheels.take(0, 0.0) is None
    later = threading.Timer(0.05, wheels.add_position, (SECOND, np.array([0.0, 3.0, 0.0])))
    later.start()
    assert wheels.take(SECOND, 5.0) == pytest.approx(3.0)


def test_pose_log_gives_back_what_was_added():
    log, rng = PoseLog(), np.random.default_rng(0)
    poses = [random_pose(rng) for _ in range(5)]
    for i, pose in enumerate(poses):
        log.add(i * SECOND, pose)
    trajectory = log.trajectory()
    assert list(trajectory.stamps_ns) == [i * SECOND for i in range(5)]
    np.testing.assert_allclose(trajectory.poses, poses, atol=1e-9)
    stamps, rows = log.last(2)
    assert stamps == [3 * SECOND, 4 * SECOND] and rows.shape == (2, 7)
    log.clear()
    assert len(log) == 0 and log.trajectory().poses == []


def test_full_pose_log_forgets_the_oldest_tenth(monkeypatch):
    monkeypatch.setattr("loftr_ros.ros.pose_log._MOST", 20)
    log = PoseLog()
    for i in range(21):
        log.add(i, make_pose(np.eye(3), np.array([i, 0.0, 0.0])))
    stamps, rows = log.last(100)
    assert stamps == list(range(2, 21))
    assert rows[:, 0].tolist() == stamps


def test_opened_mailbox_is_empty_and_counts_on():
    box: Mailbox[int] = Mailbox(1)
    box.put(1)
    box.put(2)
    box.close()
    assert box.get() is None
    box.open()
    assert box.poll() is None
    box.put(3)
    assert (box.get(), box.dropped) == (3, 1)


def test_depth_of_another_shape_is_refused():
    depth = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert fitted(depth, (6, 8))[::2, ::2].tolist() == depth.tolist()
    with pytest.raises(InputError, match="4x3, which does not fit the image of 8x4"):
        fitted(depth, (4, 8))


@pytest.mark.parametrize("measured, told", [({"device": "cuda"}, "cuda"), ({"device": ""}, "auto"), ({}, "auto")])
def test_a_status_tells_the_device_that_the_matcher_runs_on(measured, told):
    message = conversions.status_message(Estimate(1_500_000_000, MotionState.OK), Config(), "vo_node", measured)
    assert message.hardware_id == told
    values = {item.key: item.value for item in message.values}
    assert (values["stamp"], values["state"], values["pose"]) == ("1.500000000", "OK", "false")
