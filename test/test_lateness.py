# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Images that come too late are told from those of a camera that is always slow, and from recordings."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: the node needs ROS 2")

from node_support import connected_client, running_node  # noqa: E402

from loftr_ros.ros.lateness import Lateness, Period, age_of  # noqa: E402
from loftr_ros.synthetic.room import make_room, room_camera, round_trip  # noqa: E402
from loftr_ros.types import Frame  # noqa: E402

SECOND = 1_000_000_000


@pytest.mark.parametrize("always", [0.0, 0.3, 2.0])
def test_what_counts_is_the_delay_beyond_that_of_the_quickest(always):
    lateness = Lateness()
    for k, delay in enumerate([0.02, 0.05, 0.01, 0.03]):
        found = lateness.seconds(always + delay)
        assert found == pytest.approx([0.0, 0.03, 0.0, 0.02][k], abs=1e-6)
    assert lateness.seconds(always + 0.5) == pytest.approx(0.49)


@pytest.mark.parametrize("offset", [-0.1, 1000.0])
def test_stamps_of_another_clock_have_no_age(offset):
    assert age_of(7 * SECOND, round((7 + offset) * SECOND)) is None
    assert age_of(7 * SECOND, 7 * SECOND + SECOND // 4) == 0.25


def test_images_without_an_age_are_never_late():
    lateness = Lateness()
    assert [lateness.seconds(age) for age in (0.1, None, 4.0, 4.5)] == [0.0, 0.0, 0.0, 0.5]


def test_a_clock_that_is_set_is_late_for_a_while_only():
    lateness = Lateness()
    found = [lateness.seconds(0.02 if k < 60 else 1.0) for k in range(120)]
    assert max(found[:60]) == 0.0 and found[60] == pytest.approx(0.98)
    assert max(found[110:]) == 0.0


def test_the_period_is_that_of_the_camera_though_images_are_lost():
    period = Period()
    assert period.seconds == 0.0
    for stamp in (0.0, 0.2, 0.2, 0.8, 1.0, 2.0, 1.9, 2.1):  # lost, repeated, and of times that jump back
        period.add(round(stamp * SECOND))
    assert period.seconds == pytest.approx(0.2)
    for k in range(12):  # the camera has become slower
        period.add(round((10 + 0.5 * k) * SECOND))
    assert period.seconds == pytest.approx(0.5)


def test_the_newest_image_of_a_slow_camera_is_not_late():
    """It waits while the one before is processed, for at most one period."""
    camera = room_camera(320, 240)
    images = [frame.image for frame in make_room(camera).frames(round_trip(6, share=0.05))]
    with running_node("slow", matcher="orb", max_delay=0.15), connected_client("slow") as client:
        start = time.time_ns() + SECOND // 10
        for k, image in enumerate(images):
            stamp = start + k * 2 * SECOND // 5
            comes = stamp + (SECOND // 4 if k > 3 else 0)
            time.sleep(max(0, comes - time.time_ns()) * 1e-9)
            client.play([Frame(stamp, image)], camera)
        assert client.statuses[-1]["late_frames"] == "0"
        assert float(client.statuses[-1]["age_ms"]) > 240


def test_a_late_image_is_dropped_and_counted():
    camera = room_camera(320, 240)
    images = [frame.image for frame in make_room(camera).frames(round_trip(6, share=0.05))]
    with running_node("late", matcher="orb", max_delay=0.3), connected_client("late") as client:
        for image in images[:3]:
            client.play([Frame(time.time_ns(), image)], camera)
        time.sleep(1.0)
        before = len(client.statuses)
        client.send(Frame(time.time_ns() - 8 * SECOND // 10, images[3]))
        time.sleep(0.5)
        assert len(client.statuses) == before, "the late image was processed"
        client.play([Frame(time.time_ns(), images[4])], camera)
        assert client.statuses[-1]["late_frames"] == "1"
        assert client.set_parameter("max_delay", 0.0).successful
        time.sleep(1.0)
        client.play([Frame(time.time_ns() - 8 * SECOND // 10, images[5])], camera)
        assert client.statuses[-1]["late_frames"] == "1", "0 drops none"
        assert float(client.statuses[-1]["age_ms"]) > 799
