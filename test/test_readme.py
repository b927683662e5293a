# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The README says what the code does."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from loftr_ros.config import settings
from loftr_ros.documentation import with_table
from loftr_ros.types import MotionState

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
LIFECYCLE = (
    "change_state",
    "get_state",
    "get_available_states",
    "get_available_transitions",
    "get_transition_graph",
    "transition_event",
)


def test_table_of_parameters_is_that_of_the_code():
    assert with_table(README) == README, "run python -m loftr_ros.documentation"


def test_every_file_that_is_linked_exists():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert links and not missing


def test_topics_and_services_of_the_tables_are_those_of_the_node():
    """A node of each kind in this process, asked for what it has."""
    rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: the node needs ROS 2")
    from loftr_ros.ros.node import VisualOdometryNode

    told = dict(re.findall(r"^\| `([~/\w]+)` \| (\w+/\w+/\w+) \|", README, re.MULTILINE))
    made = {}
    for more in ({"scale": "depth"}, {"scale": "odometry", "image_transport": "compressed"}):
        values = {"matcher": "orb", "extrinsics": [0.0] * 6 + [1.0], **more}
        context = rclpy.Context()
        rclpy.init(context=context)
        overrides = [rclpy.Parameter(name, value=value) for name, value in values.items()]
        # A name that no other node on this machine has.
        space = f"/readme_{os.getpid()}_{len(made)}"
        node = VisualOdometryNode(context=context, namespace=space, parameter_overrides=overrides)
        try:
            node.start()
            made.update(entities(node))
        finally:
            node.close()
            rclpy.shutdown(context=context)
    assert made == told


def test_layout_of_rviz_shows_topics_of_their_types():
    display_types = {
        "Path": "nav_msgs/msg/Path",
        "Odometry": "nav_msgs/msg/Odometry",
        "PointCloud2": "sensor_msgs/msg/PointCloud2",
        "Image": "sensor_msgs/msg/Image",
    }
    told = dict(re.findall(r"^\| `([~/\w]+)` \| (\w+/\w+/\w+) \|", README, re.MULTILINE))
    manager = yaml.safe_load((ROOT / "config" / "vo.rviz").read_text())["Visualization Manager"]
    shown = {d["Topic"]["Value"].replace("vo_node/", "~/"): d["Class"] for d in manager["Displays"] if "Topic" in d}
    assert {topic: display_types[name.removeprefix("rviz_default_plugins/")] for topic, name in shown.items()} == {
        topic: told[topic] for topic in ("path", "odom", "~/points", "~/matches")
    }
    assert manager["Global Options"]["Fixed Frame"] == settings()["odom_frame"][1].default


def entities(node) -> dict[str, str]:
    """Types of the topics and services of a node, by their names as the README writes them."""
    own, space = node.get_name(), node.get_namespace()
    found = []
    for ask in ("publisher", "subscriber", "service"):
        found += getattr(node, f"get_{ask}_names_and_types_by_node")(own, space)
    found = [(name.removeprefix(space), types) for name, types in found]
    of_ros = re.compile(r"/(rosout|parameter_events|tf_static)$|/\w*parameter\w*$|/\w+_type_description$")
    of_ros_too = {f"/{own}/{name}" for name in LIFECYCLE}
    return {
        name if name in ("/tf", "/diagnostics") else name.replace(f"/{own}/", "~/").removeprefix("/"): types[0]
        for name, types in found
        if not of_ros.search(name) and name not in of_ros_too
    }


def test_states_of_the_table_exist():
    told = set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE))
    assert told <= {state.value for state in MotionState}
    assert {"OK", "LOST", "STATIC"} <= told


def test_version_is_the_same_everywhere():
    version = ET.parse(ROOT / "package.xml").getroot().findtext("version")
    assert re.search(rf'version="{version}"', (ROOT / "setup.py").read_text())
    import loftr_ros

    assert loftr_ros.__version__ == version
