# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The benchmark with the node's messages."""

from __future__ import annotations

import pytest
from support import texture

rclpy = pytest.importorskip("rclpy")


def test_convert_and_publish_are_stages_too(capsys):
    from loftr_ros.ros import benchmark

    arguments = ["--contenders", "none", "--matcher", "sift", "--sizes", "320x240", "--frames", "12", "--quiet"]
    assert benchmark.main(arguments) == 0
    text = capsys.readouterr().out
    assert "| convert |" in text and "| publish |" in text and not rclpy.ok()


def test_the_message_is_the_image():
    from loftr_ros.ros.benchmark import NodeMessages

    rclpy.init(args=[])
    try:
        messages, image = NodeMessages(rclpy.create_node("benchmark_test")), texture(24, 32, 50)
        assert (messages.convert(messages.message(image)) == image).all()
    finally:
        rclpy.try_shutdown()
