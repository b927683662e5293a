# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The access control policy for SROS 2 allows what the node uses, and nothing else."""

from __future__ import annotations

import os
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: the node needs ROS 2")

from loftr_ros.ros.node import VisualOdometryNode  # noqa: E402

POLICY = Path(__file__).parent.parent / "config" / "sros2_policy.xml"
# tf2_ros, for extrinsics from TF, is not on every machine.
OF_TF = {"/tf", "/tf_static"}
# Distributions of ROS before Jazzy do not have it.
OF_NEWER_ROS = {"/vo_node/get_type_description"}


def allowed() -> dict[str, set[str]]:
    """Names by what may be done with them."""
    profile = ET.parse(POLICY).getroot().find("enclaves/enclave/profiles/profile")
    assert profile.attrib == {"ns": "/", "node": "vo_node"}
    names: dict[str, set[str]] = {}
    for group in profile:
        ((action, value),) = group.attrib.items()
        assert value == "ALLOW" and action not in names
        texts = [item.text for item in group]
        assert len(set(texts)) == len(texts) and all(text.startswith("/") for text in texts)
        names[action] = set(texts)
    return names


def used(space: str, **parameters) -> dict[str, set[str]]:
    """What a node with these parameters publishes, subscribes to and serves, as if it were in the namespace /."""
    context = rclpy.Context()
    rclpy.init(context=context)
    values = {"matcher": "orb", "extrinsics": [0.0] * 6 + [1.0], **parameters}
    overrides = [rclpy.Parameter(name, value=value) for name, value in values.items()]
    node = VisualOdometryNode(context=context, namespace=space, parameter_overrides=overrides)
    try:
        node.start()
        return {action: names(node, ask) for action, ask in ASKED.items()}
    finally:
        node.close()
        rclpy.shutdown(context=context)


ASKED = {"publish": "publisher", "subscribe": "subscriber", "reply": "service"}


def names(node, ask: str) -> set[str]:
    """Waits until the node knows itself in the graph."""
    end = time.monotonic() + 10.0
    found: list = []
    while time.monotonic() < end and len(found) < 4:
        found = getattr(node, f"get_{ask}_names_and_types_by_node")(node.get_name(), node.get_namespace())
        time.sleep(0.05)
    return {name.removeprefix(node.get_namespace()) for name, _ in found}


def test_policy_allows_exactly_what_nodes_of_all_kinds_use():
    space = f"/policy_{os.getpid()}"
    kinds = [
        used(f"{space}_0", scale="depth", use_sim_time=True),
        used(f"{space}_1", scale="odometry", image_transport="compressed"),
    ]
    told = allowed()
    assert told.keys() == ASKED.keys()
    for action, names_told in told.items():
        in_use = set.union(*(kind[action] for kind in kinds))
        optional = (OF_TF if action == "subscribe" else OF_NEWER_ROS if action == "reply" else set()) - in_use
        assert names_told - optional == in_use, action


def test_every_service_of_the_node_is_served_by_it_alone():
    """A policy that lets the node call others would let a fault in it reach them."""
    assert "request" not in allowed()
