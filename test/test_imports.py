# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Imports go one way: the layout of the package, proven on its source and in fresh interpreters."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import loftr_ros

PACKAGE = Path(loftr_ros.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# What each part may import of the package, beside itself.
BASE = {"config", "types", "errors", "files", "imaging"}
ALLOWED = {
    "errors": set(),
    "threads": set(),
    "allocator": set(),
    "types": set(),
    "files": {"errors"},
    "config": {"errors", "files"},
    "documentation": {"config", "files"},
    "imaging": {"types", "errors"},
    "pictures": {"types", "errors"},
    "export": {"cli", "errors", "files", "loftr", "synthetic"},
    "places": set(),
    "cli": {"errors"},
    "loftr": {"config", "types", "errors"},
    "download_weights": {"cli", "errors", "loftr"},
    "matching": BASE | {"loftr", "threads", "allocator"},
    "geometry": {"config", "types", "errors", "files"},
    # The protocol of a matcher only, not an implementation: see the test below.
    "odometry": {"config", "types", "errors", "geometry", "matching", "places"},
    "synthetic": {"geometry", "types", "errors"},
    "viewer": {"types", "errors", "pictures", "geometry", "odometry"},
    "evaluation": BASE | {"cli", "pictures", "viewer", "loftr", "matching", "geometry", "odometry", "synthetic"},
    "ros": BASE
    | {"cli", "pictures", "places", "viewer", "loftr", "matching", "geometry", "odometry", "evaluation"}
    | {"synthetic", "uses", "threads", "allocator"},
    "uses": BASE
    | {"cli", "pictures", "places", "loftr", "matching", "geometry", "odometry", "evaluation", "synthetic"},
    "training": BASE
    | {"cli", "pictures", "loftr", "matching", "geometry", "odometry", "evaluation", "synthetic"},
}
MESSAGES = {
    "rclpy",
    "sensor_msgs",
    "nav_msgs",
    "geometry_msgs",
    "std_msgs",
    "std_srvs",
    "diagnostic_msgs",
    "tf2_msgs",
    "tf2_ros",
    "builtin_interfaces",
    "visualization_msgs",
    "rcl_interfaces",
    "rosgraph_msgs",
    "lifecycle_msgs",
    "launch_ros",
}


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> set[str]:
    """Dotted names of all modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively: write the whole name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_parts(file: Path) -> set[str]:
    """Parts of this package that a file imports; `loftr_ros` itself (its version) is no part."""
    parts = {name.split(".")[1] for name in imported(file) if name.startswith("loftr_ros.")}
    return parts - {part_of(file), "__version__"}


def test_the_source_is_found():
    assert len(FILES) > 30 and {"odometry", "loftr", "matching", "geometry"} <= {part_of(f) for f in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_no_file_imports_upward(file):
    part = part_of(file)
    if part == "__init__":
        assert imported_parts(file) == set()
        return
    assert part in ALLOWED, f"the layout has no place for {part}: add it here and to the design"
    assert imported_parts(file) <= ALLOWED[part]


@pytest.mark.parametrize("file", [f for f in FILES if part_of(f) == "odometry"], ids=lambda f: f.name)
def test_odometry_knows_only_the_protocol_of_a_matcher(file):
    of_matching = {name for name in imported(file) if name.startswith("loftr_ros.matching")}
    assert of_matching <= {"loftr_ros.matching.base.Matcher"}


@pytest.mark.parametrize(
    "file", [f for f in FILES if part_of(f) != "ros"], ids=lambda f: str(f.relative_to(PACKAGE))
)
def test_only_the_ros_folder_imports_ros(file):
    assert {name.split(".")[0] for name in imported(file)} & MESSAGES == set()


def test_the_ast_check_sees_what_it_should(tmp_path):
    source = "import os\ndef f():\n    from loftr_ros.ros.node import VoNode\n    import rclpy.qos\n"
    (tmp_path / "x.py").write_text(source)
    assert imported(tmp_path / "x.py") == {"os", "loftr_ros.ros.node.VoNode", "rclpy.qos"}


def loaded_after(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after a statement, but not before it."""
    code = (
        f"import sys; before = set(sys.modules); {statement}\n"
        "print(' '.join(sorted({name.split('.')[0] for name in set(sys.modules) - before})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return set(done.stdout.split())


def test_odometry_loads_neither_torch_nor_ros():
    loaded = loaded_after("import loftr_ros.odometry")
    assert "loftr_ros" in loaded and not loaded & {"torch", *MESSAGES}


def test_replay_loads_no_ros():
    loaded = loaded_after("import loftr_ros.evaluation.replay")
    assert "loftr_ros" in loaded and not loaded & MESSAGES
