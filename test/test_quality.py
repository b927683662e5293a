# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What the quality declaration claims, as far as it can be looked up."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("QUALITY_DECLARATION.md", "SECURITY.md", "CONTRIBUTING.md", "docs/mutation.md")


def script(name: str):
    """A module of scripts/."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def test_each_source_file_has_a_copyright_statement():
    assert script("copyright_statement").without() == [], "run python scripts/copyright_statement.py"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_of_the_documents_exist_and_the_readme_leads_to_them(name):
    text = (ROOT / name).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    assert [link for link in links if not ((ROOT / name).parent / link).exists()] == []
    assert f"]({name})" in (ROOT / "README.md").read_text()


def test_the_changelog_begins_with_the_version_of_the_package():
    version = ET.parse(ROOT / "package.xml").getroot().findtext("version")
    titles = re.findall(r"^(.+)\n-+$", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)
    assert titles[:2] == ["Forthcoming", f"{version} (2026-11-25)"]


def test_coverage_is_measured_with_the_limit_that_is_declared():
    project = (ROOT / "pyproject.toml").read_text()
    (limit,) = re.findall(r"^fail_under = (\d+)$", project, re.MULTILINE)
    assert limit == "90"
    for name in ("QUALITY_DECLARATION.md", "CONTRIBUTING.md"):
        assert f"at least {limit} %" in " ".join((ROOT / name).read_text().split())
    assert re.search(r'^omit = \["\*/loftr_ros/training/\*"\]', project, re.MULTILINE)


@pytest.mark.parametrize(
    "source, changed",
    [
        ("a < b", ["a <= b", "a > b"]),
        ("a + b", ["a - b"]),
        ("a and b", ["a or b"]),
        ("not a", ["a"]),
        ("3", ["4"]),
        ("0.5", ["1.0"]),
        ("0.0", ["1.0"]),
        ("True", ["False"]),
        ("-a", ["a"]),
        ("'text'", []),
        ("a is b", ["a is not b"]),
    ],
)
def test_small_faults_are_made_of_each_kind(source, changed):
    node = ast.parse(source, mode="eval").body
    assert [ast.unparse(variant) for variant in script("mutate").variants(node)] == changed


def test_faults_are_made_one_at_a_time_and_not_in_messages(tmp_path):
    path = tmp_path / "odometry" / "x.py"
    path.parent.mkdir()
    path.write_text(
        'def f(a: int) -> int:\n    if a < 2:\n        raise ValueError(f"{a + 1} is small")\n    return a * 3\n'
    )
    found = script("mutate").mutants(path)
    assert [text.split(": ", 1)[1] for text, _ in found] == [
        "a < 2 -> a <= 2",
        "a < 2 -> a > 2",
        "2 -> 3",
        "return a * 3 -> return None",
        "a * 3 -> a / 3",
        "3 -> 4",
    ]
    original = ast.unparse(ast.parse(path.read_text()))
    for _, source in found:
        differing = [pair for pair in zip(source.splitlines(), original.splitlines()) if pair[0] != pair[1]]
        assert len(differing) == 1
