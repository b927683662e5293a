"""The README says what the code does."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from loftr_ros.documentation import with_table
from loftr_ros.types import MotionState

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_table_of_parameters_is_that_of_the_code():
    assert with_table(README) == README, "run python -m loftr_ros.documentation"


def test_every_file_that_is_linked_exists():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert links and not missing


def test_topics_of_the_table_are_those_of_the_node():
    told = set(re.findall(r"^\| `([~/\w]+)` \| \w+/", README, re.MULTILINE))
    code = "".join((ROOT / "loftr_ros" / "ros" / name).read_text() for name in ("node.py", "outputs.py"))
    made = set(re.findall(r'create_(?:publisher|subscription)\(\w+, "([^"]+)"', code))
    assert told == made


def test_states_of_the_table_exist():
    told = set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE))
    assert told <= {state.value for state in MotionState}
    assert {"OK", "LOST", "STATIC"} <= told


def test_version_is_the_same_everywhere():
    version = ET.parse(ROOT / "package.xml").getroot().findtext("version")
    assert re.search(rf'version="{version}"', (ROOT / "setup.py").read_text())
    import loftr_ros

    assert loftr_ros.__version__ == version
